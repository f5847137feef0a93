//! Deletes old rows, in batches.

use chrono::{DateTime, Utc};

use super::Database;
use crate::domain::AttemptId;

/// How many rows of a batch were deleted, and the id after which the next batch starts; `None` if no older rows
/// follow.
pub(crate) type Batch<Id> = (i64, Option<Id>);

/// A statement that reads the next rows of a table, and deletes those that are older than `$1` and not needed.
///
/// Ids and positions increase with time, so old rows come first, and a scan by id costs the same at any position: a
/// run skips a retained row once, and does not read it again for each batch. The number of rows is a literal in the
/// statement, because the plan for a parameter assumes a tenth of the table. Rows that another transaction has locked
/// are left for the next run, so that no deadlock occurs.
macro_rules! prune_batch {
    ($table:literal, by $id:literal, $time:literal, $old:literal) => {
        concat!(
            "with batch as materialized (select user_id, ",
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
            " where ctid = any(array(select o.ctid from batch join ",
            $table,
            " o on o.user_id = batch.user_id and o.",
            $id,
            " = batch.id ",
            $old,
            " for update of o skip locked)) returning 1 \
             ) \
             select (select count(*) from gone), \
               (select id from (select id, since from batch order by id offset 999) last where since < $1)",
        )
    };
}

/// Deletes token accesses from before this time.
pub(crate) async fn prune_token_accesses(
    db: &Database,
    before: DateTime<Utc>,
    after: i64,
) -> sqlx::Result<Batch<i64>> {
    sqlx::query_as(prune_batch!("token_access", by "id", "used_at", "where batch.since < $1"))
        .bind(before)
        .bind(after)
        .fetch_one(db)
        .await
}

/// Deletes attempts that ended before this time. Keeps a connection's newest attempt, of which the connection's row has
/// a copy.
pub(crate) async fn prune_attempts(
    db: &Database,
    before: DateTime<Utc>,
    after: AttemptId,
) -> sqlx::Result<Batch<AttemptId>> {
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

/// Deletes events older than `before`. Keeps a connection's last event, and the events of stored webhook messages,
/// pending or in the history: a message is deleted with its event.
pub(crate) async fn prune_events(
    db: &Database,
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
