//! Connections with what else is shown of them.

use std::collections::HashMap;

use uuid::Uuid;

use super::{accounts_of, latest_attempts};
use crate::auth::UserId;
use crate::connections::{Attempt, Connection, Details, Transaction};

/// Adds to each connection how its last attempt went, and which others are the same account's.
pub(in crate::connections) async fn details(
    db: &mut Transaction,
    user: &UserId,
    connections: Vec<Connection>,
) -> sqlx::Result<Vec<Details>> {
    let ids: Vec<Uuid> = connections.iter().map(|connection| connection.id).collect();
    let attempts = latest_attempts(db, &ids).await?;
    let mut attempts: HashMap<Uuid, Attempt> = attempts
        .into_iter()
        .map(|attempt| (attempt.connection_id, attempt))
        .collect();
    let accounts = if connections
        .iter()
        .any(|connection| connection.account.is_some())
    {
        accounts_of(db, user).await?
    } else {
        Vec::new()
    };
    let details = |connection: Connection| {
        let same = |other: &&(Uuid, Uuid, String)| {
            other.0 != connection.id
                && other.1 == connection.connector.id
                && connection
                    .account
                    .as_ref()
                    .is_some_and(|account| account.id == other.2)
        };
        let same_account_as = accounts.iter().filter(same).map(|other| other.0).collect();
        Details {
            attempt: attempts.remove(&connection.id),
            same_account_as,
            connection,
        }
    };
    Ok(connections.into_iter().map(details).collect())
}
