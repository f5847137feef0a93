//! The catalog's table.

use uuid::Uuid;

use crate::catalog::{Catalog, Connector};
use crate::connections::Transaction;

/// A connector's id by its slug or itself, whether or not the catalog still has it.
pub(in crate::connections) async fn connector_id(
    db: &mut Transaction,
    reference: &str,
) -> sqlx::Result<Option<Uuid>> {
    sqlx::query_scalar("select id from connector where slug = $1 or id::text = lower($1)")
        .bind(reference)
        .fetch_optional(db)
        .await
}

/// Writes the catalog to the `connector` table. Connectors that left it stay, disabled.
pub(in crate::connections) async fn seed_connectors(
    db: &mut Transaction,
    catalog: &Catalog,
) -> sqlx::Result<()> {
    let mut connectors: Vec<&Connector> = catalog.iter().collect();
    // In one order, so that two starting replicas do not lock each other out.
    connectors.sort_by_key(|connector| connector.id);
    for connector in &connectors {
        sqlx::query(
            "insert into connector (id, slug, name, category, provider, integration_key, auth_mode, enabled, manifest) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
             on conflict (id) do update set slug = excluded.slug, name = excluded.name, \
               category = excluded.category, provider = excluded.provider, \
               integration_key = excluded.integration_key, auth_mode = excluded.auth_mode, \
               enabled = excluded.enabled, manifest = excluded.manifest, updated_at = now() \
             where (connector.manifest, connector.enabled) is distinct from (excluded.manifest, excluded.enabled)",
        )
        .bind(connector.id)
        .bind(&connector.slug)
        .bind(&connector.name)
        .bind(&connector.category)
        .bind(&connector.provider)
        .bind(&connector.integration_key)
        .bind(connector.auth_mode.map(|mode| mode.to_string()))
        .bind(connector.enabled)
        .bind(connector.manifest())
        .execute(&mut *db)
        .await?;
    }
    let ids: Vec<Uuid> = connectors.iter().map(|connector| connector.id).collect();
    sqlx::query("update connector set enabled = false, updated_at = now() where enabled and not id = any($1)")
        .bind(&ids)
        .execute(db)
        .await?;
    Ok(())
}
