//! The most frequent reads, batched.
//!
//! Rows are returned unparsed: each caller parses its own.
//!
//! The query's parameters are in a sub-select, which hides their number from PostgreSQL. Otherwise PostgreSQL would
//! plan each statement again, which takes longer than reading.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgExecutor, Row};

use super::batch::{BatchQuery, TooMuch};
use super::rows::{
    ATTEMPT_ID, ATTEMPTED_USER, RowReader, connection_columns, newest_attempt_columns,
    select_attempts_with_connection, select_with_attempt,
};
use super::{AttemptWithConnection, RowError};
use crate::domain::UserId;
use crate::domain::{
    Attempt, AttemptId, Connection, ConnectionId, ConnectorId, ConnectorRef, Revision,
};
use crate::views::{AccountRef, MAX_SAME_ACCOUNT};

/// A connection with the newest attempt to authorize it.
pub(crate) type ConnectionWithAttempt = (Connection, Option<Attempt>);

/// A query for a user's newest connections, newest first: at most [`LIMIT`](Self::LIMIT).
#[derive(Clone, Debug)]
pub(crate) struct NewestConnections(pub(crate) UserId);

impl NewestConnections {
    /// One more than a user is expected to have: a shorter result contains all connections.
    pub(crate) const LIMIT: usize = 101;

    /// The maximum number of rows of a batch. Beyond it, the queries run separately.
    const MOST_TOGETHER: usize = 6500;
}

/// A query for one connection of a user.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionById(pub(crate) UserId, pub(crate) ConnectionId);

impl BatchQuery for NewestConnections {
    type Output = Arc<Vec<ConnectionWithAttemptRow>>;

    async fn load_many<'c>(
        db: impl PgExecutor<'c>,
        users: &[Self],
    ) -> sqlx::Result<Vec<Self::Output>> {
        let rows = match users {
            [Self(user)] => {
                sqlx::query(select_with_attempt!(
                    "user_connector_connection c where c.user_id = $1 order by c.id desc limit 101"
                ))
                .bind(user.as_str())
                .fetch_all(db)
                .await?
            }
            users => {
                let names: Vec<&str> = users.iter().map(|Self(user)| user.as_str()).collect();
                let rows = sqlx::query(select_with_attempt!(
                    "user_connector_connection c where c.user_id = any((select $1)::text[]) limit 6500"
                ))
                .bind(names)
                .fetch_all(db)
                .await?;
                if rows.len() >= Self::MOST_TOGETHER {
                    return Err(TooMuch.into());
                }
                rows
            }
        };
        let mut of_user: HashMap<String, Vec<ConnectionWithAttemptRow>> =
            HashMap::with_capacity(users.len());
        for row in rows.into_iter().map(ConnectionWithAttemptRow) {
            match of_user.get_mut(row.user()?) {
                Some(of_user) => of_user.push(row),
                None => drop(of_user.insert(row.user()?.to_owned(), vec![row])),
            }
        }
        let of_user: HashMap<String, Self::Output> = of_user
            .into_iter()
            .map(|(user, rows)| (user, Arc::new(rows)))
            .collect();
        let answer = |Self(user): &Self| of_user.get(user.as_str()).cloned();
        Ok(users
            .iter()
            .map(answer)
            .map(Option::unwrap_or_default)
            .collect())
    }
}

impl BatchQuery for ConnectionById {
    type Output = Option<Arc<ConnectionWithAttemptRow>>;

    async fn load_many<'c>(
        db: impl PgExecutor<'c>,
        ones: &[Self],
    ) -> sqlx::Result<Vec<Self::Output>> {
        let (names, ids): (Vec<&str>, Vec<ConnectionId>) = ones
            .iter()
            .map(|Self(user, id)| (user.as_str(), *id))
            .unzip();
        let rows = sqlx::query(concat!(
            "select ",
            connection_columns!(),
            ", ",
            newest_attempt_columns!(),
            ", case when c.account_id is not null then array( \
                 select o.id from user_connector_connection o \
                 where o.user_id = c.user_id and o.connector_id = c.connector_id and o.account_id = c.account_id \
                   and o.id <> c.id and o.nango_connection_id is not null and c.nango_connection_id is not null \
                 order by o.id desc limit $3) end as same_account \
               from (select distinct * from unnest((select $1::text[]), (select $2::uuid[])) as pair (user_id, id)) asked \
               join user_connector_connection c on c.user_id = asked.user_id and c.id = asked.id"
        ))
        .bind(names)
        .bind(ids)
        .bind(MAX_SAME_ACCOUNT)
        .fetch_all(db)
        .await?;
        let mut by_id: HashMap<ConnectionId, Arc<ConnectionWithAttemptRow>> =
            HashMap::with_capacity(rows.len());
        for row in rows.into_iter().map(ConnectionWithAttemptRow) {
            by_id.insert(row.id()?, Arc::new(row));
        }
        // A found row belongs to one of the users in the batch, not necessarily to this one.
        let answer = |Self(user, id): &Self| {
            let row = by_id.get(id)?;
            let own = row.user().is_ok_and(|owner| owner == user.as_str());
            own.then(|| row.clone())
        };
        Ok(ones.iter().map(answer).collect())
    }
}

