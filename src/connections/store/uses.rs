//! The audit trail of tokens.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::connections::Transaction;
use crate::connections::uses::{PastUse, Times, Use};

/// Writes uses down, and when each connection was last used. Those of connections that are gone are gone, too.
pub(in crate::connections) async fn insert_uses(
    db: &mut Transaction,
    uses: &[(Use, Times)],
) -> sqlx::Result<()> {
    let ids: Vec<Uuid> = uses.iter().map(|(used, _)| used.connection_id).collect();
    let services: Vec<&str> = uses.iter().map(|(used, _)| used.service.as_str()).collect();
    let purposes: Vec<&str> = uses.iter().map(|(used, _)| used.purpose.as_str()).collect();
    let counts: Vec<i32> = uses.iter().map(|(_, times)| times.times).collect();
    let last: Vec<DateTime<Utc>> = uses.iter().map(|(_, times)| times.last).collect();
    sqlx::query(
        "insert into token_use (connection_id, user_id, service, purpose, times, used_at) \
         select c.id, c.user_id, u.service, u.purpose, u.times, u.used_at \
         from unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::timestamptz[]) \
           with ordinality as u(connection_id, service, purpose, times, used_at, nr) \
         join user_connector_connection c on c.id = u.connection_id order by u.nr",
    )
    .bind(&ids)
    .bind(&services)
    .bind(&purposes)
    .bind(&counts)
    .bind(&last)
    .execute(&mut *db)
    .await?;
    sqlx::query(
        "update user_connector_connection c set last_synced_at = u.used_at \
         from (select id, max(used_at) as used_at from unnest($1::uuid[], $2::timestamptz[]) as t(id, used_at) \
               group by id order by id) u \
         where c.id = u.id and (c.last_synced_at is null or c.last_synced_at < u.used_at)",
    )
    .bind(&ids)
    .bind(&last)
    .execute(db)
    .await?;
    Ok(())
}

/// A connection's uses before this one, the newest first.
pub(in crate::connections) async fn uses(
    db: &mut Transaction,
    connection: Uuid,
    before: Option<i64>,
    limit: i64,
) -> sqlx::Result<Vec<PastUse>> {
    sqlx::query_as(
        "select id, service, purpose, times, used_at from token_use \
         where connection_id = $1 and ($2::bigint is null or id < $2) order by id desc limit $3",
    )
    .bind(connection)
    .bind(before)
    .bind(limit)
    .fetch_all(db)
    .await
}
