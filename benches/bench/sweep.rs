//! A sweep of a million connections: its time, its calls and its memory, a kill in the middle, and a lost grant meanwhile.

use std::error::Error;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use nango_sandbox::NewConnection;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::data::{self, CONNECTIONS, CONNECTORS, Rows};
use crate::measure::{API, Bench};
use crate::nango::Nango;
use crate::report::Report;
use crate::service::Service;

const USERS: u32 = 100_000;
/// How many pages Nango's list has.
const PAGES: u32 = USERS * CONNECTIONS / 1000;
/// Nango's limit of calls a minute, unless `BENCH_NANGO_LIMIT` has another: that of a paid plan.
const LIMIT: u32 = 2_000;
/// How many of a limit of 200 calls a sweep takes.
const SHARE: f64 = 30.0 / 200.0;
/// How often the newest pages are read meanwhile, in seconds.
const INTERVAL: &str = "30";
/// A sweep that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(60 * 60);

/// A database, and a Nango that has its connections.
struct Swept<'a> {
    bench: &'a Bench,
    database: String,
    sql: PgConnection,
    nango: Nango,
    installation: Uuid,
}

pub(crate) async fn measure(bench: &Bench, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let limit = std::env::var("BENCH_NANGO_LIMIT").map_or(Ok(LIMIT), |limit| limit.parse())?;
    let mut swept = Swept::prepare(bench, limit).await?;
    let calls = swept.nango.sandbox.received_calls();
    let changed = swept.changed().await?;
    let started = Instant::now();
    let first = swept.start().await?;
    let half = format!(
        "select coalesce(max(page), 0) >= {} from sweep_pass",
        PAGES / 2
    );
    swept.until(&half).await?;
    let (_, memory) = first.memory()?;
    // Killed: another replica continues at the page.
    drop(first);
    let second = swept.start().await?;
    let found = swept.lost_grant(&second).await?;
    swept
        .until("select exists (select from job where name = 'sweep' and finished_at is not null)")
        .await?;
    let minutes = started.elapsed().as_secs_f64() / 60.0;
    let calls = swept.nango.sandbox.received_calls() - calls;
    let changed = swept.changed().await? - changed;
    let memory = memory.max(second.memory()?.1);
    let what = format!("sweep of 1 million connections at {limit} calls a minute");
    let expected = f64::from(PAGES) / (f64::from(limit) * SHARE);
    report.at_most(&format!("{what}, minutes"), minutes, expected * 1.5);
    report.at_most(
        &format!("{what}, calls"),
        calls as f64,
        f64::from(PAGES) * 1.2,
    );
    report.at_most(&format!("{what}, memory in MiB"), memory, 100.0);
    report.at_most(
        &format!("{what}, connections that it changed wrongly"),
        changed as f64,
        0.0,
    );
    report.at_most(
        "a grant without a webhook is found meanwhile within, s",
        found.as_secs_f64(),
        60.0,
    );
    Ok(())
}

impl<'a> Swept<'a> {
    async fn prepare(bench: &'a Bench, limit: u32) -> Result<Self, Box<dyn Error>> {
        let database = data::database(&bench.postgres, USERS, Rows::WithAttempts).await?;
        let mut swept = Self {
            bench,
            sql: PgConnection::connect(&database).await?,
            database,
            nango: Nango::with_limit(limit).await?,
            installation: Uuid::nil(),
        };
        // The first start makes the installation's id, which Nango's connections carry.
        drop(swept.start().await?);
        swept.installation = sqlx::query_scalar("select id from installation")
            .fetch_one(&mut swept.sql)
            .await?;
        let stored = swept.stored().await?;
        swept.nango.sandbox.store_connections(stored);
        sqlx::raw_sql("delete from sweep_pass; delete from job where name like 'sweep%'")
            .execute(&mut swept.sql)
            .await?;
        Ok(swept)
    }

