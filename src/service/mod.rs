//! The use cases. The only place that orders the database and Nango.
//!
//! No transaction is open while Nango is called: read, commit, call, and then
//! change what is there by then, under the row's lock.

mod absence;
mod account;
mod account_lookup;
pub mod brakes;
mod clock_offset;
mod connect;
mod credential_check;
mod current_catalog;
mod deletions;
mod disconnect;
pub mod event_notifier;
mod event_stream;
mod expiry;
mod failure;
mod idempotency;
mod logos;
pub mod orphans;
mod polls;
mod queries;
mod received_webhooks;
mod reconcile;
mod retention;
pub mod service_keys;
mod statistics;
mod sweep;
mod sweep_listing;
mod tokens;
mod users;
mod webhook_urls;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Notify;
use url::Url;
use uuid::Uuid;

use self::brakes::Brakes;
use self::clock_offset::ClockOffset;
use self::credential_check::SuspectCredentials;
use self::current_catalog::CurrentCatalog;
use self::event_notifier::EventNotifier;
use self::logos::LogoCache;
use self::polls::AttemptPolls;
use self::queries::LargeLists;
use self::received_webhooks::ReceivedWebhooks;
use self::reconcile::{AttemptTurns, UnchangedGrants};
use self::statistics::ServiceMetrics;
use self::tokens::TokenCache;
use self::webhook_urls::WebhookUrls;
use crate::catalog::{Catalog, CatalogMode};
use crate::clock::Clock;
use crate::db;
use crate::db::batch::BatchLoader;
use crate::db::connection_health::Outage;
use crate::db::connector_cache::ConnectorCache;
use crate::db::{Database, DatabaseError, Transaction};
use crate::domain::Connection;
use crate::domain::UserId;
use crate::encryption;
use crate::encryption::Encryption;
use crate::nango;
use crate::nango::attempt_poller::AttemptPoller;
use crate::nango::{Nango, Priority};

use crate::nango::integration_cache::IntegrationCache;

use crate::views::ConnectionView;

pub use connect::{ConnectOutcome, ConnectRequest};
pub use credential_check::Health;
pub use current_catalog::CatalogView;
pub use disconnect::{DisconnectTarget, Disconnected};
pub use event_stream::Events;
pub use idempotency::{Answer, Idempotency};
pub use queries::{Page, Query, Update};
pub use reconcile::WebhookOutcome;
pub use retention::Pruned;
pub use sweep::{SweepReport, SweepSchedule};
pub use tokens::Token;
pub use users::Erased;

/// How long the start waits for Nango to recognize its environment.
const STARTUP_PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The connections of all users: the house's one door to the database and Nango.
#[derive(Debug)]
pub struct Connections {
    database: Database,
    connectors: ConnectorCache,
    newest: BatchLoader<db::NewestConnections>,
    ones: BatchLoader<db::ConnectionById>,
    instances: BatchLoader<db::ConnectionByInstance>,
    versions: BatchLoader<db::ConnectionVersion>,
    attempts: BatchLoader<db::AttemptById>,
    after: BatchLoader<db::EventsAfter>,
    large_lists: LargeLists,
    catalog: CurrentCatalog,
    lookups: Notify,
    logos: LogoCache,
    upstream: Option<NangoGateway>,
    clock: Clock,
    public_url: Url,
    webhook_base_url: Url,
    encryption: Encryption,
    deletions: Notify,
    feed: EventNotifier,
    installation: Uuid,
    /// The database was copied from another installation's, whose connections at Nango its rows may name.
    is_copy: bool,
    brakes: Brakes,
    tokens: TokenCache,
    token_cache: Duration,
    doubts: SuspectCredentials,
    history: TimeDelta,
    uses: BatchLoader<db::Used>,
    attempt_turns: AttemptTurns,
    unchanged_grants: UnchangedGrants,
    polls: AttemptPolls,
    clock_offset: ClockOffset,
    counts: ServiceMetrics,
    received_webhooks: ReceivedWebhooks,
}

/// How the service is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The public address of this service; it identifies the installation.
    pub public_url: Url,
    /// Which connectors users are offered.
    pub catalog_mode: CatalogMode,
    /// The address of this service to which Nango sends webhooks.
    pub webhook_base_url: Url,
    /// The TTL of the token cache; zero disables it.
    pub token_cache: Duration,
    /// For how long events, attempts and uses of tokens are kept.
    pub history: TimeDelta,
    /// What answers that hold a session's token are encrypted with.
    pub encryption: Encryption,
}

/// Nango and what is remembered of its answers.
#[derive(Debug)]
struct NangoGateway {
    nango: Nango,
    attempt_poller: AttemptPoller,
    integrations: IntegrationCache,
    webhook_urls: WebhookUrls,
}

