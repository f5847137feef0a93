//! The worker of account look-ups. A look-up runs after its grant and is retried with backoff. Its failure never makes
//! a connection unusable.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Result;
use super::account::{AccountIdentifier, Identity, LookupFailure};
use super::core::Core;
use crate::db::{self, AccountLookup};
use crate::domain::{AccountUnknownReason, Connection, Reason, State};
use crate::nango::Priority;
use crate::telemetry::TRACES;

/// The maximum number of concurrent look-ups.
const MAX_CONCURRENT: usize = 8;

/// The time for which a run claims look-ups, and the interval between its claims.
const RUN_TIME: Duration = Duration::from_secs(20);
const CLAIM_INTERVAL: Duration = Duration::from_secs(2);

/// The timeout of a look-up, and its lease in seconds.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(15);
const LEASE_SECONDS: f64 = 90.0;

/// The maximum number of retries of a look-up. The pauses are 2 s, 8 s, 32 s, … and at most 6 h: about 21 h in total.
const MAX_RETRIES: i32 = 10;
const MAX_PAUSE_SECONDS: f64 = 6.0 * 3600.0;

/// The maximum number of connections without an account that one sweep queues.
const MAX_QUEUED_BY_SWEEP: i64 = 1000;

/// The queue of account look-ups, and its worker.
#[derive(Debug)]
pub struct AccountLookups {
    core: Arc<Core>,
    accounts: Arc<AccountIdentifier>,
}

impl AccountLookups {
    pub(crate) fn new(core: Arc<Core>, accounts: Arc<AccountIdentifier>) -> Self {
        Self { core, accounts }
    }

    /// Runs the due look-ups, until none is left or [`RUN_TIME`] has passed. Each look-up starts as soon as one of the
    /// concurrent ones has ended, so that a slow provider delays only its own look-ups. Returns the number of look-ups.
    ///
    /// # Errors
    /// If the database fails. A look-up that fails is retried later.
    #[tracing::instrument(target = TRACES, name = "look_up_accounts", skip_all)]
    pub async fn run_due(&self, stop: &CancellationToken) -> Result<usize> {
        Priority::AccountLookup.scope(self.run_lookups(stop)).await
    }

    async fn run_lookups(&self, stop: &CancellationToken) -> Result<usize> {
        let started = Instant::now();
        let mut running = FuturesUnordered::new();
        let (mut count, mut failed) = (0, None);
        loop {
            let is_ending = failed.is_some() || stop.is_cancelled() || started.elapsed() > RUN_TIME;
            let free = MAX_CONCURRENT - running.len();
            if !is_ending && free > 0 && self.core.has_room(Priority::AccountLookup) {
                // The claim may wait for a database connection that one of the running look-ups has.
                match poll_beside(self.claim_lookups(free), &mut running).await {
                    Ok(claimed) => {
                        count += claimed.len();
                        running.extend(claimed.into_iter().map(|lookup| self.try_lookup(lookup)));
                    }
                    Err(error) => failed = Some(error),
                }
            }
            tokio::select! {
                finished = running.next() => if finished.is_none() {
                    return failed.map_or(Ok(count), Err);
                },
                () = self.core.lookups.notified(), if !is_ending => {}
                () = tokio::time::sleep(CLAIM_INTERVAL) => {}
            }
        }
    }

