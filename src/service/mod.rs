//! The use cases. They alone decide the order of database and Nango calls.
//!
//! No transaction is open while Nango is called: read, commit, call Nango, then
//! apply the change to the current row under its lock.

mod absence;
mod account;
mod account_lookup;
pub mod brakes;
mod clock_offset;
mod connect;
mod connection_config;
mod connections;
mod core;
mod credential_check;
mod current_catalog;
mod deletions;
mod disconnect;
mod erasure;
pub mod event_notifier;
mod event_stream;
mod expiry;
mod failure;
mod idempotency;
mod list;
mod logos;
mod nango_webhooks;
pub mod orphans;
mod polls;
mod reader;
mod reconcile;
mod retention;
pub mod service_keys;
mod session;
mod statistics;
mod sweep;
mod sweep_listing;
mod token_cache;
mod token_errors;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use url::Url;

use self::account::AccountIdentifier;
use self::credential_check::CredentialChecker;
use self::event_notifier::EventNotifier;
use self::idempotency::IdempotencyKeys;
use self::list::ConnectionLists;
use self::polls::AttemptPolls;
use self::reader::ConnectionReader;
use self::reconcile::Reconciler;
use self::session::ConnectSessions;
use crate::catalog::{Catalog, CatalogMode};
use crate::clock::Clock;
use crate::db::connector_cache::ConnectorCache;
use crate::db::{self, Database};
use crate::domain::ConnectionId;
use crate::encryption::{self, Encryption};
use crate::nango::{self, Nango};

pub use self::account_lookup::AccountLookups;
pub use self::clock_offset::ClockOffset;
pub use self::connect::{ConnectFlow, ConnectRequest};
pub use self::connections::{Connections, Update};
pub use self::core::Core;
pub use self::credential_check::Health;
pub use self::current_catalog::{CatalogView, CurrentCatalog};
pub use self::deletions::DeletionQueue;
pub use self::disconnect::{DisconnectFlow, DisconnectTarget, Disconnected};
pub use self::erasure::{Erased, UserErasure};
pub use self::event_stream::{EventStreams, Events};
pub use self::expiry::AttemptExpiry;
pub use self::list::{Page, Query};
pub use self::logos::Logos;
pub use self::nango_webhooks::{NangoWebhooks, WebhookOutcome};
pub use self::orphans::Orphans;
pub use self::retention::{Pruned, Retention};
pub use self::statistics::Statistics;
pub use self::sweep::{SweepReport, SweepSchedule, Sweeper};
pub use self::tokens::{Token, TokenIssuer};

/// All use cases, each with its dependencies.
#[derive(Debug)]
pub struct Services {
    /// The dependencies that all use cases share.
    pub core: Arc<Core>,
    /// The worker that looks up connections' accounts.
    pub account_lookups: Arc<AccountLookups>,
    /// The current catalog of connectors.
    pub catalog: Arc<CurrentCatalog>,
    /// The offset of this machine's clock from the database's.
    pub clock_offset: Arc<ClockOffset>,
    /// Connect and reconnect.
    pub connect: ConnectFlow,
    /// Reads and updates of connections.
    pub connections: Connections,
    /// The queue of deletions at Nango.
    pub deletions: Arc<DeletionQueue>,
    /// Disconnect, cancel and remove.
    pub disconnect: DisconnectFlow,
    /// Erasure of users' data.
    pub erasure: UserErasure,
    /// Event streams.
    pub events: EventStreams,
    /// Expiry of attempts.
    pub expiry: AttemptExpiry,
    /// Logos of connectors.
    pub logos: Logos,
    /// Nango's webhooks.
    pub nango_webhooks: NangoWebhooks,
    /// Deletion of old data.
    pub retention: Retention,
    /// Metrics.
    pub statistics: Statistics,
    /// The sweep: the comparison with Nango's list of connections.
    pub sweeper: Sweeper,
    /// Tokens and calls through the proxy.
    pub tokens: TokenIssuer,
}

