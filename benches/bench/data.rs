//! Users with connections, and tokens of some of them.

use std::error::Error;
use std::str::FromStr;

use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};

/// The number of connections of each user.
pub(crate) const CONNECTIONS: u32 = 10;

/// The connectors of each user's connections.
pub(crate) const CONNECTORS: [&str; CONNECTIONS as usize] = [
    "gmail",
    "github",
    "gitlab",
    "notion",
    "asana",
    "box",
    "airtable",
    "bitbucket",
    "hubspot",
    "dropbox",
];

/// The secret that signs users' tokens.
pub(crate) const JWT_SECRET: &str = "a secret of the benchmark that has 32 bytes and more";

/// How the rows of a database were inserted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// As the service writes them: each connection with the attempt that connected it.
    WithAttempts,
    /// As a product's own import does: no attempt, label or config.
    Bare,
}

/// Creates a database with this many users, unless an earlier run has. Returns its URL.
///
/// # Errors
/// The server's error.
pub(crate) async fn database(
    server: &str,
    users: u32,
    kind: Rows,
) -> Result<String, Box<dyn Error>> {
    let name = match kind {
        Rows::WithAttempts => format!("bench_{users}"),
        Rows::Bare => format!("bench_bare_{users}"),
    };
    let options = PgConnectOptions::from_str(server)?;
    let mut admin = options.connect().await?;
    let there: bool =
        sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(&name)
            .fetch_one(&mut admin)
            .await?;
    let mut url = url::Url::parse(server)?;
    url.set_path(&name);
    if !there {
        let making = format!("making_{name}");
        let again = sqlx::AssertSqlSafe(format!("drop database if exists {making}"));
        sqlx::raw_sql(again).execute(&mut admin).await?;
        let create = sqlx::AssertSqlSafe(format!("create database {making}"));
        sqlx::raw_sql(create).execute(&mut admin).await?;
        let mut unfinished = url.clone();
        unfinished.set_path(&making);
        fill(unfinished.as_str(), users, kind).await?;
        let keep = sqlx::AssertSqlSafe(format!("alter database {making} rename to {name}"));
        sqlx::raw_sql(keep).execute(&mut admin).await?;
    }
    admin.close().await?;
    let mut connection = PgConnection::connect(url.as_str()).await?;
    // The fake Nango has only some of these connections, so a sweep would report the others as missing.
    sqlx::raw_sql(
        "insert into job (name, finished_at) values ('sweep', '9999-12-31') \
         on conflict (name) do update set finished_at = excluded.finished_at; \
         update installation set nango_confirmed_at = now(); checkpoint",
    )
    .execute(&mut connection)
    .await?;
    connection.close().await?;
    Ok(url.into())
}

async fn fill(url: &str, users: u32, kind: Rows) -> Result<(), Box<dyn Error>> {
    println!("making {users} users with {CONNECTIONS} connections each");
    let config = patchbay::db::DatabaseConfig {
        url: url.to_owned().into(),
        pool_size: 2,
        startup_timeout: std::time::Duration::ZERO,
    };
    let database = patchbay::db::Database::connect(&config).await?;
    database.migrate().await?;
    let mut connection = PgConnection::connect(url).await?;
    let ids = CONNECTORS.map(patchbay::catalog::Connector::id_of);
    // The service adds the other columns' values at its start.
    sqlx::query(
        "insert into connector (id, slug, name, category, integration_key, enabled, manifest) \
         select id, slug, slug, '', slug, true, '{}' from unnest($1::uuid[], $2::text[]) as row (id, slug)",
    )
    .bind(&ids[..])
    .bind(&CONNECTORS[..])
    .execute(&mut connection)
    .await?;
    sqlx::raw_sql("set synchronous_commit = off")
        .execute(&mut connection)
        .await?;
    for made in (0..users).step_by(100_000) {
        let until = (made + 100_000).min(users);
        let rows = match kind {
            Rows::WithAttempts => rows(made + 1, until),
            Rows::Bare => bare_rows(made + 1, until),
        };
        sqlx::query(sqlx::AssertSqlSafe(rows))
            .bind(&ids[..])
            .bind(&CONNECTORS[..])
            .execute(&mut connection)
            .await?;
    }
    sqlx::raw_sql("vacuum analyze")
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    database.close().await;
    Ok(())
}

