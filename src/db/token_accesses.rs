//! The audit trail of tokens.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgExecutor;
use strum::IntoStaticStr;
use utoipa::ToSchema;

use super::batch::BatchQuery;
use super::rows::readable;
use crate::domain::{ConnectionId, UserId};

/// The purpose of a token access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Purpose {
    /// The token was issued.
    Token,
    /// A call was made with the token.
    Proxy,
}

/// An access to the credentials of a connection.
#[derive(Clone, Debug, Serialize, ToSchema, sqlx::FromRow)]
#[schema(as = TokenAccess)]
pub struct RecordedAccess {
    /// An id that increases with each access.
    #[serde(skip)]
    pub id: i64,
    /// The name of the service's key.
    pub service: String,
    /// `token` if the service received a token, `proxy` if it called the provider. More values may be added.
    pub purpose: String,
    /// The number of accesses of this service and purpose within the same second.
    pub count: i32,
    /// When the last of these accesses happened.
    pub used_at: DateTime<Utc>,
}

/// An access to record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Used {
    pub(crate) user: UserId,
    pub(crate) connection: ConnectionId,
    /// Nango's id of the grant that is used.
    pub(crate) nango_id: String,
    pub(crate) service: String,
    pub(crate) purpose: Purpose,
    pub(crate) at: DateTime<Utc>,
}

impl Used {
    /// Returns the connection and its grant.
    fn grant(&self) -> (&str, ConnectionId, &str) {
        (self.user.as_str(), self.connection, self.nango_id.as_str())
    }
}

/// Writes token accesses.
///
/// The newest accesses are read by the whole primary key. If most accesses are of one connection, PostgreSQL would
/// search those of another one in the index for pruning, which has all of them.
///
/// A new row needs a lock that the foreign key takes, too. A connection whose lock an erasure or a disconnect holds
/// has no access, because those of other users would wait for it.
const RECORD: &str = "with used as materialized ( \
       select c.user_id, c.id, c.nango_connection_id as nango_id, u.service, u.purpose, \
         count(*)::int as count, max(u.at) as at \
       from unnest((select $1::text[]), (select $2::uuid[]), (select $6::text[]), (select $3::text[]), \
           (select $4::text[]), (select $5::timestamptz[])) as u (user_id, id, nango_id, service, purpose, at) \
       join user_connector_connection c on c.user_id = u.user_id and c.id = u.id \
         and c.status = 'connected' and c.nango_connection_id = u.nango_id \
       group by c.user_id, c.id, c.nango_connection_id, u.service, u.purpose, date_trunc('second', u.at) \
     ), shown as ( \
       update user_connector_connection c set last_synced_at = last.at from ( \
         select l.user_id, l.id, u.at from (select user_id, id, max(at) as at from used group by user_id, id) u \
         join user_connector_connection l on l.user_id = u.user_id and l.id = u.id \
         where l.last_synced_at is null or date_trunc('second', l.last_synced_at) < date_trunc('second', u.at) \
         for no key update of l skip locked) last \
       where c.user_id = last.user_id and c.id = last.id \
     ), same as materialized ( \
       select u.user_id, u.id, u.service, u.purpose, u.at, u.count, last.id as row_id \
       from used u cross join lateral ( \
         select * from (select * from token_access t \
                        where (t.user_id, t.connection_id, t.id) <= (u.user_id, u.id, 9223372036854775807) \
                        order by t.user_id desc, t.connection_id desc, t.id desc limit 8) t \
         where t.user_id = u.user_id and t.connection_id = u.id and t.service = u.service and t.purpose = u.purpose \
           and date_trunc('second', t.used_at) = date_trunc('second', u.at) \
         order by t.id desc limit 1) last \
     ), counted as ( \
       update token_access t set count = t.count + same.count, used_at = greatest(t.used_at, same.at) \
       from same where t.user_id = same.user_id and t.connection_id = same.id and t.id = same.row_id \
     ), new as materialized ( \
       select * from used u \
       where not exists (select from same s where (s.user_id, s.id, s.service, s.purpose, s.at) \
                           = (u.user_id, u.id, u.service, u.purpose, u.at)) \
     ), locked as materialized ( \
       select new.* from new join user_connector_connection c on c.user_id = new.user_id and c.id = new.id \
         and c.status = 'connected' and c.nango_connection_id = new.nango_id \
       for key share of c skip locked \
     ), written as ( \
       insert into token_access (user_id, connection_id, service, purpose, count, used_at) \
       select user_id, id, service, purpose, count, at from locked order by at \
     ) \
     select user_id, id, nango_id from used except \
     select user_id, id, nango_id from (table new except table locked) skipped";

impl BatchQuery for Used {
    /// `true` if the access was recorded: the connection is connected with the same grant.
    type Output = bool;

    /// Writes token accesses, and the last use of each connection.
    ///
    /// A connection that was disconnected or granted again since it was read has no access.
    ///
    /// Accesses of the same connection, service and purpose within a second are one row, and a connection's row shows
    /// the first of a second: a workflow with a hundred requests a second does not write a hundred rows. The statement
    /// does not wait for a concurrent change of a connection: it skips that row, which then shows the next access.
    async fn load_many<'c>(
        db: impl PgExecutor<'c>,
        used: &[Self],
    ) -> sqlx::Result<Vec<Self::Output>> {
        let users: Vec<&str> = used.iter().map(|used| used.user.as_str()).collect();
        let ids: Vec<ConnectionId> = used.iter().map(|used| used.connection).collect();
        let nango_ids: Vec<&str> = used.iter().map(|used| used.nango_id.as_str()).collect();
        let services: Vec<&str> = used.iter().map(|used| used.service.as_str()).collect();
        let purposes: Vec<&str> = used.iter().map(|used| used.purpose.into()).collect();
        let times: Vec<DateTime<Utc>> = used.iter().map(|used| used.at).collect();
        let written: Vec<(String, ConnectionId, String)> = sqlx::query_as(RECORD)
            .bind(users)
            .bind(ids)
            .bind(services)
            .bind(purposes)
            .bind(times)
            .bind(nango_ids)
            .fetch_all(db)
            .await?;
        let written: HashSet<(&str, ConnectionId, &str)> = written
            .iter()
            .map(|(user, id, nango_id)| (user.as_str(), *id, nango_id.as_str()))
            .collect();
        let answer = |used: &Self| written.contains(&used.grant());
        Ok(used.iter().map(answer).collect())
    }
}

/// Returns a connection's accesses before `before`, newest first.
pub(crate) async fn token_accesses(
    db: impl PgExecutor<'_>,
    user: &UserId,
    connection: ConnectionId,
    before: Option<i64>,
    limit: i64,
) -> sqlx::Result<Vec<RecordedAccess>> {
    let rows = sqlx::query_as(
        "select id, service, purpose, count, used_at from token_access \
         where user_id = $1 and connection_id = $2 and id < $3 order by id desc limit $4",
    )
    .bind(user.as_str())
    .bind(connection)
    // Never null, because PostgreSQL would evaluate a nullable condition row by row.
    .bind(before.unwrap_or(i64::MAX))
    .bind(limit)
    .fetch_all(db)
    .await?;
    Ok(readable("token_access", rows))
}
