//! Repeatedly kills the service at random moments under load. Acknowledged results are kept, and pending operations
//! complete.
//!
//! Run by `scripts/crash`, with `PATCHBAY_BINARY` (the program to kill) and `KILLS`.

mod load;
mod service_process;

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::future::join_all;
use nango_sandbox::Sandbox;
use patchbay::nango::{self, Nango};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::invariants;
use crate::test_app::{JWT_SECRET, free_port, integrations};
use crate::test_database::{self, TestDatabase};

use load::{Acknowledged, Counts, Environment, User, random, weather};
use service_process::LaunchConfig;

const USERS: usize = 16;

/// The timeout of the whole test.
const AT_MOST: Duration = Duration::from_secs(900);

/// The sandbox, the database and the service between them.
struct Setup {
    sandbox: Sandbox,
    database: TestDatabase,
    nango: Nango,
    recipe: LaunchConfig,
    client: Client,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes minutes: scripts/crash runs it"]
async fn random_kills_lose_and_invent_nothing() {
    tokio::time::timeout(AT_MOST, run())
        .await
        .expect("an end in time");
}

async fn run() {
    let kills = std::env::var("KILLS").map_or(100, |kills| kills.parse().unwrap());
    let setup = Setup::new().await;
    let environment = Environment {
        url: setup.recipe.url.clone(),
        client: setup.client.clone(),
        counts: Counts::default(),
        acknowledged: Acknowledged::default().into(),
        stop: CancellationToken::new(),
    };
    let mut users = Vec::new();
    for number in 0..USERS {
        users.push(User::new(&environment, setup.token(&format!("user-{number}")).await).run());
    }
    let began = Instant::now();
    let (last, _, ()) = tokio::join!(
        setup.kill(kills, &environment.stop),
        join_all(users),
        setup.change_faults(&environment.stop)
    );
    println!("{kills} kills in {:.0?}", began.elapsed());
    let acknowledged = std::mem::take(&mut *environment.acknowledged.lock().unwrap());
    let unsettled = setup.violations().await;
    let mut failures = environment
        .settle(&acknowledged, &mut setup.sql().await)
        .await;
    failures.extend(setup.violations().await);
    last.kill().await;
    report(
        &environment.counts,
        &acknowledged,
        &setup,
        &unsettled,
        &failures,
    )
    .await;
    assert!(failures.is_empty(), "{} violations", failures.len());
}

/// Returns a client that follows no redirect, with a shorter timeout than real callers.
fn client() -> Client {
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(10))
        .build()
        .unwrap()
}

impl Setup {
    async fn new() -> Self {
        let database = test_database::database().await;
        let (secret_key, signing_key) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
        let port = free_port();
        let url = format!("http://127.0.0.1:{port}");
        let sandbox = Sandbox::start(nango_sandbox::Config {
            secret_key: secret_key.clone(),
            webhook_signing_key: signing_key.clone(),
            webhook_url: Some(format!("{url}/api/v1/webhooks/nango")),
            jwt_secret: JWT_SECRET.into(),
            integrations: integrations(),
            rate_limit: u32::MAX,
            webhook_retries: vec![Duration::from_millis(500), Duration::from_millis(1500)],
            ..nango_sandbox::Config::default()
        })
        .await
        .unwrap();
        let base_url = format!("http://{}", sandbox.address());
        let nango = Nango::new(nango::Config {
            base_url: base_url.parse().unwrap(),
            public_url: base_url.parse().unwrap(),
            secret_key: secret_key.clone().into(),
            timeout: Duration::from_secs(20),
        });
        let client = client();
        let settings = vec![
            ("HOST", Ipv4Addr::LOCALHOST.to_string()),
            ("PORT", port.to_string()),
            ("PUBLIC_URL", url.clone()),
            ("DATABASE_URL", database.url().to_owned()),
            ("DATABASE_POOL_SIZE", "10".to_owned()),
            ("NANGO_BASE_URL", base_url),
            ("NANGO_SECRET_KEY", secret_key),
            ("NANGO_WEBHOOK_SIGNING_KEY", signing_key),
            ("NANGO_TIMEOUT_SECONDS", "2".to_owned()),
            ("AUTH_JWT_SECRET", JWT_SECRET.to_owned()),
            ("SWEEP_INTERVAL_SECONDS", "2".to_owned()),
            ("LOG_FORMAT", "json".to_owned()),
        ];
        let recipe = LaunchConfig {
            binary: std::env::var_os("PATCHBAY_BINARY")
                .map_or(env!("CARGO_BIN_EXE_patchbay").into(), Into::into),
            settings,
            folder: empty_folder(),
            url,
            client: client.clone(),
        };
        Self {
            sandbox,
            database,
            nango: nango.unwrap(),
            recipe,
            client,
        }
    }

