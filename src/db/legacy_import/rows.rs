//! Finds rows of the legacy table that cannot be imported.

use uuid::Uuid;

use super::super::Transaction;
use crate::catalog::Catalog;
use crate::domain::UserId;

/// A value that cannot be imported.
pub(crate) struct OddValue {
    /// The row's id.
    pub(crate) row: Uuid,
    column: String,
    value: Option<String>,
    problem: String,
}

impl std::fmt::Display for OddValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            row,
            column,
            value,
            problem,
        } = self;
        // Escaped, because the text is untrusted.
        match value {
            Some(value) => write!(f, "row {row}: {column} {value:?} {problem}"),
            None => write!(f, "row {row}: {column} is null, and {problem}"),
        }
    }
}

/// Returns the values that cannot be imported, by row id: at most `limit` for each query.
pub(crate) async fn odd_values(
    tx: &mut Transaction,
    catalog: &Catalog,
    limit: u32,
) -> sqlx::Result<Vec<OddValue>> {
    let slugs: Vec<&str> = catalog.iter().map(|one| one.slug.as_str()).collect();
    // These functions belong to the session, which other transactions use later, so they are dropped below.
    sqlx::raw_sql(include_str!("checks.sql"))
        .execute(&mut *tx)
        .await?;
    let found = sqlx::query_as(include_str!("odd_rows.sql"))
        .bind(&slugs)
        .bind(i64::from(limit));
    let found: Vec<(Uuid, String, Option<String>, String)> = found.fetch_all(&mut *tx).await?;
    sqlx::raw_sql(
        "drop function pg_temp.patchbay_config_problem(text), pg_temp.patchbay_time_problem(timestamptz)",
    )
    .execute(&mut *tx)
    .await?;
    let mut odd: Vec<OddValue> = found
        .into_iter()
        .map(|(row, column, value, problem)| OddValue {
            row,
            column,
            value,
            problem,
        })
        .collect();
    odd.extend(odd_users(tx, limit).await?);
    odd.sort_by_key(|it| it.row);
    Ok(odd)
}

/// Returns the user ids that the API rejects, because their connections would be unreachable. The database checks ids
/// of plain ASCII, so that few are read.
async fn odd_users(tx: &mut Transaction, limit: u32) -> sqlx::Result<Vec<OddValue>> {
    let odd: Vec<(Uuid, Option<String>)> = sqlx::query_as(
        "select id, user_id::text from user_connector_connection \
         where user_id is null or user_id::text = '..' \
           or user_id::text collate \"C\" !~ '^[!-~][ -~]{0,253}[!-~]$' \
         order by id",
    )
    .fetch_all(tx)
    .await?;
    let problem = |(row, value): (Uuid, Option<String>)| {
        let problem = match value.clone().map(UserId::try_from) {
            None => "has to name a user".to_owned(),
            Some(Err(error)) => format!("is refused: {error}"),
            Some(Ok(_)) => return None,
        };
        Some(OddValue {
            row,
            column: "user_id".to_owned(),
            value: value.map(|value| value.chars().take(100).collect()),
            problem,
        })
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(odd.into_iter().filter_map(problem).take(limit).collect())
}
