//! Invariants that hold after all background work has completed.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use patchbay::nango::attempt_poller::{ATTEMPT_TAG, CONNECTION_TAG, INSTALLATION_TAG, USER_TAG};
use patchbay::nango::{self, ConnectionSummary, Credentials, ListConnections, Nango, Refresh};
use secrecy::ExposeSecret;
use sqlx::{Connection, FromRow, PgConnection};
use uuid::Uuid;

/// The page size of a list of Nango's connections.
const PAGE: u32 = 1000;

#[derive(FromRow)]
struct Row {
    id: Uuid,
    user_id: String,
    integration_key: Option<String>,
    status: String,
    status_reason: Option<String>,
    nango_connection_id: Option<String>,
    account_id: Option<String>,
    failing_since: Option<DateTime<Utc>>,
    last_error: Option<String>,
    error_count: i32,
    version: i64,
}

#[derive(FromRow)]
struct EventSummary {
    position: i64,
    connection_id: Uuid,
    version: i64,
    status: String,
    status_reason: Option<String>,
}

/// Returns a description of each violation; empty if there are none.
///
/// `deleted_elsewhere` contains Nango's ids of the connections that were deleted directly at Nango. Any other missing
/// connection is a violation.
pub(crate) async fn violations(
    sql: &mut PgConnection,
    nango: &Nango,
    deleted_elsewhere: &HashSet<String>,
) -> Vec<String> {
    // One snapshot, because attempts may expire during the queries to Nango.
    let one_moment = "begin isolation level repeatable read, read only";
    let mut sql = sql.begin_with(one_moment).await.unwrap();
    let sql: &mut PgConnection = &mut sql;
    let rows: Vec<Row> = sqlx::query_as("select * from user_connector_connection order by id")
        .fetch_all(&mut *sql)
        .await
        .unwrap();
    let ours = is_ours(sql, nango).await;
    let mut failures = Vec::new();
    // Replaced grants are kept until the new grant works.
    let kept: Vec<String> = sqlx::query_scalar(
        "select nango_connection_id from upstream_deletion d where reason = 'replaced' and exists ( \
           select from user_connector_connection c where c.user_id = d.user_id and c.id = d.connection_id \
             and c.status in ('error', 'pending'))",
    )
    .fetch_all(&mut *sql)
    .await
    .unwrap();
    let unexpected = ours
        .values()
        .filter(|connection| !kept.contains(&connection.connection_id));
    for connection in unexpected {
        orphan(connection, &rows, &mut failures);
    }
    for row in &rows {
        let stored = row.nango_connection_id.as_ref().and_then(|id| ours.get(id));
        matches_nango(row, stored, nango, deleted_elsewhere, &mut failures).await;
        errors(row, &mut failures);
    }
    attempts(sql, &ours, &mut failures).await;
    copies(sql, &mut failures).await;
    events(sql, &rows, &mut failures).await;
    let left: i64 = sqlx::query_scalar("select count(*) from upstream_deletion")
        .fetch_one(sql)
        .await
        .unwrap();
    if left > i64::try_from(kept.len()).unwrap() {
        failures.push(format!("{left} connections wait to be deleted at Nango"));
    }
    failures
}

/// Returns this installation's connections at Nango, by Nango's ids.
async fn is_ours(sql: &mut PgConnection, nango: &Nango) -> HashMap<String, ConnectionSummary> {
    let installation: Uuid = sqlx::query_scalar("select id from installation")
        .fetch_one(sql)
        .await
        .unwrap();
    let tags = [(INSTALLATION_TAG.to_owned(), installation.to_string())];
    let mut ours = HashMap::new();
    for page in 0.. {
        let filter = ListConnections {
            tags: tags.clone().into(),
            limit: Some(PAGE),
            page: Some(page),
            ..ListConnections::default()
        };
        let found = nango.connections(&filter).await.unwrap();
        let last = found.len() < PAGE as usize;
        ours.extend(
            found
                .into_iter()
                .map(|one| (one.connection_id.clone(), one)),
        );
        if last {
            break;
        }
    }
    ours
}

