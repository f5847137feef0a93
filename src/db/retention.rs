//! What is too old to be kept, some rows at a time.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Transaction;

/// How many rows of a bite are gone, and after which id the next one begins; `None` where nothing old follows.
pub(crate) type Batch<Id> = (i64, Option<Id>);

/// A statement that looks at the next rows of a table, and deletes those that are older than `$1` and not needed.
///
/// Ids and positions are given out in the order of time, so what is old comes first, and a walk by ids costs the same
/// wherever it is: what has to stay is passed over once in a walk, and not read again for each bite. The number
/// of rows stands in the statement, for the plan of one with a parameter is made for a tenth of the table.
/// Rows that somebody else has locked are left for the next walk, so that nobody waits for anybody in a circle.
macro_rules! prune_batch {
    ($table:literal, by $id:literal, $time:literal, $old:literal) => {
        concat!(
            "with bite as materialized (select user_id, ",
            $id,
            " as id, ",
            $time,
            " as since from ",
            $table,
            " where ",
            $id,
            " > $2 order by ",
            $id,
            " limit 1000), gone as ( \
               delete from ",
            $table,
            " where ctid = any(array(select o.ctid from bite join ",
            $table,
            " o on o.user_id = bite.user_id and o.",
            $id,
            " = bite.id ",
            $old,
            " for update of o skip locked)) returning 1 \
             ) \
             select (select count(*) from gone), \
               (select id from (select id, since from bite order by id offset 999) last where since < $1)",
        )
    };
}

/// Deletes uses of tokens from before this time.
pub(crate) async fn prune_token_accesses(
    db: &mut Transaction,
    before: DateTime<Utc>,
    after: i64,
) -> sqlx::Result<Batch<i64>> {
    sqlx::query_as(prune_batch!("token_access", by "id", "used_at", "where bite.since < $1"))
        .bind(before)
        .bind(after)
        .fetch_one(db)
        .await
}

/// Deletes attempts that ended before this time. A connection's newest stays, which its row shows.
pub(crate) async fn prune_attempts(
    db: &mut Transaction,
    before: DateTime<Utc>,
    after: Uuid,
) -> sqlx::Result<Batch<Uuid>> {
    sqlx::query_as(prune_batch!(
        "connect_attempt", by "id",
        "created_at",
        "join user_connector_connection c on c.user_id = o.user_id and c.id = o.connection_id \
         where o.ended_at < $1 and o.id <> c.attempt_id"
    ))
    .bind(before)
    .bind(after)
    .fetch_one(db)
    .await
}

/// Deletes events from before this time. A connection's last one stays, and so does what a webhook tells of,
/// whether it waits or is shown: its message is the event's, and would go with it.
pub(crate) async fn prune_events(
    db: &mut Transaction,
    before: DateTime<Utc>,
    after: i64,
) -> sqlx::Result<Batch<i64>> {
    sqlx::query_as(prune_batch!(
        "connection_event", by "position",
        "created_at",
        "join user_connector_connection c on c.user_id = o.user_id and c.id = o.connection_id \
         where o.created_at < $1 and o.version < c.version \
           and not exists (select from webhook_delivery d where d.user_id = o.user_id and d.event_id = o.id)"
    ))
    .bind(before)
    .bind(after)
    .fetch_one(db)
    .await
}
