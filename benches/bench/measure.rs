//! The measurements.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use patchbay::clock::Clock;
use patchbay::service::service_keys::ServiceKeys;
use reqwest::Client;
use serde_json::json;

use crate::baseline;
use crate::data::{self, CONNECTORS, Rows};
use crate::load::{Load, Request, pgbench, wrk};
use crate::nango::{Nango, timed};
use crate::report::Report;
use crate::service::Service;
use crate::streams::Streams;
use crate::sweep;

/// The number of concurrent requests.
pub(crate) const CONNECTIONS: usize = 16;
/// The number of users whose connections are read, all in the first half. Later users connect.
const READERS: u32 = 2_000;
pub(crate) const CONNECTING: u32 = crate::USERS / 2;
/// The number of users whose tokens Nango has.
const HOT: u32 = 50;
/// The number of repetitions of sequential operations, and of those before the measurement, which open connections and
/// plan statements.
pub(crate) const ONE_BY_ONE: u32 = 500;
const FIRST: usize = 100;
/// The latency of a Nango on another machine, in milliseconds.
const REAL_NANGO: u64 = 5;
/// The number of open event streams, and the number of them that belong to one user.
const STREAMS: u32 = 10_000;
const ONE_USERS: u32 = 50;

const SERVICE_KEY: &str = "pbk_bench_0123456789abcdef0123456789abcdef";
pub(crate) const API: &str = "/api/v1/connectors";

/// A database with many users, a Nango and a service.
pub(crate) struct Bench {
    pub(crate) folder: PathBuf,
    pub(crate) program: PathBuf,
    pub(crate) postgres: String,
    pub(crate) database: String,
    pub(crate) nango: Nango,
    pub(crate) service: Service,
    pub(crate) client: Client,
    pub(crate) seconds: u64,
}

impl Bench {
    /// Starts the database, Nango and the service.
    ///
    /// # Errors
    /// If a part does not start.
    pub(crate) async fn start(
        folder: &Path,
        program: &Path,
        postgres: &str,
        users: u32,
        seconds: u64,
    ) -> Result<Self, Box<dyn Error>> {
        let database = data::database(postgres, users, Rows::WithAttempts).await?;
        let nango = Nango::start().await?;
        let service = start_service(program, folder, &database, &nango, "60").await?;
        let client = Client::builder().timeout(Duration::from_secs(10)).build()?;
        Ok(Self {
            folder: folder.to_owned(),
            program: program.to_owned(),
            postgres: postgres.to_owned(),
            database,
            nango,
            service,
            client,
            seconds,
        })
    }

    /// Runs all measurements, or only those selected.
    ///
    /// # Errors
    /// If a measured operation fails.
    pub(crate) async fn measure(
        &self,
        report: &mut Report,
        only: Option<&str>,
    ) -> Result<(), Box<dyn Error>> {
        let wanted = |what: &str| only.map_or(what != "sweep", |only| only == what);
        if wanted("reads") {
            report.section("reads");
            self.reads(report).await?;
            self.bare_rows(report).await?;
        }
        if wanted("tokens") {
            report.section("tokens");
            self.tokens(report).await?;
        }
        if wanted("connect") {
            report.section("connect");
            self.connects(report).await?;
        }
        if wanted("webhooks") {
            report.section("webhooks");
            self.webhooks(report).await?;
        }
        if only.is_none() {
            report.section("memory");
            let (_, most) = self.service.memory()?;
            report.at_most("memory at full load, MiB", most, 60.0);
        }
        if wanted("streams") {
            report.section("streams");
            self.streams(report).await?;
        }
        if wanted("burst") {
            report.section("burst");
            self.burst(report).await?;
        }
        if wanted("endpoints") {
            report.section("endpoints");
            self.dead_endpoints(report).await?;
        }
        if wanted("sweep") {
            report.section("sweep");
            sweep::measure(self, report).await?;
        }
        Ok(())
    }

