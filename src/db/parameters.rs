//! The parameters that a provider needs of a connection's account.

use std::collections::BTreeMap;

use sqlx::types::Json;

use super::Transaction;
use crate::domain::Connection;

/// Stores the parameters that a user gave. Merges them into the stored ones, or replaces these. Returns all stored
/// parameters.
pub(crate) async fn write_parameters(
    db: &mut Transaction,
    connection: &Connection,
    given: &BTreeMap<String, String>,
    keep_stored: bool,
) -> sqlx::Result<BTreeMap<String, String>> {
    let stored: Json<BTreeMap<String, String>> = sqlx::query_scalar(
        "update user_connector_connection \
         set parameters = case when $3 then parameters else '{}' end || $2 \
         where user_id = $4 and id = $1 returning parameters",
    )
    .bind(connection.id)
    .bind(Json(given))
    .bind(keep_stored)
    .bind(connection.user_id.as_str())
    .fetch_one(db)
    .await?;
    Ok(stored.0)
}