    /// Kills the service this many times, and leaves one running.
    async fn kill(
        &self,
        kills: usize,
        stop: &CancellationToken,
    ) -> service_process::ServiceProcess {
        for kill in 1..=kills {
            let process = self.recipe.start().await;
            // Long enough to start operations, and often too short to finish them.
            tokio::time::sleep(Duration::from_millis(random(1200) as u64)).await;
            process.kill().await;
            if kill % 25 == 0 {
                println!("{kill} kills");
            }
        }
        let last = self.recipe.start().await;
        stop.cancel();
        last
    }

    /// Changes the faults of Nango at intervals, and removes them in the end.
    async fn change_faults(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            self.control(Method::PUT, "faults", &weather()).await;
            let pause = Duration::from_millis(random(2000) as u64);
            stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
        self.control(Method::PUT, "faults", &json!({})).await;
    }

    async fn token(&self, user: &str) -> String {
        let answer = self
            .control(Method::POST, "token", &json!({ "user": user }))
            .await;
        answer["token"].as_str().unwrap().to_owned()
    }

    async fn control(&self, method: Method, what: &str, body: &Value) -> Value {
        let url = format!("http://{}/sandbox/{what}", self.sandbox.address());
        let response = self.client.request(method, url).json(body).send().await;
        response.unwrap().json().await.unwrap()
    }

    async fn sql(&self) -> PgConnection {
        PgConnection::connect(self.database.url()).await.unwrap()
    }

    async fn violations(&self) -> Vec<String> {
        invariants::violations(&mut self.sql().await, &self.nango, &HashSet::new()).await
    }
}

/// Returns the folder in which the service runs and stores its log.
fn empty_folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("crash");
    // It exists after an earlier run.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

async fn report(
    counts: &Counts,
    acknowledged: &Acknowledged,
    setup: &Setup,
    unsettled: &[String],
    failures: &[String],
) {
    let number = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let mut sql = setup.sql().await;
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "select status, count(*) from user_connector_connection group by 1 order by 1",
    )
    .fetch_all(&mut sql)
    .await
    .unwrap();
    let (attempts, events): (i64, i64) = sqlx::query_as(
        "select (select count(*) from connect_attempt), (select count(*) from connection_event)",
    )
    .fetch_one(&mut sql)
    .await
    .unwrap();
    let unanswered = acknowledged
        .keyed
        .iter()
        .filter(|keyed| keyed.answer.is_none())
        .count();
    println!(
        "requests {}, answered {}",
        number(&counts.requests),
        number(&counts.answered)
    );
    println!(
        "grants {}, denials and refusals {}, disconnects answered {}",
        number(&counts.grants),
        number(&counts.denials),
        number(&counts.disconnects)
    );
    println!(
        "connects answered {}, keys repeated {}, of them never answered before {unanswered}",
        acknowledged.started.len(),
        acknowledged.keyed.len()
    );
    println!("rows {rows:?}, attempts {attempts}, events {events}");
    println!(
        "expectations held against the end {}",
        acknowledged.expected.len()
    );
    let orphans = unsettled
        .iter()
        .filter(|what| what.starts_with("Nango holds"));
    println!(
        "not settled right after the last kill {}, of them at Nango without a row {}",
        unsettled.len(),
        orphans.count()
    );
    println!("violations {}", failures.len());
    for failures in failures {
        println!("  {failures}");
    }
}