/// Returns statements that insert a range of users with a connection for every connector, without attempts.
fn bare_rows(from: u32, until: u32) -> String {
    format!(
        "insert into user_connector_connection
           (id, user_id, connector_id, nango_connection_id, nango_created_at, integration_key, status, connected_at,
            created_at, updated_at)
         select gen_random_uuid(), 'user-' || u, ($1::uuid[])[n], 'nango-' || u || '-' || n, now(), ($2::text[])[n],
           'connected', now(), now(), now()
         from generate_series({from}, {until}) u, generate_series(1, {CONNECTIONS}) n"
    )
}

/// Returns statements that insert a range of users, each with a connection and an attempt for every connector. The
/// timestamps in ids increase with the row's number, so that a user's connections are ordered. Nango created the
/// connections a millisecond apart.
fn rows(from: u32, until: u32) -> String {
    format!(
        "with made as (
           insert into user_connector_connection
             (id, user_id, connector_id, instance_id, label, nango_connection_id, nango_created_at, integration_key, status,
              connected_at, last_synced_at, last_checked_at, config, version, created_at, updated_at,
              attempt_id, attempt_kind, attempt_expires_at, attempt_outcome, attempt_invalidated,
              attempt_created_at, attempt_ended_at, account_unknown_reason)
           select id, 'user-' || u, ($1::uuid[])[n], '', 'Account ' || n, 'nango-' || u || '-' || n,
             to_timestamp((1700000000000 + u::bigint * {CONNECTIONS} + n) / 1000.0), ($2::text[])[n], 'connected', now(), now(),
             now(), '{{\"workspace\": \"Example\", \"team\": 7}}', 2, now(), now(),
             gen_random_uuid(), 'connect', now(), 'succeeded', false, now(), now(), 'not_offered'
           from generate_series({from}, {until}) u, generate_series(1, {CONNECTIONS}) n,
             lateral (select (lpad(to_hex(1700000000000 + u::bigint * 100 + n), 12, '0') || '7'
               || substr(md5(u || '/' || n), 1, 3) || '8' || substr(md5(u || '/' || n), 4, 15))::uuid as id) ids
           returning user_id, id, attempt_id, integration_key
         )
         insert into connect_attempt
           (user_id, id, connection_id, kind, integration_key, expires_at, outcome, nango_connection_id, created_at, ended_at)
         select user_id, attempt_id, id, 'connect', integration_key, now(), 'succeeded', 'nango', now(), now() from made"
    )
}

/// Returns the ids of a user's connections, newest first.
///
/// # Errors
/// The server's error.
pub(crate) async fn ids_of(database: &str, user: u32) -> Result<Vec<String>, Box<dyn Error>> {
    let mut connection = PgConnection::connect(database).await?;
    let ids = sqlx::query_scalar(
        "select id::text from user_connector_connection where user_id = $1 order by id desc",
    )
    .bind(format!("user-{user}"))
    .fetch_all(&mut connection)
    .await?;
    connection.close().await?;
    Ok(ids)
}

/// Returns a user's token, valid for a day.
///
/// # Errors
/// If it cannot be signed.
pub(crate) fn token(user: &str) -> Result<String, Box<dyn Error>> {
    let tomorrow = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs()
        + 86_400;
    let claims = json!({ "sub": user, "exp": tomorrow, "iss": "https://id.example.com", "role": "authenticated" });
    let key = EncodingKey::from_secret(JWT_SECRET.as_bytes());
    Ok(jsonwebtoken::encode(&Header::default(), &claims, &key)?)
}