    async fn reads(&self, report: &mut Report) -> Result<(), Box<dyn Error>> {
        let users = crate::USERS;
        let sql = format!(
            "\\set u 1 + random(0, {READERS} - 1) * {}\nselect * from user_connector_connection \
             where user_id = 'user-' || :u order by id desc limit 101;\n",
            users / READERS / 2
        );
        let floor = self.sql("pgbench: a list's rows", &sql, report)?;
        let list = self.http("list", &list_requests(users)?, report)?;
        self.http("get", &self.get_requests(users).await?, report)?;
        report.at_least("list, of pgbench's rate", list.rate / floor.rate, 0.5);
        report.at_least(
            "list, compared with the 300 a second of the earlier service",
            list.rate / 300.0,
            25.0,
        );
        let tail = list.p99.as_secs_f64() / floor.p99.as_secs_f64();
        report.at_most("list's p99, of pgbench's", tail, 4.0);
        Ok(())
    }

    /// Lists of all users, over rows that an import inserted.
    async fn bare_rows(&self, report: &mut Report) -> Result<(), Box<dyn Error>> {
        let users = crate::USERS;
        let database = data::database(&self.postgres, users, Rows::Bare).await?;
        let service =
            start_service(&self.program, &self.folder, &database, &self.nango, "60").await?;
        let sql = format!(
            "\\set u random(1, {users})\nselect * from user_connector_connection \
             where user_id = 'user-' || :u order by id desc limit 101;\n"
        );
        pgbench(&self.folder, &database, &sql, CONNECTIONS, 1)?;
        let rows = pgbench(&self.folder, &database, &sql, CONNECTIONS, self.seconds)?;
        report.add("pgbench: a list's rows, without attempts", rows, None);
        let requests = (1..=users).map(|user| {
            let token = data::token(&format!("user-{user}"))?;
            Ok(Request::get(format!("{API}/connections"), &token))
        });
        let requests: Vec<Request> = requests.collect::<Result<_, Box<dyn Error>>>()?;
        let list = self.http_of(&service, "list, without attempts", &requests, report)?;
        let ratio = list.rate / rows.rate;
        report.at_least("list without attempts, of pgbench's rate", ratio, 0.5);
        Ok(())
    }

    async fn tokens(&self, report: &mut Report) -> Result<(), Box<dyn Error>> {
        for user in 1..=HOT {
            for (n, slug) in (1..).zip(CONNECTORS) {
                self.nango
                    .import(slug, &format!("nango-{user}-{n}"), &json!({}))
                    .await?;
            }
        }
        let mut requests = Vec::new();
        let mut direct = Vec::new();
        for user in 1..=HOT {
            let ids = data::ids_of(&self.database, user).await?;
            for ((n, slug), id) in (1..).zip(CONNECTORS).zip(ids.iter().rev()) {
                let mut request =
                    Request::post(format!("{API}/connections/{id}/token"), SERVICE_KEY);
                request
                    .headers
                    .push(("patchbay-user", format!("user-{user}")));
                requests.push(request);
                direct.push(Request::get(
                    format!("/connections/nango-{user}-{n}?provider_config_key={slug}"),
                    &self.nango.secret_key,
                ));
            }
        }
        let bare = baseline::start(self.keys()?, vec![b'x'; 330]).await?;
        let post = [Request::post("/token", SERVICE_KEY)];
        let bare = wrk(&self.folder, &bare, &post, CONNECTIONS, self.seconds)?;
        report.add("a bare handler that verifies its caller", bare, None);
        let cached = self.http("token, cached", &requests, report)?;
        let uncached = start_service(
            &self.program,
            &self.folder,
            &self.database,
            &self.nango,
            "0",
        )
        .await?;
        let load = self.http_of(&uncached, "token, not cached", &requests, report)?;
        let alone = wrk(
            &self.folder,
            self.nango.url(),
            &direct,
            CONNECTIONS,
            self.seconds,
        )?;
        report.add("Nango: a token", alone, None);
        report.at_least(
            "cached token, of the bare handler's rate",
            cached.rate / bare.rate,
            0.2,
        );
        report.at_least(
            "cached token, of the uncached one's rate",
            cached.rate / load.rate,
            1.0,
        );
        Ok(())
    }

