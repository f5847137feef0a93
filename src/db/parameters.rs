//! What a connection's provider has to know of its account.

use std::collections::BTreeMap;

use sqlx::types::Json;
use uuid::Uuid;

use super::Transaction;

/// Writes the parameters that a user gave, over the stored ones or in their place. Returns all that are stored then.
pub(crate) async fn write_parameters(
    db: &mut Transaction,
    connection: Uuid,
    given: &BTreeMap<String, String>,
    keep_stored: bool,
) -> sqlx::Result<BTreeMap<String, String>> {
    let stored: Json<BTreeMap<String, String>> = sqlx::query_scalar(
        "update user_connector_connection \
         set parameters = case when $3 then parameters else '{}' end || $2 where id = $1 returning parameters",
    )
    .bind(connection)
    .bind(Json(given))
    .bind(keep_stored)
    .fetch_one(db)
    .await?;
    Ok(stored.0)
}
