//! The schema that `patchbay sandbox` empties at each start.

use sqlx::{Connection, PgConnection};

use super::database_url::DatabaseUrl;

/// The comment on the schema that marks it as the sandbox's.
const MARK: &str = "The sandbox of Patchbay empties this schema when it starts";

/// The reason for which a database cannot be emptied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EmptyError {
    /// `DATABASE_URL` is malformed.
    #[error("DATABASE_URL cannot be read: {0}")]
    Url(String),
    /// The server cannot be reached.
    #[error("the database of DATABASE_URL cannot be reached: {0}")]
    Unreachable(#[source] sqlx::Error),
    /// The schema has tables but no mark.
    #[error(
        "the database of DATABASE_URL has tables that are not the sandbox's: name an empty one, or none"
    )]
    InUse,
    /// A statement failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Empties the schema `public` of a database that only the sandbox uses.
pub(crate) async fn empty_schema(url: &str) -> Result<(), EmptyError> {
    let mut connection = connect(url).await?;
    drop_all(&mut connection).await?;
    Ok(connection.close().await?)
}

/// Empties the schema `public` of a database that an earlier sandbox marked or that has no tables, and marks it.
/// Refuses any other database.
pub(crate) async fn empty_own_database(url: &str) -> Result<(), EmptyError> {
    let mut connection = connect(url).await?;
    let own: bool = sqlx::query_scalar(
        "select not exists (select from pg_class where relnamespace = 'public'::regnamespace) \
         or coalesce(obj_description('public'::regnamespace, 'pg_namespace') = $1, false)",
    )
    .bind(MARK)
    .fetch_one(&mut connection)
    .await?;
    if !own {
        return Err(EmptyError::InUse);
    }
    drop_all(&mut connection).await?;
    let mark = sqlx::AssertSqlSafe(format!("comment on schema public is '{MARK}'"));
    sqlx::raw_sql(mark).execute(&mut connection).await?;
    Ok(connection.close().await?)
}

async fn connect(url: &str) -> Result<PgConnection, EmptyError> {
    let url: DatabaseUrl = url.parse().map_err(EmptyError::Url)?;
    let connection = PgConnection::connect_with(&url.servers[0]).await;
    connection.map_err(EmptyError::Unreachable)
}

async fn drop_all(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("drop schema public cascade; create schema public")
        .execute(connection)
        .await?;
    Ok(())
}
