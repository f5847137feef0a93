//! The columns and parameters of statements that write a connection.

use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::types::Json;

use crate::domain::{Connection, Reason};

/// The mutable columns of a connection, without the time of its last use, which is written with token accesses and when
/// the connection becomes connected.
macro_rules! mutable_columns {
    () => {
        "version, label, nango_connection_id, nango_created_at, status, status_reason, connected_at, \
         disconnected_at, config, last_error, error_count, updated_at, account_id, account_name, \
         pending_account_id, pending_account_name, failing_since, nango_serial, integration_key, provider, \
         last_checked_at"
    };
}

/// The parameters of [`mutable_columns`], bound by [`bind_connection`]. The first is the connection's id. The caller
/// supplies the expressions for the config (`$10`) and the time of the last check (`$22`).
macro_rules! mutable_values {
    (config $config:literal, checked $checked:literal) => {
        concat!(
            "$2, $3, $4, $5, $6, $7, $8, $9, ",
            $config,
            ", $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, ",
            $checked
        )
    };
}

/// The update of a connection, `c`, that still has the previous version. `$columns` are additional columns, and
/// `$values` their values.
///
/// A check is recorded without a new version, so the row may have a newer time than the one that was read. An unchanged
/// config keeps its storage, because an assignment would store it again with each change.
macro_rules! update_connection {
    ($columns:expr, $values:expr) => {
        concat!(
            "update user_connector_connection c set (",
            crate::db::writes::mutable_columns!(),
            ", refusals, absences",
            $columns,
            ") = (",
            crate::db::writes::mutable_values!(
                config "case when c.config::text = $10::jsonb::text then c.config else $10 end",
                checked "greatest(c.last_checked_at, $22)"
            ),
            // A connected connection that does not fail has no refusals.
            ", case when $6 = 'connected' and $18::timestamptz is null then '{}' else c.refusals end",
            // Another status, or a grant, is news of what Nango has.
            ", case when c.status = $6 and c.nango_connection_id = $4 and c.connected_at is not distinct from $8::timestamptz \
             then c.absences else '{}' end",
            $values,
            "), last_synced_at = greatest(c.last_synced_at, case when $6 = 'connected' then $8::timestamptz end) \
             where c.user_id = $23 and c.id = $1 and c.version = $2 - 1"
        )
    };
}

pub(crate) use {mutable_columns, mutable_values, update_connection};

/// Binds the first 23 parameters of a statement.
pub(crate) fn bind_connection<'q>(
    statement: Query<'q, Postgres, PgArguments>,
    connection: &Connection,
) -> Query<'q, Postgres, PgArguments> {
    let upstream = connection.state.upstream();
    let account = connection.account.as_ref();
    let pending = connection.pending_account.as_ref();
    statement
        .bind(connection.id)
        .bind(connection.version)
        .bind(&connection.label)
        .bind(upstream.map(|upstream| upstream.id.as_str()))
        .bind(upstream.map(|upstream| upstream.created_at))
        .bind(connection.state.status().as_str())
        .bind(connection.state.reason().map(Reason::as_str))
        .bind(connection.connected_at)
        .bind(connection.disconnected_at)
        .bind(Json(&connection.config))
        .bind(&connection.last_error)
        .bind(connection.error_count)
        .bind(connection.updated_at)
        .bind(account.map(|account| account.id.as_str()))
        .bind(account.and_then(|account| account.name.as_deref()))
        .bind(pending.map(|account| account.id.as_str()))
        .bind(pending.and_then(|account| account.name.as_deref()))
        .bind(connection.failing_since)
        .bind(upstream.and_then(|upstream| upstream.serial))
        .bind(upstream.map(|upstream| upstream.integration.key.as_str()))
        .bind(upstream.and_then(|upstream| upstream.integration.provider.as_deref()))
        .bind(connection.last_checked_at)
        .bind(connection.user_id.as_str())
}
