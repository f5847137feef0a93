//! The environment of the schedules: a sandbox, a database, and the webhooks in transit.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::{Router, extract};
use chrono::TimeDelta;
use nango_sandbox::Sandbox;
use patchbay::catalog::{Catalog, CatalogMode};
use patchbay::clock::Clock;
use patchbay::db::Database;
use patchbay::domain::AttemptId;
use patchbay::encryption::Encryption;
use patchbay::nango::webhook::{self, Event, SigningKeys};
use patchbay::nango::{self, Nango, Refresh};
use patchbay::service::{Services, Settings};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::test_app::{client, integrations, popup, test_clock};
use crate::test_database::{self, TestDatabase};

/// The account endpoint of the sandbox's provider for Gmail connections. GitHub accounts are not identified.
const ACCOUNTS: &str = r#"
[[connector]]
slug = "gmail"
account = { id = "/raw/account/id", name = "/raw/account/name" }
"#;

/// Too short for a retry, so that each fault causes an error.
const SHORT_TIMEOUT: Duration = Duration::from_millis(95);

/// For a Nango without faults on a busy machine.
const LONG_TIMEOUT: Duration = Duration::from_secs(10);

/// A webhook that the sandbox has sent.
#[derive(Clone)]
pub(super) struct Mail {
    pub(super) attempt: Option<AttemptId>,
    pub(super) event: Event,
}

pub(super) type Mailbox = Arc<Mutex<Vec<Mail>>>;

/// The environment, which schedules use one after the other.
pub(super) struct Environment {
    pub(super) clock: Clock,
    pub(super) nango: Nango,
    pub(super) mailbox: Mailbox,
    impatient: Nango,
    sandbox: Sandbox,
    secret_key: String,
    client: Client,
    catalog: Arc<Catalog>,
    public_url: String,
    connections: Database,
    database: TestDatabase,
}

impl Environment {
    pub(super) async fn new() -> Self {
        let clock = test_clock();
        let (secret_key, signing_key) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
        let mailbox = Mailbox::default();
        let public_url = receive(mailbox.clone(), &signing_key).await;
        let sandbox = Sandbox::start(nango_sandbox::Config {
            secret_key: secret_key.clone(),
            webhook_signing_key: signing_key,
            webhook_url: Some(format!("{public_url}/api/v1/webhooks/nango")),
            integrations: integrations(),
            clock: crate::test_app::sandbox_clock(&clock),
            rate_limit: u32::MAX,
            ..nango_sandbox::Config::default()
        })
        .await
        .unwrap();
        let nango = |timeout| {
            Nango::new(nango::Config {
                base_url: format!("http://{}", sandbox.address()).parse().unwrap(),
                public_url: format!("http://{}", sandbox.address()).parse().unwrap(),
                secret_key: secret_key.clone().into(),
                timeout,
            })
            .unwrap()
        };
        let database = test_database::database().await;
        let connections = test_database::pool(database.url(), 4).await.unwrap();
        connections.migrate().await.unwrap();
        Self {
            clock,
            nango: nango(LONG_TIMEOUT),
            impatient: nango(SHORT_TIMEOUT),
            mailbox,
            secret_key,
            client: client(),
            catalog: Arc::new(catalog()),
            public_url,
            connections,
            sandbox,
            database,
        }
    }

    /// Starts a replica.
    pub(super) async fn replica(&self) -> Services {
        self.service(self.impatient.clone()).await
    }

    /// Starts a replica that tolerates a slow Nango.
    pub(super) async fn replica_with_long_timeout(&self) -> Services {
        self.service(self.nango.clone()).await
    }

    async fn service(&self, nango: Nango) -> Services {
        Services::new(
            self.connections.clone(),
            self.catalog.clone(),
            Some(nango),
            self.clock.clone(),
            Settings {
                public_url: self.public_url.parse().unwrap(),
                catalog_mode: CatalogMode::All,
                webhook_base_url: self.public_url.parse().unwrap(),
                token_cache: Duration::ZERO,
                history: TimeDelta::days(1),
                encryption: Encryption::default(),
            },
        )
        .await
        .unwrap()
    }

