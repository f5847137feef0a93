//! The state of the sandbox, behind one lock that is never held across an await.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::Config;
use crate::auth::RateBudget;
use crate::control::ReceivedCall;
use crate::credentials::Credentials;
use crate::faults::Faults;
use crate::integrations::StoredIntegration;
use crate::provider::Provider;
use crate::schema::Tags;
use crate::webhooks::Delivery;

/// The state that all handlers share.
#[derive(Clone)]
pub(super) struct App(Arc<Shared>);

/// The constant part, and the lock of the variable part.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) public_url: String,
    pub(super) http: reqwest::Client,
    /// The proxy's client, which follows redirects and has no timeout of its own.
    pub(super) redirected: reqwest::Client,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    /// Releases the responses that a fault holds.
    pub(super) releases: Notify,
    state: Mutex<State>,
}

/// The variable part.
pub(super) struct State {
    pub(super) faults: Faults,
    pub(super) budget: RateBudget,
    pub(super) session_budget: RateBudget,
    pub(super) webhook_signing_key: String,
    pub(super) integrations: Vec<StoredIntegration>,
    pub(super) sessions: HashMap<String, Session>,
    /// Authorizations in progress, by their OAuth `state`.
    pub(super) flows: HashMap<Uuid, Flow>,
    pub(super) connections: Vec<Connection>,
    /// The environments that the secret key does not open now.
    pub(super) closed_environments: HashMap<Option<String>, Environment>,
    pub(super) last_connection: u64,
    pub(super) last_created_at: DateTime<Utc>,
    pub(super) provider: Provider,
    pub(super) calls: VecDeque<ReceivedCall>,
    pub(super) last_call: u64,
    pub(super) deliveries: Vec<Delivery>,
}

/// The owner of a session or a connection, as named by the caller.
#[derive(Clone)]
pub(super) struct EndUser {
    pub(super) id: String,
    pub(super) email: Option<String>,
    pub(super) display_name: Option<String>,
    pub(super) tags: Option<Tags>,
    pub(super) organization: Option<Organization>,
}

/// The organization of an end user.
#[derive(Clone)]
pub(super) struct Organization {
    pub(super) id: String,
    pub(super) display_name: Option<String>,
}

/// A connect session, stored by its token.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) end_user: Option<EndUser>,
    pub(super) tags: Tags,
    /// The allowed integrations; empty allows all.
    pub(super) allowed: Vec<String>,
    pub(super) defaults: BTreeMap<String, IntegrationDefaults>,
    pub(super) webhook_url_override: Option<String>,
    /// The connection to reauthorize, in a reconnect session.
    pub(super) reconnect: Option<String>,
    pub(super) expires_at: DateTime<Utc>,
}

impl Session {
    /// Returns a connection's configuration: the browser's parameters, overridden by the session's presets.
    pub(super) fn config(
        &self,
        integration: &str,
        given: impl IntoIterator<Item = (String, String)>,
    ) -> Map<String, Value> {
        let given = given.into_iter();
        let mut config: Map<_, _> = given.map(|(name, value)| (name, value.into())).collect();
        if let Some(preset) = self.defaults.get(integration) {
            config.extend(preset.connection_config.clone());
        }
        config
    }

    pub(super) fn allows(&self, integration: &str) -> bool {
        self.allowed.is_empty() || self.allowed.iter().any(|key| key == integration)
    }
}

/// The presets of a session for one integration.
#[derive(Clone, Default)]
pub(super) struct IntegrationDefaults {
    pub(super) user_scopes: Option<String>,
    pub(super) authorization_params: Map<String, Value>,
    pub(super) connection_config: Map<String, Value>,
}

/// An authorization that was redirected to the provider.
pub(super) struct Flow {
    pub(super) session: Session,
    pub(super) integration: String,
    /// The id of the new or existing connection.
    pub(super) connection_id: String,
    pub(super) connection_config: Map<String, Value>,
    pub(super) redirect_uri: String,
    pub(super) code_verifier: String,
}