    async fn start(&self) -> Result<Service, Box<dyn Error>> {
        let variables = [
            ("DATABASE_URL", self.database.as_str()),
            ("NANGO_BASE_URL", self.nango.url()),
            ("NANGO_SECRET_KEY", &self.nango.secret_key),
            ("NANGO_WEBHOOK_SIGNING_KEY", &self.nango.signing_key),
            ("AUTH_JWT_SECRET", data::JWT_SECRET),
            ("SWEEP_INTERVAL_SECONDS", INTERVAL),
        ];
        Service::start(&self.bench.program, &self.bench.folder, &variables).await
    }

    /// All connections that Nango has by the rows.
    async fn stored(&mut self) -> Result<Vec<NewConnection>, Box<dyn Error>> {
        type Row = (String, String, String, Uuid, Uuid, DateTime<Utc>);
        let mut rows = sqlx::query_as::<_, Row>(
            "select nango_connection_id, integration_key, user_id, id, attempt_id, nango_created_at \
             from user_connector_connection where status = 'connected' order by nango_created_at",
        )
        .fetch(&mut self.sql);
        let mut all = Vec::new();
        while let Some((nango_id, integration, user, id, attempt, created_at)) =
            rows.try_next().await?
        {
            let tags = [user, id.to_string(), attempt.to_string()];
            all.push(connection(
                nango_id,
                &integration,
                self.installation,
                tags,
                created_at,
            ));
        }
        Ok(all)
    }

    /// How many connections are not connected.
    async fn changed(&mut self) -> Result<i64, Box<dyn Error>> {
        let count = sqlx::query_scalar(
            "select count(*) from user_connector_connection where status <> 'connected'",
        );
        Ok(count.fetch_one(&mut self.sql).await?)
    }

    /// Lets Nango have the grant of an attempt whose webhook never comes and for which no caller waits. Returns how soon it
    /// is connected.
    async fn lost_grant(&mut self, service: &Service) -> Result<Duration, Box<dyn Error>> {
        let (user, integration) = ("user-1", CONNECTORS[0]);
        let url = format!(
            "{}{API}/{integration}/connect?instance_id={}",
            service.url,
            Uuid::new_v4()
        );
        let request = self.bench.client.post(url).bearer_auth(data::token(user)?);
        let started: Value = request.send().await?.error_for_status()?.json().await?;
        let text = |name: &str| started[name].as_str().map(str::to_owned).ok_or("no id");
        let (id, attempt) = (text("connection_id")?, text("attempt_id")?);
        let now = std::time::SystemTime::now().into();
        let tags = [user.to_owned(), id.clone(), attempt.clone()];
        let nango_id = format!("lost-{attempt}");
        let lost = connection(nango_id, integration, self.installation, tags, now);
        self.nango.sandbox.store_connections([lost]);
        let since = Instant::now();
        self.until(&format!(
            "select status = 'connected' from user_connector_connection where id = '{id}'"
        ))
        .await?;
        Ok(since.elapsed())
    }

    /// Waits until a query returns `true`.
    async fn until(&mut self, query: &str) -> Result<(), Box<dyn Error>> {
        let since = Instant::now();
        while since.elapsed() < DEADLINE {
            let query = sqlx::query_scalar(AssertSqlSafe(query.to_owned()));
            if query.fetch_one(&mut self.sql).await? {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Err(format!("not within an hour: {query}").into())
    }
}

fn connection(
    connection_id: String,
    integration: &str,
    installation: Uuid,
    [user, id, attempt]: [String; 3],
    created_at: DateTime<Utc>,
) -> NewConnection {
    let tags = [
        ("end_user_id", user),
        ("patchbay_installation", installation.to_string()),
        ("patchbay_connection", id),
        ("patchbay_attempt", attempt),
    ];
    NewConnection {
        connection_id,
        integration: integration.to_owned(),
        tags: tags.map(|(name, value)| (name.to_owned(), value)).into(),
        created_at,
    }
}
