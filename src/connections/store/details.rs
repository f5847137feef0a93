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
        let attempt = attempts.remove(&connection.id);
        Details::new(connection, attempt, &accounts)
    };
    Ok(connections.into_iter().map(details).collect())
}
