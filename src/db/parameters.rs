//! What a connection's provider has to know of its account.

use std::collections::BTreeMap;

use sqlx::types::Json;

use super::Transaction;
use crate::domain::Connection;

/// Writes the parameters that a user gave, over the stored ones or in their place. Returns all that are stored then.
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
