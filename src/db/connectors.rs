//! The catalog's table.

use sqlx::PgExecutor;
use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::types::Json;

use super::Transaction;
use super::rows::readable;
use crate::catalog::{Catalog, Connector};
use crate::domain::{ConnectorId, ConnectorRef};

/// Returns all connectors, including those that have left the catalog.
pub(crate) async fn connectors(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<ConnectorRef>> {
    sqlx::query_as("select id, slug, name from connector")
        .fetch_all(db)
        .await
}

/// Returns the connectors with this slug or, without a slug, with this integration.
pub(crate) async fn connectors_of(
    db: &mut Transaction,
    slug: Option<&str>,
    integration_key: &str,
) -> sqlx::Result<Vec<ConnectorRef>> {
    sqlx::query_as(
        "select id, slug, name from connector where slug = $1 or ($1 is null and integration_key = $2)",
    )
    .bind(slug)
    .bind(integration_key)
    .fetch_all(db)
    .await
}

/// Returns when each connector was first in the catalog.
pub(crate) async fn connector_creation_times(
    db: impl PgExecutor<'_>,
) -> sqlx::Result<HashMap<ConnectorId, DateTime<Utc>>> {
    let times = sqlx::query_as("select id, created_at from connector")
        .fetch_all(db)
        .await?;
    let times: Vec<(ConnectorId, DateTime<Utc>)> = readable("connector", times);
    Ok(times.into_iter().collect())
}

/// Writes the catalog to the `connector` table. Connectors that have left it are disabled.
pub(crate) async fn seed_connectors(db: &mut Transaction, catalog: &Catalog) -> sqlx::Result<()> {
    let all: Vec<&Connector> = catalog.iter().collect();
    write_connectors(&mut *db, &all).await?;
    let ids: Vec<ConnectorId> = catalog.iter().map(|connector| connector.id).collect();
    // Connectors of configured integrations are written after Nango has listed these.
    sqlx::query(
        "update connector set enabled = false, updated_at = now() \
         where enabled and manifest->'listed' is distinct from 'false'::jsonb and not id = any($1)",
    )
    .bind(&ids)
    .execute(db)
    .await?;
    Ok(())
}

/// Inserts connectors, or updates those with the same id.
pub(crate) async fn write_connectors(
    db: impl PgExecutor<'_>,
    connectors: &[&Connector],
) -> sqlx::Result<()> {
    let rows: Vec<Value> = connectors
        .iter()
        .map(|connector| {
            json!({
                "id": connector.id,
                "slug": connector.slug,
                "name": connector.name,
                "category": connector.category,
                "provider": connector.provider,
                "integration_key": connector.integration_key,
                "auth_mode": connector.auth_mode.map(|mode| mode.to_string()),
                "enabled": connector.enabled,
                "manifest": connector.manifest(),
            })
        })
        .collect();
    // In a fixed order, so that two starting replicas do not deadlock.
    sqlx::query(
        "insert into connector (id, slug, name, category, provider, integration_key, auth_mode, enabled, manifest) \
         select id, slug, name, category, provider, integration_key, auth_mode, enabled, manifest \
         from jsonb_to_recordset($1) as row (id uuid, slug text, name text, category text, provider text, \
           integration_key text, auth_mode text, enabled boolean, manifest jsonb) \
         order by id \
         on conflict (id) do update set slug = excluded.slug, name = excluded.name, \
           category = excluded.category, provider = excluded.provider, \
           integration_key = excluded.integration_key, auth_mode = excluded.auth_mode, \
           enabled = excluded.enabled, manifest = excluded.manifest, updated_at = now() \
         where (connector.manifest, connector.enabled) is distinct from (excluded.manifest, excluded.enabled)",
    )
    .bind(Json(rows))
    .execute(db)
    .await?;
    Ok(())
}