    async fn connects(&self, report: &mut Report) -> Result<(), Box<dyn Error>> {
        // The time of one durable write in PostgreSQL, with which a connect and a webhook end.
        let sql = "update job set finished_at = finished_at where name = 'sweep';\n";
        let durable = pgbench(&self.folder, &self.database, sql, 1, self.seconds)?;
        report.add("pgbench: one row for good, one by one", durable, None);
        self.connects_one_by_one("Nango", 0, report).await?;
        let requests = (CONNECTING + ONE_BY_ONE + 1..CONNECTING + ONE_BY_ONE + 1_000).map(|user| {
            let token = data::token(&format!("user-{user}"))?;
            let path = format!("{API}/{}/connect?instance_id=bench", CONNECTORS[1]);
            Ok(Request::post(path, &token))
        });
        let requests: Vec<Request> = requests.collect::<Result<_, Box<dyn Error>>>()?;
        self.http("connect", &requests, report)?;
        // A remote Nango takes some milliseconds.
        self.nango.answers_after(REAL_NANGO).await?;
        self.connects_one_by_one("a Nango that takes 5 ms", 1, report)
            .await?;
        self.nango.answers_after(0).await
    }

    async fn connects_one_by_one(
        &self,
        what: &str,
        connector: usize,
        report: &mut Report,
    ) -> Result<(), Box<dyn Error>> {
        let slug = CONNECTORS[connector];
        // The database is reused between runs, so a new instance avoids existing connections.
        let instance = uuid::Uuid::new_v4();
        let url = format!(
            "{}{API}/{slug}/connect?instance_id={instance}",
            self.service.url
        );
        let (mut ours, mut nangos) = (Vec::new(), Vec::new());
        for user in CONNECTING + 1..=CONNECTING + ONE_BY_ONE {
            let user = format!("user-{user}");
            let connect = self.client.post(&url).bearer_auth(data::token(&user)?);
            ours.push(timed(connect).await?);
            nangos.push(self.nango.time_to_make_session(&user).await?);
        }
        let (ours, nangos) = (one_by_one(ours), one_by_one(nangos));
        report.add(
            &format!("{what}: a connect session, one by one"),
            nangos,
            None,
        );
        report.add(&format!("connect through {what}, one by one"), ours, None);
        for (share, ours, nangos, bound) in [
            ("p50", ours.p50, nangos.p50, 2.0),
            ("p99", ours.p99, nangos.p99, 5.0),
        ] {
            report.at_most(
                &format!("connect adds to the answer of {what}, {share} ms"),
                added(ours, nangos),
                bound,
            );
        }
        Ok(())
    }

    async fn streams(&self, report: &mut Report) -> Result<(), Box<dyn Error>> {
        let one = data::token("user-1")?;
        let mut tokens = vec![one.clone(); ONE_USERS as usize];
        for n in 0..STREAMS - ONE_USERS {
            tokens.push(data::token(&format!("user-{}", READERS + n % 1_000))?);
        }
        let mut streams = Streams::open(&self.service.url, &tokens).await?;
        let (now, _) = self.service.memory()?;
        report.at_most("memory with 10,000 event streams, MiB", now, 250.0);
        let id = &data::ids_of(&self.database, 1).await?[0];
        let url = format!("{}{API}/connections/{id}", self.service.url);
        let mut delays = Vec::new();
        for n in 0..100 {
            let label = json!({ "label": format!("Account {n} {}", uuid::Uuid::new_v4()) });
            let since = Instant::now();
            let change = self.client.patch(&url).bearer_auth(&one).json(&label);
            let (changed, reported) =
                tokio::join!(timed(change), streams.delays(since, ONE_USERS as usize));
            changed?;
            delays.extend(reported?);
        }
        let delays = one_by_one(delays);
        report.add(
            "a change's event on all of its user's 50 streams",
            delays,
            None,
        );
        report.at_most(
            "an event's way from the request that caused it, p99 ms",
            delays.p99.as_secs_f64() * 1e3,
            50.0,
        );
        Ok(())
    }

