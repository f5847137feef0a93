//! The only polling loop of the tests.

use std::fmt::Debug;
use std::panic::Location;
use std::time::{Duration, Instant};

use sqlx::PgConnection;

/// The timeout of each wait, for a busy machine.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(120);

/// Waits until a condition holds.
#[track_caller]
pub(crate) fn eventually(holds: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let value = eventually_value(holds, |holds| *holds);
    async {
        value.await;
    }
}

/// Waits until a value is the expected one. Returns it. On timeout, the panic shows the last value.
#[track_caller]
pub(crate) fn eventually_value<T: Debug>(
    mut read: impl AsyncFnMut() -> T,
    is_expected: impl Fn(&T) -> bool,
) -> impl Future<Output = T> {
    let caller = Location::caller();
    // Boxed, because tests await it in deeply nested futures on a stack of 2 MiB.
    Box::pin(async move {
        let started = Instant::now();
        loop {
            let value = read().await;
            if is_expected(&value) {
                return value;
            }
            assert!(
                started.elapsed() < TIMEOUT,
                "{caller}: not within {TIMEOUT:?}, last {value:#?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}

/// Waits until a statement waits for a lock in this connection's database.
#[track_caller]
pub(crate) fn eventually_locked(sql: &mut PgConnection) -> impl Future<Output = ()> {
    eventually(async move || {
        // Within a transaction, `pg_stat_activity` stays the same until its snapshot is cleared.
        sqlx::raw_sql("select pg_stat_clear_snapshot()")
            .execute(&mut *sql)
            .await
            .unwrap();
        sqlx::query_scalar(
            "select exists (select from pg_stat_activity \
             where datname = current_database() and wait_event_type = 'Lock')",
        )
        .fetch_one(&mut *sql)
        .await
        .unwrap()
    })
}
