//! What is read most, for many at once.

use std::cmp::Reverse;
use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use super::attempts::AttemptRow;
use super::{ConnectionRow, Corrupt, connection_columns};
use crate::auth::UserId;
use crate::connections::gather::Question;
use crate::connections::{Attempt, Connection};

/// A connection with the newest attempt to authorize it.
pub(in crate::connections) type Seen = (Connection, Option<Attempt>);

/// A user's newest connections, the newest first: [`MOST`](Self::MOST) of them.
#[derive(Clone, Debug)]
pub(in crate::connections) struct Newest(pub(in crate::connections) UserId);

impl Newest {
    /// One more than a user is expected to have: with fewer, there are no others.
    pub(in crate::connections) const MOST: usize = 101;
}

/// One connection of a user.
#[derive(Clone, Debug)]
pub(in crate::connections) struct One(
    pub(in crate::connections) UserId,
    pub(in crate::connections) Uuid,
);

/// A select of connections with their connector's names and their newest attempt, of what `$from` calls `c`.
macro_rules! select_seen {
    ($from:literal) => {
        concat!(
            "select ",
            connection_columns!(),
            ", a.id as attempt_id, a.kind as attempt_kind, a.expires_at, a.outcome, a.error_code, \
               a.error_message, a.void, case when a.browser is not null then a.returned_at is not null end as returned, \
               a.created_at as attempt_created_at, a.ended_at from ",
            $from,
            " join connector k on k.id = c.connector_id \
             left join lateral (select * from connect_attempt where connection_id = c.id \
               order by created_at desc, id desc limit 1) a on true"
        )
    };
}

impl Question for Newest {
    type Answer = Vec<Seen>;

    async fn ask<'c>(db: impl PgExecutor<'c>, users: &[Self]) -> sqlx::Result<Vec<Vec<Seen>>> {
        let mut names: Vec<&str> = users.iter().map(|Self(user)| user.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let names_asked = names.len();
        let rows: Vec<SeenRow> = sqlx::query_as(select_seen!(
            "unnest($1::text[]) as asked (name) cross join lateral ( \
               select * from user_connector_connection where user_id = asked.name order by id desc limit 101) c"
        ))
        .bind(names)
        .fetch_all(db)
        .await?;
        let mut of_user: HashMap<UserId, Vec<Seen>> = HashMap::with_capacity(users.len());
        for row in rows {
            let seen = row.seen()?;
            of_user
                .entry(seen.0.user_id.clone())
                .or_default()
                .push(seen);
        }
        for connections in of_user.values_mut() {
            connections.sort_unstable_by_key(|(connection, _)| Reverse(connection.id));
        }
        let several_ask_for_one = names_asked < users.len();
        let answer = |Self(user): &Self| match several_ask_for_one {
            true => of_user.get(user).cloned(),
            false => of_user.remove(user),
        };
        Ok(users
            .iter()
            .map(answer)
            .map(Option::unwrap_or_default)
            .collect())
    }
}

impl Question for One {
    type Answer = Option<Seen>;

    async fn ask<'c>(db: impl PgExecutor<'c>, ones: &[Self]) -> sqlx::Result<Vec<Option<Seen>>> {
        let (names, ids): (Vec<&str>, Vec<Uuid>) = ones
            .iter()
            .map(|Self(user, id)| (user.as_str(), *id))
            .unzip();
        let rows: Vec<SeenRow> = sqlx::query_as(select_seen!(
            "(select distinct * from unnest($1::text[], $2::uuid[]) as pair (user_id, id)) asked \
             join user_connector_connection c on c.id = asked.id and c.user_id = asked.user_id"
        ))
        .bind(names)
        .bind(ids)
        .fetch_all(db)
        .await?;
        let mut by_id: HashMap<Uuid, Seen> = HashMap::with_capacity(rows.len());
        for row in rows {
            let seen = row.seen()?;
            by_id.insert(seen.0.id, seen);
        }
        // One that is there is whoever's asked for it and owns it, which need not be this one.
        let answer = |Self(user, id): &Self| {
            by_id
                .get(id)
                .filter(|(connection, _)| connection.user_id == *user)
                .cloned()
        };
        Ok(ones.iter().map(answer).collect())
    }
}

#[derive(FromRow)]
struct SeenRow {
    #[sqlx(flatten)]
    connection: ConnectionRow,
    attempt_id: Option<Uuid>,
    attempt_kind: Option<String>,
    expires_at: Option<DateTime<Utc>>,
    outcome: Option<String>,
    error_code: Option<String>,
    error_message: Option<String>,
    void: Option<bool>,
    returned: Option<bool>,
    attempt_created_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
}

impl SeenRow {
    fn seen(self) -> Result<Seen, Corrupt> {
        let attempt = match (
            self.attempt_id,
            self.attempt_kind,
            self.expires_at,
            self.attempt_created_at,
        ) {
            (Some(id), Some(kind), Some(expires_at), Some(created_at)) => Some(AttemptRow {
                id,
                connection_id: self.connection.id,
                kind,
                expires_at,
                outcome: self.outcome,
                error_code: self.error_code,
                error_message: self.error_message,
                void: self.void.unwrap_or_default(),
                returned: self.returned,
                created_at,
                ended_at: self.ended_at,
            }),
            _ => None,
        };
        Ok((
            self.connection.try_into()?,
            attempt.map(Attempt::try_from).transpose()?,
        ))
    }
}