    fn keys(&self) -> Result<ServiceKeys, Box<dyn Error>> {
        let config = patchbay::db::DatabaseConfig {
            url: self.database.clone().into(),
            pool_size: 1,
            startup_timeout: Duration::ZERO,
        };
        let database = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(patchbay::db::Database::connect(&config))
        })?;
        Ok(ServiceKeys::new(
            database,
            vec![format!("bench={SERVICE_KEY}").parse()?],
            Clock::System,
        ))
    }

    pub(crate) fn http(
        &self,
        what: &str,
        requests: &[Request],
        report: &mut Report,
    ) -> Result<Load, Box<dyn Error>> {
        self.http_of(&self.service, what, requests, report)
    }

    pub(crate) fn http_of(
        &self,
        service: &Service,
        what: &str,
        requests: &[Request],
        report: &mut Report,
    ) -> Result<Load, Box<dyn Error>> {
        // An unmeasured run first: caches fill, connections open.
        wrk(&self.folder, &service.url, requests, CONNECTIONS, 1)?;
        let before = service.cpu()?;
        let load = wrk(
            &self.folder,
            &service.url,
            requests,
            CONNECTIONS,
            self.seconds,
        )?;
        let cpu = (service.cpu()? - before).div_f64(load.answers);
        report.add(what, load, Some(cpu));
        Ok(load)
    }

    fn sql(&self, what: &str, sql: &str, report: &mut Report) -> Result<Load, Box<dyn Error>> {
        pgbench(&self.folder, &self.database, sql, CONNECTIONS, 1)?;
        let load = pgbench(&self.folder, &self.database, sql, CONNECTIONS, self.seconds)?;
        report.add(what, load, None);
        Ok(load)
    }

    pub(crate) async fn get_requests(&self, users: u32) -> Result<Vec<Request>, Box<dyn Error>> {
        let mut requests = Vec::new();
        for user in spread(users).take(500) {
            let token = data::token(&format!("user-{user}"))?;
            for id in data::ids_of(&self.database, user).await?.iter().take(2) {
                requests.push(Request::get(format!("{API}/connections/{id}"), &token));
            }
        }
        Ok(requests)
    }
}

pub(crate) async fn start_service(
    program: &Path,
    folder: &Path,
    database: &str,
    nango: &Nango,
    token_cache: &str,
) -> Result<Service, Box<dyn Error>> {
    let keys = format!("bench={SERVICE_KEY}");
    let variables = [
        ("DATABASE_URL", database),
        ("NANGO_BASE_URL", nango.url()),
        ("NANGO_SECRET_KEY", &nango.secret_key),
        ("NANGO_WEBHOOK_SIGNING_KEY", &nango.signing_key),
        ("AUTH_JWT_SECRET", data::JWT_SECRET),
        ("SERVICE_API_KEYS", &keys),
        ("TOKEN_CACHE_TTL_SECONDS", token_cache),
        // The load comes from few users, who would exceed the limits.
        ("RATE_LIMIT_USER_PER_MINUTE", "0"),
        ("RATE_LIMIT_CONNECT_PER_MINUTE", "0"),
        ("MAX_STREAMS_PER_USER", "0"),
        ("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"),
        // All streams come from one address.
        ("MAX_CLIENT_CONNECTIONS", "80000"),
    ];
    Service::start(program, folder, &variables).await
}

/// Returns the users to read, evenly spread over all users.
fn spread(users: u32) -> impl Iterator<Item = u32> {
    (0..READERS).map(move |n| 1 + n * (users / READERS / 2))
}

pub(crate) fn list_requests(users: u32) -> Result<Vec<Request>, Box<dyn Error>> {
    spread(users)
        .map(|user| {
            let token = data::token(&format!("user-{user}"))?;
            Ok(Request::get(format!("{API}/connections"), &token))
        })
        .collect()
}

/// Summarizes the latencies of sequential operations as a load.
pub(crate) fn one_by_one(mut times: Vec<Duration>) -> Load {
    times.drain(..FIRST);
    times.sort_unstable();
    let all: Duration = times.iter().sum();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    Load {
        rate: times.len() as f64 / all.as_secs_f64(),
        p50: at(50),
        p99: at(99),
        answers: times.len() as f64,
    }
}

pub(crate) fn added(ours: Duration, floor: Duration) -> f64 {
    (ours.as_secs_f64() - floor.as_secs_f64()) * 1e3
}