/// A stored connection.
pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) connection_id: String,
    pub(super) integration: String,
    pub(super) end_user: Option<EndUser>,
    pub(super) tags: Tags,
    pub(super) metadata: Option<Map<String, Value>>,
    pub(super) connection_config: Map<String, Value>,
    pub(super) webhook_url_override: Option<String>,
    pub(super) credentials: Credentials,
    /// The failure of the last refresh, until one succeeds.
    pub(super) refresh_failure: Option<RefreshFailure>,
    /// `true` if Nango has stopped automatic refreshes.
    pub(super) refresh_exhausted: bool,
    pub(super) created_at: DateTime<Utc>,
    pub(super) updated_at: DateTime<Utc>,
    pub(super) last_fetched_at: DateTime<Utc>,
}

/// What an environment has of its own.
pub(super) struct Environment {
    connections: Vec<Connection>,
    integrations: Vec<StoredIntegration>,
}

/// The time of a failed refresh, and its log entry for `errors`.
pub(super) struct RefreshFailure {
    pub(super) at: DateTime<Utc>,
    pub(super) log_id: String,
}

impl App {
    pub(super) fn new(
        config: Config,
        public_url: String,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(20))
            .build()
            .map_err(io::Error::other)?;
        let redirected = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::limited(5))
            .build()
            .map_err(io::Error::other)?;
        let now = (config.clock)();
        let state = State {
            faults: Faults::default(),
            budget: RateBudget::default(),
            session_budget: RateBudget::default(),
            webhook_signing_key: config.webhook_signing_key.clone(),
            integrations: StoredIntegration::from_config(&config.integrations, now),
            sessions: HashMap::new(),
            flows: HashMap::new(),
            connections: Vec::new(),
            closed_environments: HashMap::new(),
            last_connection: 0,
            last_created_at: DateTime::<Utc>::MIN_UTC,
            provider: Provider::default(),
            calls: VecDeque::new(),
            last_call: 0,
            deliveries: Vec::new(),
        };
        Ok(Self(Arc::new(Shared {
            config,
            public_url,
            http,
            redirected,
            tasks,
            stop,
            releases: Notify::new(),
            state: Mutex::new(state),
        })))
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        (self.config.clock)()
    }

    /// Locks the state. It stays usable after a panic of a handler, because no change spans several locks.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl State {
    /// Makes the secret key open this environment.
    pub(super) fn open_environment(&mut self, environment: Option<&String>) {
        if environment == self.faults.environment.as_ref() {
            return;
        }
        let opened = self.closed_environments.remove(&environment.cloned());
        let opened = opened.unwrap_or_else(|| Environment {
            connections: Vec::new(),
            integrations: self
                .integrations
                .iter()
                .map(StoredIntegration::recreated)
                .collect(),
        });
        let closed = Environment {
            connections: std::mem::replace(&mut self.connections, opened.connections),
            integrations: std::mem::replace(&mut self.integrations, opened.integrations),
        };
        let name = self.faults.environment.clone();
        self.closed_environments.insert(name, closed);
    }

    pub(super) fn integration(&self, key: &str) -> Option<&StoredIntegration> {
        self.integrations.iter().find(|it| it.unique_key == key)
    }

    pub(super) fn connection(&self, id: &str, integration: &str) -> Option<&Connection> {
        self.connections.iter().find(|it| it.is(id, integration))
    }

    /// Returns the connection of an app's installation.
    pub(super) fn with_installation(&self, key: &str, installation: &Value) -> Option<&Connection> {
        let config =
            |it: &Connection| it.connection_config.get("installation_id") == Some(installation);
        let mut connections = self.connections.iter();
        connections.find(|it| it.integration == key && config(it))
    }

    pub(super) fn connection_mut(
        &mut self,
        id: &str,
        integration: &str,
    ) -> Option<&mut Connection> {
        self.connections
            .iter_mut()
            .find(|it| it.is(id, integration))
    }

    /// Returns the serial id and creation time of a new connection. Both are greater than those of every earlier
    /// connection: lists show milliseconds, and no two connections have the same time.
    pub(super) fn next_connection(&mut self, now: DateTime<Utc>) -> (u64, DateTime<Utc>) {
        self.last_connection += 1;
        self.last_created_at = now.max(self.last_created_at + TimeDelta::milliseconds(1));
        (self.last_connection, self.last_created_at)
    }

    /// Returns the live session of a token.
    pub(super) fn session(&self, token: &str, now: DateTime<Utc>) -> Option<&Session> {
        let session = self.sessions.get(token)?;
        (session.expires_at > now).then_some(session)
    }
}

impl Connection {
    fn is(&self, id: &str, integration: &str) -> bool {
        self.connection_id == id && self.integration == integration
    }
}
