//! The replicas, their database and Nango, and the invariants between them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dev_postgres::{DevPostgres, Durability};
use nango_sandbox::{Integration, Sandbox};
use patchbay::catalog::{Catalog, Connector};
use patchbay::nango::{self, Nango};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::invariants;
use crate::load::{random, weather};
use crate::measurements::Measurements;
use crate::service::Service;

const REPLICAS: usize = 2;

/// A service key with all scopes.
pub(crate) const SERVICE_KEY: &str = "pbk_soak_0123456789abcdef0123456789abcdef";

const METRICS_TOKEN: &str = "a token of the soak's only";
const JWT_SECRET: &str = "a secret of the soak that has 32 bytes and more";

pub(crate) struct Setup {
    pub(crate) client: Client,
    sandbox: Sandbox,
    postgres: DevPostgres,
    database: String,
    nango: Nango,
    replicas: Vec<Service>,
}

fn integrations() -> Vec<Integration> {
    let of = |connector: &Connector| {
        Some(Integration {
            unique_key: connector.integration_key.clone(),
            provider: connector.provider.clone()?,
            display_name: connector.name.clone(),
            auth_mode: connector.auth_mode?.to_string(),
        })
    };
    Catalog::builtin().iter().filter_map(of).collect()
}

/// Creates an empty database.
async fn database(server: &str) -> String {
    let name = format!("soak_{}", Uuid::new_v4().simple());
    let mut sql = PgConnection::connect(server).await.unwrap();
    let left: Vec<String> =
        sqlx::query_scalar("select datname::text from pg_database where datname like 'soak\\_%'")
            .fetch_all(&mut sql)
            .await
            .unwrap();
    for old in left {
        sqlx::raw_sql(AssertSqlSafe(format!("drop database {old} with (force)")))
            .execute(&mut sql)
            .await
            .unwrap();
    }
    sqlx::raw_sql(AssertSqlSafe(format!("create database {name}")))
        .execute(&mut sql)
        .await
        .unwrap();
    sql.close().await.unwrap();
    let mut url: url::Url = server.parse().unwrap();
    url.set_path(&name);
    url.into()
}

/// Starts two replicas of the release program.
async fn replicas(
    root: &Path,
    database: &str,
    base_url: &str,
    secret_key: &str,
    signing_key: &str,
) -> Vec<Service> {
    let key = format!("soak={SERVICE_KEY}");
    let variables = [
        ("DATABASE_URL", database),
        ("DATABASE_POOL_SIZE", "10"),
        ("NANGO_BASE_URL", base_url),
        ("NANGO_SECRET_KEY", secret_key),
        ("NANGO_WEBHOOK_SIGNING_KEY", signing_key),
        ("NANGO_TIMEOUT_SECONDS", "2"),
        ("AUTH_JWT_SECRET", JWT_SECRET),
        ("SERVICE_API_KEYS", &key),
        ("METRICS_TOKEN", METRICS_TOKEN),
        ("SWEEP_INTERVAL_SECONDS", "2"),
        ("TOKEN_CACHE_TTL_SECONDS", "1"),
        ("KEEP_ALIVE_SECONDS", "5"),
        ("RATE_LIMIT_USER_PER_MINUTE", "0"),
        ("RATE_LIMIT_CONNECT_PER_MINUTE", "0"),
        ("RATE_LIMIT_ADDRESS_PER_MINUTE", "0"),
        ("RUST_LOG", "warn"),
    ];
    let mut replicas = Vec::new();
    for number in 0..REPLICAS {
        let folder = root.join(format!("target/soak/replica-{number}"));
        std::fs::create_dir_all(&folder).unwrap();
        let program = std::env::var_os("PATCHBAY_BINARY")
            .map_or_else(|| root.join("target/release/patchbay"), PathBuf::from);
        replicas.push(Service::start(&program, &folder, &variables).await.unwrap());
    }
    replicas
}