/// Why a use case failed. All callers that waited for a shared call receive it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// `NANGO_ENABLED` is false.
    #[error("connecting is switched off: set NANGO_ENABLED to true")]
    NangoDisabled,
    /// No connector has this id or slug.
    #[error("there is no connector {0:?}")]
    ConnectorNotFound(String),
    /// The connector is listed but cannot be connected.
    #[error("{0}")]
    ConnectorUnavailable(String),
    /// The Nango environment has no integration for the connector.
    #[error("{connector} is not set up yet: Nango has no integration {integration_key:?}")]
    ConnectorNotConfigured {
        /// The connector's name.
        connector: String,
        /// The integration that an operator has to add.
        integration_key: String,
    },
    /// Nango holds the connection under another integration than the stored one.
    #[error(
        "Nango holds this connection of {connector}, but not under the integration {integration_key:?} it was made with: reconnect it"
    )]
    IntegrationChanged {
        /// The connector's name.
        connector: String,
        /// The integration that is stored.
        integration_key: String,
    },
    /// The user has no such connection, or it is another user's.
    #[error("there is no such connection")]
    ConnectionNotFound,
    /// Several connections fit, and none was named.
    #[error("there are several connections of this connector: name one by connection_id")]
    AmbiguousConnection(Vec<Uuid>),
    /// The connection to be removed is connected.
    #[error("the account is connected: disconnect it before you remove it")]
    StillConnected,
    /// The request makes no sense for the connection as it is.
    #[error("{0}")]
    Invalid(String),
    /// The connection that is asked about has no credentials.
    #[error("{detail}")]
    NotConnected {
        /// The slug of the connector that would have to be connected.
        connector: String,
        /// Why there are none.
        detail: String,
    },
    /// The credentials no longer work: the user has to authorize again.
    #[error("{connector} has to be authorized again by its user")]
    NeedsReauthorization {
        /// The connection to reconnect.
        connection_id: Uuid,
        /// The connector's name.
        connector: String,
    },
    /// The user has not granted scopes that a workflow requires.
    #[error(
        "the user has not granted {} to {connector}: reconnect with these scopes in `scopes`",
        missing.join(", ")
    )]
    InsufficientScope {
        /// The connection to reconnect.
        connection_id: Uuid,
        /// The connector's name.
        connector: String,
        /// The required scopes that were not granted.
        missing: Vec<String>,
    },
    /// The connection came back from a reconnect as another account.
    #[error("the connection was authorized as another account; its user has to decide which it is")]
    AccountMismatch,
    /// The provider does not refresh credentials at the moment.
    #[error("the provider does not refresh the credentials at the moment")]
    ProviderUnavailable,
    /// Nango has none of the connections that were connected last.
    #[error(
        "Nango has none of the connections that were connected last: NANGO_SECRET_KEY opens another environment, or Nango \
         does not answer as it should"
    )]
    UnknownEnvironment,
    /// Nango has not confirmed a deletion.
    #[error("the deletion is not confirmed: {0}")]
    Unconfirmed(&'static str),
    /// The Idempotency-Key was used for another request.
    #[error("this Idempotency-Key was used for another request: send a new one")]
    KeyReused,
    /// A request with the same Idempotency-Key is in progress.
    #[error("a request with this Idempotency-Key is in progress: retry in a moment")]
    KeyInProgress,
    /// A stored value cannot be decrypted.
    #[error(transparent)]
    Encryption(#[from] encryption::Error),
    /// Nango did not do its part.
    #[error(transparent)]
    Nango(#[from] nango::Error),
    /// The database did not do its part.
    #[error(transparent)]
    Database(#[from] Arc<sqlx::Error>),
}

impl Error {
    /// Whether the cause is a row that cannot be read: the others can.
    pub(crate) fn is_unreadable_row(&self) -> bool {
        use sqlx::Error::{ColumnDecode, Decode};
        matches!(self, Self::Database(error) if matches!(**error, Decode(_) | ColumnDecode { .. }))
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

type Result<T, E = Error> = std::result::Result<T, E>;

impl Connections {
    /// Puts the parts together. Without a `nango`, everything that needs it is refused.
    /// The catalog is written to the database, where connections refer to it.
    ///
    /// # Errors
    /// As the database, whose schema has to be up to date.
    pub async fn new(
        database: Database,
        catalog: Arc<Catalog>,
        nango: Option<Nango>,
        clock: Clock,
        settings: Settings,
    ) -> Result<Self> {
        let upstream = nango.map(|nango| NangoGateway {
            attempt_poller: AttemptPoller::new(nango.clone()),
            integrations: IntegrationCache::new(nango.clone()),
            webhook_urls: WebhookUrls::default(),
            nango,
        });
        let mut tx = database.begin().await?;
        db::seed_connectors(&mut tx, &catalog).await?;
        let connectors = db::connectors(&mut tx).await?;
        let (installation, is_copy) = db::installation(&mut tx).await?;
        tx.commit().await?;
        let brakes = Brakes::new(
            database.clone(),
            upstream.as_ref().map(|upstream| upstream.nango.clone()),
            settings.public_url.clone(),
            clock.clone(),
        );
        brakes.start(installation).await?;
        Ok(Self {
            connectors: ConnectorCache::new(database.clone(), connectors),
            newest: BatchLoader::new(&database),
            ones: BatchLoader::new(&database),
            versions: BatchLoader::new(&database),
            instances: BatchLoader::new(&database),
            attempts: BatchLoader::new(&database),
            after: BatchLoader::new(&database),
            large_lists: LargeLists::new(),
            uses: BatchLoader::new(&database),
            attempt_turns: AttemptTurns::default(),
            unchanged_grants: UnchangedGrants::default(),
            polls: AttemptPolls::default(),
            clock_offset: ClockOffset::default(),
            database,
            catalog: CurrentCatalog::new(catalog, settings.catalog_mode),
            lookups: Notify::new(),
            logos: LogoCache::default(),
            upstream,
            clock,
            public_url: settings.public_url,
            webhook_base_url: settings.webhook_base_url,
            encryption: settings.encryption,
            token_cache: settings.token_cache,
            history: settings.history,
            tokens: TokenCache::new(),
            doubts: SuspectCredentials::default(),
            counts: ServiceMetrics::default(),
            received_webhooks: ReceivedWebhooks::default(),
            deletions: Notify::new(),
            feed: EventNotifier::default(),
            installation,
            is_copy,
            brakes,
        })
    }

    /// Checks that the database accepts writes and has the schema.
    ///
    /// # Errors
    /// When it does not, or does not answer.
    pub async fn check_ready(&self) -> Result<(), DatabaseError> {
        self.database.check_ready().await
    }

    /// When each connector was first in the catalog.
    ///
    /// # Errors
    /// As the database.
    pub async fn connector_creation_times(&self) -> Result<HashMap<Uuid, DateTime<Utc>>> {
        let mut tx = self.begin_single().await?;
        let times = db::connector_creation_times(&mut tx).await?;
        tx.commit().await?;
        Ok(times)
    }

    fn nango_gateway(&self) -> Result<&NangoGateway> {
        self.upstream.as_ref().ok_or(Error::NangoDisabled)
    }

    /// Whether Nango's rate limit admits a call of this priority without a wait.
    fn has_room(&self, priority: Priority) -> bool {
        (self.upstream.as_ref()).is_some_and(|upstream| upstream.nango.has_room(priority))
    }

    /// Looks up whether Nango has this installation's connections, before the first request.
    pub async fn verify_environment_at_start(&self) {
        let confirm = self.brakes.confirm_environment(false);
        match tokio::time::timeout(STARTUP_PROBE_TIMEOUT, confirm).await {
            // An unknown environment is logged there.
            Ok(Ok(()) | Err(Error::UnknownEnvironment)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "could not look up whether nango has this installation's connections");
            }
            Err(_elapsed) => {
                tracing::warn!(
                    "nango did not answer whether it has this installation's connections"
                );
            }
        }
    }

    /// Whether a brake stops sweeps and deletions: the database or the Nango environment is not the installation's.
    ///
    /// # Errors
    /// As the database, and as Nango where it has to be looked up.
    pub(crate) async fn are_effects_paused(&self) -> Result<bool> {
        if self.brakes.database_difference().await?.is_some() {
            return Ok(true);
        }
        if self.brakes.check_environment().is_ok() {
            return Ok(false);
        }
        match self.brakes.verify_environment(&[], None).await {
            Ok(()) => Ok(false),
            Err(Error::UnknownEnvironment) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Whether the database is not the installation's, so that nothing is sent to the product. An error counts as such.
    pub async fn is_database_foreign(&self) -> bool {
        !matches!(self.brakes.database_difference().await, Ok(None))
    }

    /// The brakes.
    #[must_use]
    pub fn brakes(&self) -> &Brakes {
        &self.brakes
    }

    async fn begin(&self) -> Result<Transaction> {
        Ok(self.database.begin().await?)
    }

    async fn begin_single(&self) -> Result<Transaction> {
        Ok(self.database.begin_single().await?)
    }

    /// A user's own connection.
    async fn find_own(&self, user: &UserId, id: Uuid) -> Result<Connection> {
        Ok(self.find_with_attempt(user, id).await?.0)
    }

    /// The same with its newest attempt.
    async fn find_with_attempt(
        &self,
        user: &UserId,
        id: Uuid,
    ) -> Result<db::ConnectionWithAttempt> {
        let one = self.ones.load(db::ConnectionById(user.clone(), id)).await?;
        self.with_connector(&*one.ok_or(Error::ConnectionNotFound)?)
            .await
    }

    /// The same of a row among many: `None`, logged and counted, if it cannot be read.
    async fn readable(
        &self,
        row: &db::ConnectionWithAttemptRow,
    ) -> Result<Option<db::ConnectionWithAttempt>> {
        match self.with_connector(row).await {
            Err(Error::Database(error)) if Outage::of(&error).is_none() => {
                let id = row.id().map(|id| id.to_string()).unwrap_or_default();
                db::note_unreadable_row("user_connector_connection", &id, &error);
                Ok(None)
            }
            read => Ok(Some(read?)),
        }
    }

    /// What a row says, with what its connector is called.
    async fn with_connector(
        &self,
        row: &db::ConnectionWithAttemptRow,
    ) -> Result<db::ConnectionWithAttempt> {
        let connector = self.connectors.get(row.connector()?).await?;
        // Connectors are never deleted while a connection refers to them.
        Ok(row.with_attempt(connector.ok_or(Error::ConnectionNotFound)?)?)
    }
}