/// Checks that a connection of this installation at Nango belongs to a row.
fn orphan(connection: &ConnectionSummary, rows: &[Row], violations: &mut Vec<String>) {
    let id = &connection.connection_id;
    let tag = connection.tags.get(CONNECTION_TAG);
    let row = rows.iter().find(|row| Some(&row.id.to_string()) == tag);
    match row {
        None => {
            let user = connection.tags.get(USER_TAG).map_or("no user", |user| user);
            violations.push(format!("Nango holds {id} of {user}, of no row at all"));
        }
        Some(row) if row.nango_connection_id.as_ref() != Some(id) => violations.push(format!(
            "Nango holds {id} for {}, which is {} and holds {:?}",
            row.id, row.status, row.nango_connection_id
        )),
        Some(_) => {}
    }
}

/// Checks that a row's status matches Nango's connection.
async fn matches_nango(
    row: &Row,
    stored: Option<&ConnectionSummary>,
    nango: &Nango,
    deleted_elsewhere: &HashSet<String>,
    violations: &mut Vec<String>,
) {
    let mut complain = |what: &str| {
        let reason = row.status_reason.as_deref().unwrap_or("no reason");
        violations.push(format!(
            "{} is {} ({reason}), but {what}",
            row.id, row.status
        ));
    };
    if let Some(stored) = stored
        && (Some(&stored.provider_config_key) != row.integration_key.as_ref()
            || stored.tags.get(USER_TAG) != Some(&row.user_id)
            || stored.tags.get(CONNECTION_TAG) != Some(&row.id.to_string()))
    {
        complain("Nango holds it as something else");
    }
    let refreshed = match stored {
        Some(stored) => {
            let (id, key) = (&stored.connection_id, &stored.provider_config_key);
            Some(nango.connection(id, key, Refresh::Force).await)
        }
        None => None,
    };
    match (row.status.as_str(), refreshed) {
        ("connected", Some(Ok(connection))) => {
            let account = account(&connection);
            if row.account_id.is_some() && row.account_id != account {
                complain(&format!(
                    "is {:?}'s, and its tokens {account:?}'s",
                    row.account_id
                ));
            }
        }
        ("disconnected" | "pending", None) => {}
        ("connected", Some(Err(error))) => complain(&format!("does not refresh: {error}")),
        ("connected", None) => complain("Nango does not hold it"),
        ("error", Some(Ok(_))) if row.status_reason.as_deref() == Some("account_mismatch") => {}
        ("error", Some(Err(nango::Error::InvalidCredentials { .. }))) => {}
        ("error", Some(Ok(_))) => complain("Nango holds and refreshes it"),
        ("error", None) => match &row.nango_connection_id {
            Some(id) if !deleted_elsewhere.contains(id) => {
                complain(&format!(
                    "{id} is gone from Nango but was not deleted there"
                ));
            }
            _ => {}
        },
        (_, answer) => complain(&format!("Nango says {answer:?}")),
    }
}

/// Returns the account of a connection's tokens, from the sandbox's provider.
fn account(connection: &nango::Connection) -> Option<String> {
    let Credentials::OAuth2 { raw, .. } = &connection.credentials else {
        return None;
    };
    let raw: serde_json::Value = serde_json::from_str(raw.expose_secret()).unwrap();
    Some(raw["account"]["id"].as_str()?.to_owned())
}

/// Checks that a row has an error if and only if it has an error count.
fn errors(row: &Row, violations: &mut Vec<String>) {
    if (row.error_count > 0) != row.last_error.is_some() {
        violations.push(format!(
            "{} counts {} errors and says {:?}",
            row.id, row.error_count, row.last_error
        ));
    }
    if row.status == "error" && row.last_error.is_none() {
        violations.push(format!("{} is in error and does not say why", row.id));
    }
    if row.failing_since.is_some() && (row.status != "connected" || row.error_count == 0) {
        violations.push(format!(
            "{} is failing, but {} and without errors",
            row.id, row.status
        ));
    }
}