/// The settings of the use cases.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The public address of this service, part of the installation's identity.
    pub public_url: Url,
    /// The connectors that users are offered.
    pub catalog_mode: CatalogMode,
    /// The address of this service to which Nango sends webhooks.
    pub webhook_base_url: Url,
    /// The TTL of the token cache. Zero disables the cache.
    pub token_cache: Duration,
    /// The retention of events, attempts and token accesses.
    pub history: TimeDelta,
    /// The encryption of stored responses, which contain a session's link.
    pub encryption: Encryption,
}

/// An error of a use case. It is cloned for every caller that waits for a shared call.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// `NANGO_ENABLED` is false.
    #[error(
        "Nango is disabled (NANGO_ENABLED=false), so this operation is not available. Set NANGO_ENABLED=true to enable it"
    )]
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
    /// Nango has the connection under another integration than the stored one.
    #[error(
        "Nango no longer has this connection of {connector} under the integration {integration_key:?}: reconnect it"
    )]
    IntegrationChanged {
        /// The connector's name.
        connector: String,
        /// The stored integration.
        integration_key: String,
    },
    /// The user has no connection with this id. Another user may have it.
    #[error("there is no such connection")]
    ConnectionNotFound,
    /// The user has several connections of the connector, and the request names none.
    #[error("there are several connections of this connector: name one by connection_id")]
    AmbiguousConnection(Vec<ConnectionId>),
    /// A connected connection cannot be removed.
    #[error("the account is connected: disconnect it before you remove it")]
    StillConnected,
    /// The request is invalid for the connection's current state.
    #[error("{0}")]
    Invalid(String),
    /// The connection has no credentials.
    #[error("{detail}")]
    NotConnected {
        /// The slug of the connector that the user must connect.
        connector: String,
        /// The connection to reconnect; `None` if the user has none that matches.
        connection_id: Option<ConnectionId>,
        /// The instance to connect; empty for the first.
        instance_id: String,
        /// The reason.
        detail: String,
    },
    /// The credentials no longer work. The user must reauthorize the connection.
    #[error("the user must reauthorize {connector}")]
    NeedsReauthorization {
        /// The connection to reconnect.
        connection_id: ConnectionId,
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
        connection_id: ConnectionId,
        /// The connector's name.
        connector: String,
        /// The required scopes that were not granted.
        missing: Vec<String>,
    },
    /// A reconnect authorized another account.
    #[error(
        "the connection was authorized as another account: the user must choose one of the two"
    )]
    AccountMismatch,
    /// The provider does not refresh credentials at the moment.
    #[error("the provider does not refresh the credentials at the moment")]
    ProviderUnavailable,
    /// Nango has none of the most recently connected connections.
    #[error(
        "Nango has none of the most recently connected connections: NANGO_SECRET_KEY belongs to another environment, \
         or Nango responds incorrectly"
    )]
    UnknownEnvironment,
    /// Nango has not confirmed a deletion.
    #[error("the deletion is not confirmed: {0}")]
    Unconfirmed(&'static str),
    /// A webhook of Nango that is handled only after Nango sends it again.
    #[error("{0}. Send the webhook again later.")]
    WebhookDeferred(&'static str),
    /// The Idempotency-Key was used for another request.
    #[error("this Idempotency-Key was used for another request: send a new one")]
    KeyReused,
    /// A request with the same Idempotency-Key is in progress.
    #[error("a request with this Idempotency-Key is in progress: retry in a moment")]
    KeyInProgress,
    /// A stored value cannot be decrypted.
    #[error(transparent)]
    Encryption(#[from] encryption::Error),
    /// A call to Nango failed.
    #[error(transparent)]
    Nango(#[from] nango::Error),
    /// A database query failed.
    #[error(transparent)]
    Database(#[from] Arc<sqlx::Error>),
}

impl Error {
    /// Returns whether the cause is a single row that cannot be decoded, or whose new values cannot be stored (SQLSTATE
    /// classes 22 and 23). Other rows are not affected.
    pub(crate) fn concerns_one_row(&self) -> bool {
        let Self::Database(error) = self else {
            return false;
        };
        match &**error {
            sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => true,
            sqlx::Error::Database(refused) => {
                let code = refused.code().unwrap_or_default();
                code.starts_with("22") || code.starts_with("23")
            }
            _ => false,
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

type Result<T, E = Error> = std::result::Result<T, E>;

impl Services {
    /// Builds the use cases. Without a `nango`, operations that need it fail with [`Error::NangoDisabled`].
    /// Writes the catalog to the database, because connections refer to its rows.
    ///
    /// # Errors
    /// As the database. Its schema must be up to date.
    pub async fn new(
        database: Database,
        catalog: Arc<Catalog>,
        nango: Option<Nango>,
        clock: Clock,
        settings: Settings,
    ) -> Result<Self> {
        let core = Core::new(database.clone(), nango, clock, settings.public_url.clone()).await?;
        let core = Arc::new(core);
        let mut tx = core.begin().await?;
        db::seed_connectors(&mut tx, &catalog).await?;
        let connectors = db::connectors(&mut tx).await?;
        tx.commit().await?;
        let connectors = Arc::new(ConnectorCache::new(database, connectors));
        Ok(Self::compose(core, connectors, catalog, settings))
    }

    /// Passes each use case its dependencies.
    fn compose(
        core: Arc<Core>,
        connectors: Arc<ConnectorCache>,
        catalog: Arc<Catalog>,
        settings: Settings,
    ) -> Self {
        let mode = settings.catalog_mode;
        let catalog = CurrentCatalog::new(core.clone(), connectors.clone(), catalog, mode);
        let catalog = Arc::new(catalog);
        let reader = Arc::new(ConnectionReader::new(core.clone(), connectors));
        let accounts = Arc::new(AccountIdentifier::new(core.clone(), catalog.clone()));
        let checks = Arc::new(CredentialChecker::new(core.clone(), accounts.clone()));
        let reconciler = Arc::new(Reconciler::new(core.clone(), accounts.clone()));
        let polls = Arc::new(AttemptPolls::new(core.clone(), reconciler.clone()));
        let account_lookups = Arc::new(AccountLookups::new(core.clone(), accounts));
        let deletions = Arc::new(DeletionQueue::new(core.clone()));
        let clock_offset = Arc::new(ClockOffset::new(core.clone()));
        let notifier = EventNotifier::default();
        let grants = (polls.clone(), reconciler.clone());
        Self {
            connect: ConnectFlow {
                core: core.clone(),
                catalog: catalog.clone(),
                reader: reader.clone(),
                reconciler: reconciler.clone(),
                keys: IdempotencyKeys::new(core.clone(), settings.encryption),
                sessions: ConnectSessions::new(core.clone(), settings.webhook_base_url),
            },
            connections: Connections {
                core: core.clone(),
                lists: ConnectionLists::new(core.clone(), reader.clone()),
                reader: reader.clone(),
                polls: polls.clone(),
                reconciler: reconciler.clone(),
                checks: checks.clone(),
                feed: notifier.clone(),
            },
            tokens: TokenIssuer::new(
                core.clone(),
                catalog.clone(),
                reader.clone(),
                checks.clone(),
                settings.token_cache,
            ),
            logos: Logos::new(core.clone(), catalog.clone(), settings.public_url),
            disconnect: DisconnectFlow::new(core.clone(), reader, grants, deletions.clone()),
            erasure: UserErasure::new(core.clone(), deletions.clone()),
            events: EventStreams::new(core.clone(), polls, notifier),
            expiry: AttemptExpiry::new(core.clone(), reconciler.clone()),
            nango_webhooks: NangoWebhooks::new(core.clone(), reconciler.clone(), checks.clone()),
            retention: Retention::new(core.clone(), settings.history),
            statistics: Statistics::new(core.clone(), clock_offset.clone()),
            sweeper: Sweeper {
                core: core.clone(),
                reconciler,
                checks,
                lookups: account_lookups.clone(),
            },
            account_lookups,
            catalog,
            clock_offset,
            deletions,
            core,
        }
    }
}
