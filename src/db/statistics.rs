//! Statistics for operators, each read by one statement of bounded cost.

use chrono::{DateTime, Utc};
use sqlx::FromRow;

use super::Transaction;
use super::rows::note_unreadable_row;

/// The number of rows up to which tables are counted exactly; beyond it, the planner's statistics provide an estimate.
/// A scan of this size takes about ten milliseconds.
const EXACT_COUNT_LIMIT: i64 = 50_000;

/// The number of rows up to which a queue is counted.
const QUEUE_COUNT_LIMIT: i64 = 10_000;

/// The length of a queue, and the creation time of its oldest entry.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct QueueStats {
    pub(crate) waiting: i64,
    pub(crate) oldest: Option<DateTime<Utc>>,
}

/// Limits the duration of each statement, for any size of the tables.
pub(crate) async fn set_statement_timeout(db: &mut Transaction) -> sqlx::Result<()> {
    sqlx::raw_sql("set local statement_timeout = '2s'")
        .execute(db)
        .await?;
    Ok(())
}

/// Returns the number of connections per status, exact while there are few. `None` if it is not known: there are many,
/// and the table has never been analyzed.
///
/// For many, the planner's statistics supply the numbers: the column's distribution and the table's size as of the
/// last `analyze`, which autovacuum runs. Counting a hundred million rows at each scrape would be the most expensive
/// query of the database.
pub(crate) async fn connections_by_status(
    db: &mut Transaction,
) -> sqlx::Result<Option<Vec<(String, i64)>>> {
    let few: bool = sqlx::query_scalar(
        "select not exists (select 1 from user_connector_connection offset $1 limit 1)",
    )
    .bind(EXACT_COUNT_LIMIT)
    .fetch_one(&mut *db)
    .await?;
    if few {
        let counted = sqlx::query_as(
            "select status, count(*) from user_connector_connection group by status",
        );
        return counted.fetch_all(db).await.map(Some);
    }
    let estimated: Vec<(String, i64)> = sqlx::query_as(
        "select s.status, (s.share * greatest(t.reltuples * grown.factor, $1::float8))::bigint \
         from pg_class t \
         join pg_stats p on p.schemaname = t.relnamespace::regnamespace::text \
           and p.tablename = t.relname and p.attname = 'status' \
         cross join lateral (select coalesce( \
           pg_relation_size(t.oid)::float8 / current_setting('block_size')::float8 / nullif(t.relpages, 0), 1) as factor) grown \
         cross join lateral unnest(p.most_common_vals::text::text[], p.most_common_freqs) as s(status, share) \
         where t.oid = 'user_connector_connection'::regclass",
    )
    .bind(EXACT_COUNT_LIMIT as f64)
    .fetch_all(db)
    .await?;
    Ok((!estimated.is_empty()).then_some(estimated))
}

/// Returns the number of connections, or a lower bound if it is not known.
pub(crate) async fn connection_count(db: &mut Transaction) -> sqlx::Result<i64> {
    let by_status = connections_by_status(db).await?;
    Ok(by_status.map_or(EXACT_COUNT_LIMIT, |counts| {
        counts.iter().map(|(_, count)| count).sum()
    }))
}

/// Counts a queue, `$from`, whose entries are named by `$id`.
macro_rules! queue_stats {
    ($id:literal, $from:literal) => {
        concat!(
            "select count(*) filter (where is_readable), min(created_at) filter (where is_readable), \
               min(id) filter (where not is_readable) \
             from (select created_at, ",
            $id,
            "::text as id, \
               created_at >= timestamptz '1970-01-01 00:00:00+00' \
                 and created_at < timestamptz '10000-01-01 00:00:00+00' as is_readable from ",
            $from,
            " limit $1) q"
        )
    };
}

/// Runs a statement of [`queue_stats`]. Entries that cannot be read are skipped, and one of them is logged.
async fn queue_stats(
    db: &mut Transaction,
    table: &str,
    statement: &'static str,
) -> sqlx::Result<QueueStats> {
    let (waiting, oldest, unreadable): (i64, Option<DateTime<Utc>>, Option<String>) =
        sqlx::query_as(statement)
            .bind(QUEUE_COUNT_LIMIT)
            .fetch_one(db)
            .await?;
    if let Some(id) = unreadable {
        let error = sqlx::Error::Decode("created_at is out of range".into());
        note_unreadable_row(table, &id, &error);
    }
    Ok(QueueStats { waiting, oldest })
}

/// Returns the statistics of pending deletions at Nango.
pub(crate) async fn deletion_queue(db: &mut Transaction) -> sqlx::Result<QueueStats> {
    let statement = queue_stats!(
        "nango_connection_id",
        "upstream_deletion order by next_attempt_at"
    );
    queue_stats(db, "upstream_deletion", statement).await
}

/// Returns the statistics of open attempts.
pub(crate) async fn attempt_queue(db: &mut Transaction) -> sqlx::Result<QueueStats> {
    let statement = queue_stats!("id", "connect_attempt where outcome is null");
    queue_stats(db, "connect_attempt", statement).await
}

/// Returns the statistics of webhook messages that have not been delivered.
pub(crate) async fn delivery_queue(db: &mut Transaction) -> sqlx::Result<QueueStats> {
    let statement = queue_stats!("id", "webhook_delivery where ended_at is null");
    queue_stats(db, "webhook_delivery", statement).await
}

/// Returns the number of seconds since a job was last completed; `None` if it never was.
pub(crate) async fn job_age(db: &mut Transaction, name: &str) -> sqlx::Result<Option<f64>> {
    let age: Option<Option<f64>> = sqlx::query_scalar(
        "select greatest(0, extract(epoch from now() - finished_at))::float8 from job \
         where name = $1 and isfinite(finished_at)",
    )
    .bind(name)
    .fetch_optional(db)
    .await?;
    Ok(age.flatten())
}

/// The numbers of enabled, failing and disabled webhook endpoints.
#[derive(Clone, Copy, Debug, Default, FromRow)]
pub(crate) struct EndpointStats {
    pub(crate) enabled: i64,
    pub(crate) failing: i64,
    pub(crate) disabled: i64,
}

/// Counts webhook endpoints by state. There are few.
pub(crate) async fn endpoint_stats(db: &mut Transaction) -> sqlx::Result<EndpointStats> {
    sqlx::query_as(
        "select count(*) filter (where off_since is null and failing_since is null) as enabled, \
           count(*) filter (where off_since is null and failing_since is not null) as failing, \
           count(*) filter (where off_since is not null) as disabled \
         from webhook_endpoint",
    )
    .fetch_one(db)
    .await
}
