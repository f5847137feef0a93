//! The SQL of service keys.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use super::Transaction;
use super::batch::BatchQuery;
use super::rows::readable;

use crate::auth::service_keys::{KeyInfo, NewKey, Scope, Service};

#[derive(FromRow)]
struct KeyRow {
    prefix: String,
    name: String,
    scopes: Vec<String>,
    digest: Vec<u8>,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
}

impl KeyRow {
    /// Returns the scopes, without those that this version does not know.
    fn scopes(&self) -> BTreeSet<Scope> {
        self.scopes
            .iter()
            .filter_map(|scope| scope.parse().ok())
            .collect()
    }

    fn info(self) -> KeyInfo {
        KeyInfo {
            scopes: self.scopes(),
            prefix: self.prefix,
            name: self.name,
            created_at: self.created_at,
            expires_at: self.expires_at,
            revoked_at: self.revoked_at,
        }
    }
}

/// A key in use, with the digest for its verification.
pub(crate) struct StoredKey {
    pub(crate) service: Service,
    pub(crate) digest: Vec<u8>,
}

/// A query for the key in use with this prefix, at this time.
#[derive(Debug)]
pub(crate) struct ActiveKey {
    pub(crate) prefix: String,
    pub(crate) now: DateTime<Utc>,
}

impl BatchQuery for ActiveKey {
    type Output = Option<StoredKey>;

    async fn load_many<'c>(
        db: impl PgExecutor<'c>,
        queries: &[Self],
    ) -> sqlx::Result<Vec<Self::Output>> {
        let prefixes: Vec<&str> = queries.iter().map(|query| query.prefix.as_str()).collect();
        let rows = sqlx::query_as(
            "select prefix, name, scopes, digest, created_at, expires_at, revoked_at from service_key \
             where prefix = any((select $1)::text[]) and revoked_at is null",
        )
        .bind(prefixes)
        .fetch_all(db)
        .await?;
        let rows: Vec<KeyRow> = readable("service_key", rows);
        let rows: HashMap<&str, &KeyRow> =
            rows.iter().map(|row| (row.prefix.as_str(), row)).collect();
        let answer = |Self { prefix, now }: &Self| {
            let row = rows.get(prefix.as_str())?;
            row.expires_at
                .is_none_or(|end| end > *now)
                .then(|| StoredKey {
                    service: Service {
                        scopes: row.scopes(),
                        name: row.name.clone(),
                    },
                    digest: row.digest.clone(),
                })
        };
        Ok(queries.iter().map(answer).collect())
    }
}

pub(crate) async fn insert(
    db: impl PgExecutor<'_>,
    key: &NewKey,
    name: &str,
    scopes: &BTreeSet<Scope>,
) -> sqlx::Result<()> {
    let scopes: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    sqlx::query(
        "insert into service_key (id, prefix, name, scopes, digest) values ($1, $2, $3, $4, $5)",
    )
    .bind(Uuid::now_v7())
    .bind(&key.prefix)
    .bind(name)
    .bind(&scopes)
    .bind(key.digest.as_slice())
    .execute(db)
    .await?;
    Ok(())
}

pub(crate) async fn list(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<KeyInfo>> {
    let rows = sqlx::query_as("select prefix, name, scopes, digest, created_at, expires_at, revoked_at from service_key order by id desc")
        .fetch_all(db)
        .await?;
    let rows: Vec<KeyRow> = readable("service_key", rows);
    Ok(rows.into_iter().map(KeyRow::info).collect())
}

/// Returns the keys in use with this prefix or name.
pub(crate) async fn in_use(
    db: &mut Transaction,
    which: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<KeyInfo>> {
    let rows = sqlx::query_as(
        "select prefix, name, scopes, digest, created_at, expires_at, revoked_at from service_key where (prefix = $1 or name = $1) and revoked_at is null and expires_at is null \
         union all \
         select prefix, name, scopes, digest, created_at, expires_at, revoked_at from service_key where prefix = $1 and revoked_at is null and expires_at > $2",
    )
    .bind(which)
    .bind(now)
    .fetch_all(db)
    .await?;
    let rows: Vec<KeyRow> = readable("service_key", rows);
    Ok(rows.into_iter().map(KeyRow::info).collect())
}

pub(crate) async fn expire(
    db: &mut Transaction,
    prefix: &str,
    at: DateTime<Utc>,
) -> sqlx::Result<()> {
    set(
        db,
        "update service_key set expires_at = $2 where prefix = $1",
        prefix,
        at,
    )
    .await
}

pub(crate) async fn revoke(
    db: &mut Transaction,
    prefix: &str,
    at: DateTime<Utc>,
) -> sqlx::Result<()> {
    set(
        db,
        "update service_key set revoked_at = $2 where prefix = $1",
        prefix,
        at,
    )
    .await
}

/// Replaces the scopes of a key. For a name, also replaces those of its rotated keys that are still in use.
pub(crate) async fn set_scopes(
    db: &mut Transaction,
    which: &str,
    scopes: &BTreeSet<Scope>,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    let scopes: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    sqlx::query(
        "update service_key set scopes = $2 where (prefix = $1 or name = $1) and revoked_at is null \
         and (expires_at is null or expires_at > $3)",
    )
    .bind(which)
    .bind(&scopes)
    .bind(now)
    .execute(db)
    .await?;
    Ok(())
}

async fn set(
    db: &mut Transaction,
    statement: &'static str,
    prefix: &str,
    at: DateTime<Utc>,
) -> sqlx::Result<()> {
    let done = sqlx::query(statement)
        .bind(prefix)
        .bind(at)
        .execute(db)
        .await?;
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        Err(sqlx::Error::RowNotFound)
    }
}