/// A query for a user's connection of a connector and instance.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionByInstance {
    pub(crate) user: UserId,
    pub(crate) connector: ConnectorId,
    pub(crate) name: String,
}

impl BatchQuery for ConnectionByInstance {
    type Output = Option<Arc<ConnectionWithAttemptRow>>;

    async fn load_many<'c>(
        db: impl PgExecutor<'c>,
        instances: &[Self],
    ) -> sqlx::Result<Vec<Self::Output>> {
        let users: Vec<&str> = instances.iter().map(|query| query.user.as_str()).collect();
        let connectors: Vec<ConnectorId> = instances.iter().map(|query| query.connector).collect();
        let names: Vec<&str> = instances.iter().map(|query| query.name.as_str()).collect();
        let rows = sqlx::query(select_with_attempt!(
            "(select distinct * from unnest((select $1::text[]), (select $2::uuid[]), (select $3::text[])) \
               as asked (u, k, i)) asked \
             join user_connector_connection c on c.user_id = u and c.connector_id = k and c.instance_id = i"
        ))
        .bind(users)
        .bind(connectors)
        .bind(names)
        .fetch_all(db)
        .await?;
        let rows: Vec<Arc<ConnectionWithAttemptRow>> = rows
            .into_iter()
            .map(ConnectionWithAttemptRow)
            .map(Arc::new)
            .collect();
        let mut by_key: HashMap<(&str, ConnectorId, &str), &Arc<ConnectionWithAttemptRow>> =
            HashMap::with_capacity(rows.len());
        for row in &rows {
            by_key.insert((row.user()?, row.connector()?, row.instance()?), row);
        }
        let answer = |asked: &Self| {
            let key = (asked.user.as_str(), asked.connector, asked.name.as_str());
            by_key.get(&key).copied().cloned()
        };
        Ok(instances.iter().map(answer).collect())
    }
}

/// A query for the revision of a user's connection, which shows whether cached data is still valid.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionRevision(pub(crate) UserId, pub(crate) ConnectionId);

impl BatchQuery for ConnectionRevision {
    type Output = Option<Revision>;

    async fn load_many<'c>(
        db: impl PgExecutor<'c>,
        queries: &[Self],
    ) -> sqlx::Result<Vec<Self::Output>> {
        let (users, ids): (Vec<&str>, Vec<ConnectionId>) = queries
            .iter()
            .map(|Self(user, id)| (user.as_str(), *id))
            .unzip();
        let rows = sqlx::query(
            "select c.id, c.user_id, c.version, c.updated_at \
             from (select distinct * from unnest((select $1::text[]), (select $2::uuid[])) as pair (user_id, id)) asked \
             join user_connector_connection c on c.user_id = asked.user_id and c.id = asked.id",
        )
        .bind(users)
        .bind(ids)
        .fetch_all(db)
        .await?;
        let mut by_id: HashMap<ConnectionId, (&str, Revision)> = HashMap::with_capacity(rows.len());
        for row in &rows {
            let revision = Revision {
                version: row.try_get(2)?,
                updated_at: row.try_get(3)?,
            };
            by_id.insert(row.try_get(0)?, (row.try_get(1)?, revision));
        }
        let answer = |Self(user, id): &Self| {
            let (owner, revision) = by_id.get(id)?;
            (*owner == user.as_str()).then_some(*revision)
        };
        Ok(queries.iter().map(answer).collect())
    }
}

/// A query for a user's attempt, with the connection that it is to authorize.
#[derive(Clone, Debug)]
pub(crate) struct AttemptById(pub(crate) UserId, pub(crate) AttemptId);

impl BatchQuery for AttemptById {
    type Output = Option<Arc<AttemptWithConnectionRow>>;