/// Checks that a pending connection has one open attempt, and that Nango has no grant of it.
async fn attempts(
    sql: &mut PgConnection,
    ours: &HashMap<String, ConnectionSummary>,
    violations: &mut Vec<String>,
) {
    let waiting: Vec<(Uuid, String, Vec<Uuid>)> = sqlx::query_as(
        "select c.id, c.status, array(select a.id from connect_attempt a \
           where a.user_id = c.user_id and a.connection_id = c.id and a.outcome is null) from user_connector_connection c",
    )
    .fetch_all(sql)
    .await
    .unwrap();
    for (id, status, open) in waiting {
        if open.len() > 1 || (status == "pending" && open.is_empty()) {
            violations.push(format!(
                "{id} is {status} with {} open attempts",
                open.len()
            ));
        }
        for attempt in open {
            let granted =
                |one: &&ConnectionSummary| one.tags.get(ATTEMPT_TAG) == Some(&attempt.to_string());
            if let Some(granted) = ours.values().find(granted) {
                let nango_id = &granted.connection_id;
                violations.push(format!(
                    "{id} waits for {attempt}, which brought {nango_id}"
                ));
            }
        }
    }
}

/// Checks that each connection's row has a copy of its newest attempt, and that each open attempt has an owner.
async fn copies(sql: &mut PgConnection, violations: &mut Vec<String>) {
    let copied = "select c.id::text || ' has a copy of ' || coalesce(c.attempt_id::text, 'nothing') \
           || ' and not of ' || coalesce(a.id::text, 'nothing') \
         from user_connector_connection c left join lateral ( \
           select * from connect_attempt where user_id = c.user_id and connection_id = c.id \
           order by created_at desc, id desc limit 1 \
         ) a on true \
         where (c.attempt_id, c.attempt_kind, c.attempt_expires_at, c.attempt_outcome, c.attempt_error_code, \
             c.attempt_error_message, c.attempt_invalidated, c.attempt_created_at, c.attempt_ended_at, \
             c.attempt_returned) \
           is distinct from (a.id, a.kind, a.expires_at, a.outcome, a.error_code, \
             a.error_message, a.invalidated, a.created_at, a.ended_at, \
             case when a.browser_token_hash is not null then a.returned_at is not null end)";
    let owned = "select id::text || ' is open, and has no owner' from connect_attempt a \
         where outcome is null and not exists ( \
           select from attempt_owner o where o.attempt_id = a.id and o.user_id = a.user_id \
             and o.connection_id = a.connection_id and o.due_at = a.expires_at)";
    for query in [copied, owned] {
        let found: Vec<String> = sqlx::query_scalar(query)
            .fetch_all(&mut *sql)
            .await
            .unwrap();
        violations.extend(found);
    }
}

/// Checks that each connection's events are a chain without gaps that ends with the row's version.
async fn events(sql: &mut PgConnection, rows: &[Row], violations: &mut Vec<String>) {
    let reported: Vec<EventSummary> =
        sqlx::query_as("select * from connection_event order by connection_id, version")
            .fetch_all(sql)
            .await
            .unwrap();
    for row in rows {
        let of_row: Vec<&EventSummary> = reported
            .iter()
            .filter(|event| event.connection_id == row.id)
            .collect();
        let versions: Vec<i64> = of_row.iter().map(|event| event.version).collect();
        if !versions.iter().copied().eq(1..=row.version) {
            violations.push(format!(
                "{} has version {}, its events {versions:?}",
                row.id, row.version
            ));
        }
        if !of_row.is_sorted_by_key(|event| event.position) {
            violations.push(format!(
                "{}'s events came in another order than its versions",
                row.id
            ));
        }
        let last = of_row
            .last()
            .map(|event| (&event.status, &event.status_reason));
        if last != Some((&row.status, &row.status_reason)) {
            violations.push(format!(
                "{} is {}, its last event says {last:?}",
                row.id, row.status
            ));
        }
    }
}