impl Setup {
    /// Starts the database, Nango and the replicas, in target/soak.
    pub(crate) async fn start() -> Self {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join("target/soak");
        let postgres = DevPostgres::start(&folder.join("postgres"), Durability::Disposable)
            .await
            .unwrap();
        let database = database(postgres.url()).await;
        let (secret_key, signing_key) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
        let sandbox = Sandbox::start(nango_sandbox::Config {
            secret_key: secret_key.clone(),
            webhook_signing_key: signing_key.clone(),
            jwt_secret: JWT_SECRET.into(),
            integrations: integrations(),
            rate_limit: u32::MAX,
            webhook_retries: vec![Duration::from_millis(500), Duration::from_millis(1500)],
            ..nango_sandbox::Config::default()
        });
        let sandbox = sandbox.await.unwrap();
        let base_url = format!("http://{}", sandbox.address());
        let replicas = replicas(&root, &database, &base_url, &secret_key, &signing_key).await;
        let nango = Nango::new(nango::Config {
            base_url: base_url.parse().unwrap(),
            public_url: base_url.parse().unwrap(),
            secret_key: secret_key.into(),
            timeout: Duration::from_secs(20),
        });
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(30))
            .pool_idle_timeout(Duration::from_secs(3))
            .build();
        Self {
            client: client.unwrap(),
            sandbox,
            postgres,
            database,
            nango: nango.unwrap(),
            replicas,
        }
    }

    pub(crate) fn urls(&self) -> impl Iterator<Item = &str> {
        self.replicas.iter().map(|replica| replica.url.as_str())
    }

    pub(crate) async fn stop(self) {
        for replica in &self.replicas {
            println!(
                "a replica has taken {:.0?} of the processor",
                replica.cpu().unwrap()
            );
        }
        drop(self.replicas);
        self.sandbox.stop().await;
        self.postgres.stop().await;
    }

    pub(crate) async fn measurements(&self) -> Measurements {
        let count = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
        let mut sql = self.sql().await;
        let database = sqlx::query_scalar(count).fetch_one(&mut sql).await.unwrap();
        sql.close().await.unwrap();
        Measurements::of(&self.replicas, &self.client, METRICS_TOKEN, database).await
    }

    /// Changes the faults of Nango at intervals, and removes them in the end.
    pub(crate) async fn change_faults(&self, stop: &CancellationToken) {
        let mut changes = 0;
        while !stop.is_cancelled() {
            let faults = if random(12) == 0 {
                json!({ "expired_sessions": true })
            } else {
                weather()
            };
            self.control("faults", Method::PUT, &faults).await;
            changes += 1;
            let pause = Duration::from_millis(random(2000) as u64);
            stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
        self.control("faults", Method::PUT, &json!({})).await;
        println!("           Nango's faults were switched {changes} times");
    }

    async fn control(&self, what: &str, method: Method, body: &Value) -> Value {
        let url = format!("http://{}/sandbox/{what}", self.sandbox.address());
        let answer = self.client.request(method, url).json(body).send().await;
        answer.unwrap().json().await.unwrap()
    }

    /// Returns a token of a user.
    pub(crate) async fn token(&self, user: &str) -> String {
        let answer = self
            .control("token", Method::POST, &json!({ "user": user }))
            .await;
        answer["token"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn sql(&self) -> PgConnection {
        PgConnection::connect(&self.database).await.unwrap()
    }

    pub(crate) async fn violations(&self) -> Vec<String> {
        let found =
            invariants::violations(&mut self.sql().await, &self.nango, &HashSet::new()).await;
        // The sweep keeps a grant of an erased user for an hour, because its row might be just being inserted.
        let (waiting, failures): (Vec<_>, Vec<_>) = found
            .into_iter()
            .partition(|what| what.contains(" of guest-") && what.ends_with("of no row at all"));
        println!(
            "           {} grants of users who were erased wait for the sweep's hour",
            waiting.len()
        );
        failures
    }
}