    async fn load_many<'c>(
        db: impl PgExecutor<'c>,
        attempts: &[Self],
    ) -> sqlx::Result<Vec<Self::Output>> {
        let (users, ids): (Vec<&str>, Vec<AttemptId>) = attempts
            .iter()
            .map(|Self(user, id)| (user.as_str(), *id))
            .unzip();
        let rows = sqlx::query(select_attempts_with_connection!(
            "join (select distinct * from unnest((select $1::text[]), (select $2::uuid[])) as pair (user_id, id)) asked \
               on a.user_id = asked.user_id and a.id = asked.id"
        ))
        .bind(users)
        .bind(ids)
        .fetch_all(db)
        .await?;
        let mut by_id: HashMap<AttemptId, Arc<AttemptWithConnectionRow>> =
            HashMap::with_capacity(rows.len());
        for row in rows.into_iter().map(AttemptWithConnectionRow) {
            by_id.insert(row.0.try_get(ATTEMPT_ID)?, Arc::new(row));
        }
        let answer = |Self(user, id): &Self| {
            let row = by_id.get(id)?;
            let owner = row.0.try_get::<&str, _>(ATTEMPTED_USER);
            owner
                .is_ok_and(|owner| owner == user.as_str())
                .then(|| row.clone())
        };
        Ok(attempts.iter().map(answer).collect())
    }
}

/// A row of [`select_attempts_with_connection`].
pub(crate) struct AttemptWithConnectionRow(PgRow);

impl AttemptWithConnectionRow {
    /// Parses the row.
    pub(crate) fn with_connection(&self) -> sqlx::Result<AttemptWithConnection> {
        AttemptWithConnection::from_row(&self.0)
    }
}

/// A row of [`select_with_attempt`].
pub(crate) struct ConnectionWithAttemptRow(PgRow);

/// What a list filters and pages by, of a row that is not decoded yet.
pub(crate) struct Listed<'r> {
    pub(crate) id: ConnectionId,
    pub(crate) connector: ConnectorId,
    pub(crate) status: &'r str,
    pub(crate) reason: Option<&'r str>,
    account_id: Option<&'r str>,
    nango_id: Option<&'r str>,
}

impl Listed<'_> {
    /// The account that the connection is known to be of, unless its user has ended it.
    pub(crate) fn account(&self) -> Option<AccountRef> {
        let (account, _) = self.account_id.zip(self.nango_id)?;
        Some(AccountRef {
            connection: self.id,
            connector: self.connector,
            account_id: account.to_owned(),
        })
    }
}

impl From<PgRow> for ConnectionWithAttemptRow {
    fn from(row: PgRow) -> Self {
        Self(row)
    }
}

impl AsRef<PgRow> for ConnectionWithAttemptRow {
    fn as_ref(&self) -> &PgRow {
        &self.0
    }
}

impl ConnectionWithAttemptRow {
    /// Returns the connection's id.
    pub(crate) fn id(&self) -> sqlx::Result<ConnectionId> {
        self.0.try_get(0)
    }

    /// Returns the connector's id. The caller resolves it for [`with_attempt`](Self::with_attempt).
    pub(crate) fn connector(&self) -> sqlx::Result<ConnectorId> {
        self.0.try_get(1)
    }

    /// Returns what a list filters and pages by.
    pub(crate) fn listed(&self) -> sqlx::Result<Listed<'_>> {
        Ok(Listed {
            id: self.id()?,
            connector: self.connector()?,
            nango_id: self.0.try_get(5)?,
            status: self.0.try_get(10)?,
            reason: self.0.try_get(11)?,
            account_id: self.0.try_get(17)?,
        })
    }

    fn user(&self) -> sqlx::Result<&str> {
        self.0.try_get(2)
    }

    fn instance(&self) -> sqlx::Result<&str> {
        self.0.try_get(3)
    }

    /// Returns the size of all columns, in bytes.
    pub(crate) fn size(&self) -> usize {
        let bytes = |column| {
            self.0
                .try_get_raw(column)
                .ok()?
                .as_bytes()
                .ok()
                .map(<[u8]>::len)
        };
        (0..self.0.len()).filter_map(bytes).sum()
    }

    /// Returns the user's other connections to the same account, from a row of [`ConnectionById`].
    pub(crate) fn same_account(&self) -> sqlx::Result<Vec<ConnectionId>> {
        let ids: Option<Vec<ConnectionId>> = self.0.try_get("same_account")?;
        Ok(ids.unwrap_or_default())
    }

    /// Returns a row that was read for this user. Every statement filters by user; this check is a second defence, like
    /// [`ensure_owned`](crate::db::user_scoped::ensure_owned).
    pub(crate) fn owned(row: PgRow, user: &UserId) -> sqlx::Result<Self> {
        let row = Self(row);
        if row.user()? == user.as_str() {
            return Ok(row);
        }
        let id = row.id()?.0;
        Err(RowError::WrongUser {
            table: "user_connector_connection",
            id,
        }
        .into())
    }

    /// Parses the row.
    pub(crate) fn with_attempt(
        &self,
        connector: Arc<ConnectorRef>,
    ) -> sqlx::Result<ConnectionWithAttempt> {
        let mut columns = RowReader::of(&self.0, 0);
        let connection = columns.connection(connector)?;
        let attempt = columns.newest_attempt(connection.id)?;
        Ok((connection, attempt))
    }
}
