//! Jobs that run on one replica at a time, and the installation's id.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use super::Database;
use crate::clock::Clock;
use crate::domain::InstallationId;

/// Claims a job for `lease` seconds of the database's time, unless another replica has it or it was completed less than
/// `every` seconds ago. A lease or completion that lies too far in the future, because the clock was set back, is
/// ignored. It is compared with `clock_timestamp()`, because another replica's lease may be newer than this
/// transaction's `now()`.
pub(crate) async fn claim_job(
    db: impl PgExecutor<'_>,
    name: &str,
    lease: f64,
    every: f64,
) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "insert into job as j (name, leased_until) values ($1, now() + make_interval(secs => $2)) \
         on conflict (name) do update set leased_until = excluded.leased_until \
         where (j.leased_until is null or j.leased_until < now() or j.leased_until > clock_timestamp() + make_interval(secs => $2)) \
           and (j.finished_at is null or j.finished_at <= now() - make_interval(secs => $3) or j.finished_at > clock_timestamp())",
    )
    .bind(name)
    .bind(lease)
    .bind(every)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Extends the lease of a claimed job to `lease` seconds from now.
pub(crate) async fn renew_job(db: impl PgExecutor<'_>, name: &str, lease: f64) -> sqlx::Result<()> {
    sqlx::query("update job set leased_until = now() + make_interval(secs => $2) where name = $1")
        .bind(name)
        .bind(lease)
        .execute(db)
        .await?;
    Ok(())
}

/// Releases a job; `finished` if it was completed.
pub(crate) async fn release_job(
    db: impl PgExecutor<'_>,
    name: &str,
    finished: bool,
) -> sqlx::Result<()> {
    sqlx::query(
        "update job set leased_until = null, finished_at = case when $2 then now() else finished_at end \
         where name = $1",
    )
    .bind(name)
    .bind(finished)
    .execute(db)
    .await?;
    Ok(())
}

/// Records the completion of a job without a lease.
pub(crate) async fn record_job(db: impl PgExecutor<'_>, name: &str) -> sqlx::Result<()> {
    sqlx::query(
        "insert into job (name, finished_at) values ($1, now()) \
         on conflict (name) do update set finished_at = excluded.finished_at",
    )
    .bind(name)
    .execute(db)
    .await?;
    Ok(())
}

/// Returns the id that marks this installation's connections at Nango, and whether its database is a copy of another's.
pub(crate) async fn installation(db: impl PgExecutor<'_>) -> sqlx::Result<(InstallationId, bool)> {
    sqlx::query_as("select id, is_copy from installation")
        .fetch_one(db)
        .await
}

impl Database {
    /// Returns a clock that follows the database's time.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn clock(&self) -> sqlx::Result<Clock> {
        let clock = Clock::database();
        clock.set_database_time(database_time(self).await?);
        Ok(clock)
    }
}

/// Returns the database's time.
pub(crate) async fn database_time(db: impl PgExecutor<'_>) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar("select clock_timestamp()")
        .fetch_one(db)
        .await
}
