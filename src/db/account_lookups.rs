//! The queue of account look-ups.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use sqlx::types::Json;

use super::Transaction;
use crate::domain::{
    Account, AccountDetails, AccountUnknownReason, AttemptId, Connection, ConnectionId, EventKind,
    UserId,
};

/// A look-up that this replica has claimed.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct AccountLookup {
    pub(crate) connection_id: ConnectionId,
    user_id: String,
    /// The attempt that was granted.
    pub(crate) attempt_id: Option<AttemptId>,
    /// How many times the look-up has failed.
    pub(crate) failures: i32,
    queued_at: DateTime<Utc>,
}

impl AccountLookup {
    /// The connection's owner.
    pub(crate) fn user(&self) -> Option<UserId> {
        UserId::try_from(self.user_id.clone()).ok()
    }
}

/// Queues the look-up of a connection's account in `delay` seconds. Restarts a queued look-up.
pub(crate) async fn queue_account_lookup(
    db: impl PgExecutor<'_>,
    connection: &Connection,
    attempt: AttemptId,
    delay: f64,
) -> sqlx::Result<()> {
    sqlx::query(
        "insert into account_lookup (connection_id, user_id, attempt_id, due_at) \
         values ($1, $2, $3, now() + make_interval(secs => $4)) \
         on conflict (connection_id) do update set attempt_id = excluded.attempt_id, failures = 0, \
           queued_at = clock_timestamp(), due_at = excluded.due_at, leased_until = null",
    )
    .bind(connection.id)
    .bind(connection.user_id.as_str())
    .bind(attempt)
    .bind(delay)
    .execute(db)
    .await?;
    Ok(())
}

/// Queues look-ups for at most `limit` connected connections whose account was never looked up. Returns their number.
pub(crate) async fn queue_unidentified(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "insert into account_lookup (connection_id, user_id) \
         select c.id, c.user_id from user_connector_connection c \
         where c.status = 'connected' and c.account_id is null and c.account_unknown_reason is null \
           and not exists (select from account_lookup l where l.connection_id = c.id) \
         order by c.id limit $1 on conflict do nothing",
    )
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Claims at most `limit` due look-ups for `lease` seconds.
pub(crate) async fn claim_account_lookups(
    db: impl PgExecutor<'_>,
    limit: i64,
    lease: f64,
) -> sqlx::Result<Vec<AccountLookup>> {
    sqlx::query_as(
        "update account_lookup set leased_until = now() + make_interval(secs => $2) \
         where connection_id in ( \
           select connection_id from account_lookup \
           where due_at <= now() and (leased_until is null or leased_until < now()) \
           order by due_at limit $1 for update skip locked) \
         returning connection_id, user_id, attempt_id, failures, queued_at",
    )
    .bind(limit)
    .bind(lease)
    .fetch_all(db)
    .await
}

/// Deletes a look-up that has ended, unless it was queued again since.
pub(crate) async fn end_account_lookup(
    db: impl PgExecutor<'_>,
    lookup: &AccountLookup,
) -> sqlx::Result<()> {
    sqlx::query("delete from account_lookup where connection_id = $1 and queued_at = $2")
        .bind(lookup.connection_id)
        .bind(lookup.queued_at)
        .execute(db)
        .await?;
    Ok(())
}

/// Makes a look-up that has failed due again after `pause` seconds, unless it was queued again since.
pub(crate) async fn retry_account_lookup(
    db: impl PgExecutor<'_>,
    lookup: &AccountLookup,
    pause: f64,
) -> sqlx::Result<()> {
    sqlx::query(
        "update account_lookup set failures = failures + 1, leased_until = null, \
           due_at = now() + make_interval(secs => $3) \
         where connection_id = $1 and queued_at = $2",
    )
    .bind(lookup.connection_id)
    .bind(lookup.queued_at)
    .bind(pause)
    .execute(db)
    .await?;
    Ok(())
}

/// Returns whether a change of this kind may change the columns of [`write_identity`].
pub(super) fn changes_identity(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::Connected
            | EventKind::Reauthorized
            | EventKind::Disconnected
            | EventKind::AccountMismatched
            | EventKind::AccountAccepted
            | EventKind::AccountIdentified
    )
}

/// Writes the details of a connection's accounts and its scopes. The caller has locked the connection.
pub(crate) async fn write_identity(
    db: &mut Transaction,
    connection: &Connection,
) -> sqlx::Result<()> {
    let details = |account: &Option<Account>| {
        let details = account.as_ref().map(|account| account.details.clone());
        details
            .filter(|it| *it != AccountDetails::default())
            .map(Json)
    };
    sqlx::query(
        "update user_connector_connection set account_details = $2, pending_account_details = $3, \
           account_unknown_reason = $4, scopes = $5, missing_scopes = $6 where user_id = $7 and id = $1",
    )
    .bind(connection.id)
    .bind(details(&connection.account))
    .bind(details(&connection.pending_account))
    .bind(
        connection
            .account_unknown_reason
            .map(AccountUnknownReason::as_str),
    )
    .bind(&connection.scopes)
    .bind(&connection.missing_scopes)
    .bind(connection.user_id.as_str())
    .execute(db)
    .await?;
    Ok(())
}

/// Writes the scopes that an attempt requests instead of the integration's.
pub(crate) async fn write_attempt_scopes(
    db: &mut Transaction,
    user: &UserId,
    attempt: AttemptId,
    scopes: &[String],
) -> sqlx::Result<()> {
    sqlx::query("update connect_attempt set scopes = $3 where user_id = $1 and id = $2")
        .bind(user.as_str())
        .bind(attempt)
        .bind(scopes)
        .execute(db)
        .await?;
    Ok(())
}

/// Returns the scopes that an attempt requested instead of the integration's, if it did.
pub(crate) async fn attempt_scopes(
    db: impl PgExecutor<'_>,
    user: &UserId,
    attempt: AttemptId,
) -> sqlx::Result<Option<Vec<String>>> {
    let found: Option<Option<Vec<String>>> =
        sqlx::query_scalar("select scopes from connect_attempt where user_id = $1 and id = $2")
            .bind(user.as_str())
            .bind(attempt)
            .fetch_optional(db)
            .await?;
    Ok(found.flatten())
}

/// Returns the scopes that a connection's last granted attempt requested instead of the integration's, if it did.
pub(crate) async fn granted_attempt_scopes(
    db: impl PgExecutor<'_>,
    connection: &Connection,
) -> sqlx::Result<Option<Vec<String>>> {
    let found: Option<Option<Vec<String>>> = sqlx::query_scalar(
        "select scopes from connect_attempt where user_id = $1 and connection_id = $2 and outcome = 'succeeded' \
         order by id desc limit 1",
    )
    .bind(connection.user_id.as_str())
    .bind(connection.id)
    .fetch_optional(db)
    .await?;
    Ok(found.flatten())
}

/// Returns the number of connected connections without an account, by connector and reason.
pub(crate) async fn unknown_accounts(
    db: impl PgExecutor<'_>,
) -> sqlx::Result<Vec<(String, String, i64)>> {
    sqlx::query_as(
        "select k.slug, c.account_unknown_reason, count(*) from user_connector_connection c \
         join connector k on k.id = c.connector_id \
         where c.status = 'connected' and c.account_unknown_reason is not null \
         group by k.slug, c.account_unknown_reason order by k.slug, c.account_unknown_reason",
    )
    .fetch_all(db)
    .await
}