    pub(super) async fn sql(&self) -> PgConnection {
        PgConnection::connect(self.database.url()).await.unwrap()
    }

    pub(super) fn advance(&self, time: TimeDelta) {
        self.clock.advance(time);
    }

    /// Completes a popup. Returns `true` if access was granted.
    pub(super) async fn popup(&self, url: &str) -> bool {
        popup(&self.client, url).await.status() == StatusCode::OK
    }

    pub(super) async fn faults(&self, faults: Value) {
        self.sandbox(Method::PUT, "/sandbox/faults", &faults).await;
    }

    /// Deletes a connection directly at Nango. Nango must have no faults.
    pub(super) async fn delete_at_nango(&self, nango_id: &str, integration: &str) {
        let path = format!("/connections/{nango_id}?provider_config_key={integration}");
        self.sandbox(Method::DELETE, &path, &Value::Null).await;
    }

    /// Revokes an account's grant, and makes Nango notice by a refresh. Nango must have no faults.
    pub(super) async fn revoke(&self, nango_id: &str, integration: &str) {
        let named = json!({ "connection_id": nango_id });
        self.sandbox(Method::POST, "/sandbox/revoke", &named).await;
        let refresh = "force_refresh=true";
        let path = format!("/connections/{nango_id}?provider_config_key={integration}&{refresh}");
        self.sandbox(Method::GET, &path, &Value::Null).await;
    }

    /// Makes Nango retry its failed refreshes, as it does automatically.
    pub(super) async fn retry_failed_refreshes(&self) {
        for stored in self.nango.connections(&Default::default()).await.unwrap() {
            if !stored.errors.is_empty() {
                let (id, key) = (&stored.connection_id, &stored.provider_config_key);
                // The next list shows whether the refresh succeeded.
                let _ = self.nango.connection(id, key, Refresh::Force).await;
            }
        }
    }

    async fn sandbox(&self, method: Method, path: &str, body: &Value) {
        let url = format!("http://{}{path}", self.sandbox.address());
        let request = self
            .client
            .request(method, url)
            .bearer_auth(&self.secret_key);
        // A missing connection counts as deleted or revoked.
        request.json(body).send().await.unwrap();
    }

    /// Deletes all connections, so that the next schedule starts empty.
    pub(super) async fn clear(&self) {
        let mut sql = self.sql().await;
        sqlx::raw_sql(
            "delete from user_connector_connection; \
             update brake set count = 0, engaged_at = null, released_until = null",
        )
        .execute(&mut sql)
        .await
        .unwrap();
        self.mailbox.lock().unwrap().clear();
    }
}

/// Receives webhooks at the service's paths, verifies their signatures, and stores them. Returns the base URL.
async fn receive(mailbox: Mailbox, signing_key: &str) -> String {
    let keys = SigningKeys::new(&[signing_key.into()]).unwrap();
    let keep = move |attempt: Option<AttemptId>, headers: &HeaderMap, body: &Bytes| {
        let signature = headers.get(webhook::SIGNATURE_HEADER).unwrap().to_str();
        keys.verify(body, Some(signature.unwrap())).unwrap();
        let event = webhook::parse(body).unwrap();
        mailbox.lock().unwrap().push(Mail { attempt, event });
        StatusCode::NO_CONTENT
    };
    let keep_for_all = keep.clone();
    let router = Router::new()
        .route(
            "/api/v1/webhooks/nango",
            axum::routing::post(async move |headers: HeaderMap, body: Bytes| {
                keep_for_all(None, &headers, &body)
            }),
        )
        .route(
            "/api/v1/webhooks/nango/{attempt}",
            axum::routing::post(
                async move |extract::Path(attempt): extract::Path<AttemptId>,
                            headers: HeaderMap,
                            body: Bytes| keep(Some(attempt), &headers, &body),
            ),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, router).into_future());
    url
}

fn catalog() -> Catalog {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path: &Path = file.path();
    std::fs::write(path, ACCOUNTS).unwrap();
    Catalog::load(Some(path)).unwrap()
}