    async fn claim_lookups(&self, limit: usize) -> Result<Vec<AccountLookup>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        Ok(db::claim_account_lookups(&self.core.database, limit, LEASE_SECONDS).await?)
    }

    /// Runs a look-up. If the database fails, the look-up is due again when its lease expires. It ends if its result
    /// cannot be stored.
    async fn try_lookup(&self, lookup: AccountLookup) {
        let Err(error) = self.run_lookup(&lookup).await else {
            return;
        };
        let connection = lookup.connection_id;
        if !error.concerns_one_row() {
            tracing::warn!(%connection, %error, "could not store an account look-up, will retry");
            return;
        }
        tracing::error!(%connection, %error, "the result of an account look-up cannot be stored");
        if let Err(error) = self.end_lookup(&lookup).await {
            tracing::warn!(%connection, %error, "could not end an account look-up, will retry");
        }
    }

    /// Waits until a look-up is queued by this replica.
    pub async fn wait(&self) {
        self.core.lookups.notified().await;
    }

    /// Queues look-ups of connections whose account was never looked up.
    pub(crate) async fn queue_unidentified(&self) -> Result<()> {
        let queued = db::queue_unidentified(&self.core.database, MAX_QUEUED_BY_SWEEP).await?;
        if queued > 0 {
            tracing::info!(queued, "queued account look-ups");
            self.core.lookups.notify_one();
        }
        Ok(())
    }

    async fn run_lookup(&self, lookup: &AccountLookup) -> Result<()> {
        let Some(connection) = self.connection_to_look_up(lookup).await? else {
            return self.end_lookup(lookup).await;
        };
        let Some(upstream) = connection.state.upstream() else {
            return self.end_lookup(lookup).await;
        };
        let attempt = lookup.attempt_id;
        let found = self.accounts.look_up(&connection, upstream, attempt, true);
        let timed_out = LookupFailure::transient(AccountUnknownReason::ProviderUnavailable);
        let found = tokio::time::timeout(LOOKUP_TIMEOUT, found).await;
        let found = found.unwrap_or_else(|_elapsed| Identity {
            failure: Some(timed_out),
            ..Identity::default()
        });
        let retries = found.failure.is_some_and(|failure| failure.is_transient)
            && lookup.failures < MAX_RETRIES;
        if let Some(failure) = found.failure {
            let (connector, reason) = (&connection.connector.slug, failure.reason.as_str());
            tracing::debug!(connection = %connection.id, connector, reason, retries, "account look-up failed");
        }
        self.apply_lookup(&connection, &found, retries).await?;
        if !retries {
            return self.end_lookup(lookup).await;
        }
        let pause = (2.0 * 4.0_f64.powi(lookup.failures)).min(MAX_PAUSE_SECONDS);
        Ok(db::retry_account_lookup(&self.core.database, lookup, pause).await?)
    }

    /// Returns the connection of a look-up, if it still has an account to look up.
    async fn connection_to_look_up(&self, lookup: &AccountLookup) -> Result<Option<Connection>> {
        let Some(user) = lookup.user() else {
            return Ok(None);
        };
        let connection = db::find_own(&self.core.database, &user, lookup.connection_id).await?;
        Ok(connection.filter(has_account))
    }

    async fn end_lookup(&self, lookup: &AccountLookup) -> Result<()> {
        Ok(db::end_account_lookup(&self.core.database, lookup).await?)
    }

    /// Stores the result of a look-up, unless the connection was authorized again since `snapshot` was read.
    async fn apply_lookup(
        &self,
        snapshot: &Connection,
        found: &Identity,
        retries: bool,
    ) -> Result<()> {
        let mut tx = self.core.begin().await?;
        let Some(mut connection) = db::lock_own(&mut tx, &snapshot.user_id, snapshot.id)
            .await?
            .filter(has_account)
        else {
            return Ok(());
        };
        let is_same = connection.state.upstream() == snapshot.state.upstream()
            && connection.connected_at == snapshot.connected_at;
        if !is_same {
            return Ok(());
        }
        let now = self.core.clock.now();
        let account = found.account.as_ref();
        if let Some(mut transition) =
            account.and_then(|account| connection.account_identified(account, now))
        {
            found.write_scopes(&mut transition.connection);
            db::apply(&mut tx, &transition, None).await?;
            return Ok(tx.commit().await?);
        }
        let before = connection.clone();
        found.write_scopes(&mut connection);
        if account.is_some() {
            connection.account_unknown_reason = None;
        } else if connection.account.is_none()
            && let Some(failure) = found.failure
            // While retries are left, a value that Nango has not written yet is not a failure.
            && !(retries && failure.reason == AccountUnknownReason::MissingConfig)
        {
            connection.account_unknown_reason = Some(failure.reason);
        }
        if connection != before {
            db::write_identity(&mut tx, &connection).await?;
        }
        Ok(tx.commit().await?)
    }
}

/// Returns the output of `future`. Meanwhile, polls the futures in `running` as well.
async fn poll_beside<T>(
    future: impl Future<Output = T>,
    running: &mut FuturesUnordered<impl Future<Output = ()>>,
) -> T {
    let mut future = pin!(future);
    loop {
        tokio::select! {
            output = &mut future => return output,
            Some(()) = running.next() => {}
        }
    }
}

impl Identity {
    /// Writes the scopes to a connection. If the look-up found none, the connection keeps its previous scopes.
    pub(crate) fn write_scopes(&self, connection: &mut Connection) {
        if self.scopes.is_some() {
            connection.scopes.clone_from(&self.scopes);
            connection.missing_scopes.clone_from(&self.missing_scopes);
        }
    }
}

fn has_account(connection: &Connection) -> bool {
    matches!(connection.state, State::Connected { .. })
        || connection.state.reason() == Some(Reason::AccountMismatch)
}
