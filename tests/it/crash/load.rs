//! The simulated users: their requests, the responses, and checks of the final state.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, Method, StatusCode, Url};
use serde_json::{Value, json};
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const CONNECTORS: [&str; 3] = ["gmail", "github", "google-calendar"];

/// The number of connections that a user works with at a time.
const SLOTS: usize = 3;

/// How long the service may take to settle: longer than any lease.
const SETTLING: Duration = Duration::from_secs(180);

/// Counts of requests and their outcomes.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) requests: AtomicU64,
    pub(super) answered: AtomicU64,
    pub(super) grants: AtomicU64,
    pub(super) denials: AtomicU64,
    pub(super) disconnects: AtomicU64,
}

/// The acknowledged results that must survive a crash.
#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    /// The connections and attempts in successful responses to connects.
    pub(super) started: Vec<(Uuid, Uuid)>,
    /// Requests with an Idempotency-Key and their responses; `None` without a response.
    pub(super) keyed: Vec<KeyedRequest>,
    /// The expected final status of each connection.
    pub(super) expected: Vec<(Uuid, &'static str)>,
}

/// A request that may be retried.
#[derive(Clone, Debug)]
pub(super) struct KeyedRequest {
    pub(super) token: String,
    pub(super) path: String,
    pub(super) key: String,
    pub(super) answer: Option<Value>,
}

/// The state that all users share.
pub(super) struct Environment {
    pub(super) url: String,
    pub(super) client: Client,
    pub(super) counts: Counts,
    pub(super) acknowledged: Mutex<Acknowledged>,
    pub(super) stop: CancellationToken,
}

/// One user.
pub(super) struct User<'a> {
    scene: &'a Environment,
    token: String,
    slots: [Slot; SLOTS],
    addresses: Vec<Address>,
}

/// One connection of a user.
struct Slot {
    connector: &'static str,
    instance: String,
    id: Option<Uuid>,
    expected: Option<&'static str>,
    /// Incremented by each disconnect, which invalidates earlier addresses.
    age: usize,
}

#[derive(Clone)]
struct Address {
    url: String,
    slot: usize,
    age: usize,
}

impl Slot {
    fn new(number: usize) -> Self {
        Self {
            connector: CONNECTORS[number % CONNECTORS.len()],
            instance: Uuid::new_v4().simple().to_string(),
            id: None,
            expected: None,
            age: 0,
        }
    }
}

impl Environment {
    /// Sends a request; `None` if it got no response.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        token: &str,
        key: Option<&str>,
    ) -> Option<(StatusCode, Value)> {
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        let url = format!("{}/api/v1/connectors{path}", self.url);
        let mut request = self.client.request(method, url).bearer_auth(token);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let response = request.send().await.ok()?;
        let status = response.status();
        let body = response.json().await.ok()?;
        self.counts.answered.fetch_add(1, Ordering::Relaxed);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            // The service is starting, or Nango has a fault.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Some((status, body))
    }
}

impl Environment {
    /// Retries unanswered requests, waits until the service is idle, and returns each inconsistency with the
    /// acknowledged results.
    pub(super) async fn settle(
        &self,
        acknowledged: &Acknowledged,
        sql: &mut PgConnection,
    ) -> Vec<String> {
        let deadline = Instant::now() + SETTLING;
        let mut failures = Vec::new();
        for keyed in acknowledged
            .keyed
            .iter()
            .filter(|keyed| keyed.answer.is_none())
        {
            let answer = loop {
                let answer = self.repeat(keyed).await;
                if answer.0 != StatusCode::CONFLICT || Instant::now() >= deadline {
                    break answer;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            };
            if answer.0 != StatusCode::OK || self.repeat(keyed).await != answer {
                failures.push(format!("{} with an old key: {answer:?}", keyed.path));
            }
        }
        if !settles(sql, deadline).await {
            failures.push("the service does not come to rest".to_owned());
        }
        failures.extend(inconsistencies(acknowledged, sql).await);
        let before = attempts(sql).await.len();
        for keyed in acknowledged
            .keyed
            .iter()
            .filter(|keyed| keyed.answer.is_some())
        {
            let (status, answer) = self.repeat(keyed).await;
            if keyed.answer.as_ref() != Some(&answer) {
                failures.push(format!(
                    "{} was answered otherwise when repeated: {status} {answer}",
                    keyed.path
                ));
            }
        }
        let after = attempts(sql).await.len();
        if after != before {
            failures.push(format!(
                "requests that were repeated made {before} attempts {after}"
            ));
        }
        failures
    }

    /// Sends a request again with its key.
    async fn repeat(&self, keyed: &KeyedRequest) -> (StatusCode, Value) {
        let url = format!("{}/api/v1/connectors{}", self.url, keyed.path);
        let request = self.client.post(url).bearer_auth(&keyed.token);
        let request = request.header("idempotency-key", &keyed.key);
        let response = request.send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }
}

/// Waits until no deletions at Nango are pending, and a sweep has found all grants without a row. Returns `false` after
/// the deadline.
async fn settles(sql: &mut PgConnection, deadline: Instant) -> bool {
    let now = sqlx::query_scalar("select now()").fetch_one(&mut *sql);
    let since: chrono::DateTime<chrono::Utc> = now.await.unwrap();
    while Instant::now() < deadline {
        let rests: bool = sqlx::query_scalar(
            "select not exists (select from upstream_deletion) and exists ( \
               select from job where name = 'sweep' and finished_at > $1 + interval '15 seconds')",
        )
        .bind(since)
        .fetch_one(&mut *sql)
        .await
        .unwrap();
        if rests {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    false
}

/// Returns each difference between the database and the acknowledged results.
async fn inconsistencies(acknowledged: &Acknowledged, sql: &mut PgConnection) -> Vec<String> {
    let kept = attempts(sql).await;
    let lost = acknowledged
        .started
        .iter()
        .filter(|started| !kept.contains(started));
    let mut failures: Vec<String> = lost
        .map(|(id, attempt)| format!("attempt {attempt} of {id} was answered and is lost"))
        .collect();
    let rows: Vec<(Uuid, String)> =
        sqlx::query_as("select id, status from user_connector_connection")
            .fetch_all(sql)
            .await
            .unwrap();
    let rows: HashMap<Uuid, String> = rows.into_iter().collect();
    for (id, expected) in &acknowledged.expected {
        let status = rows.get(id).map(String::as_str);
        if status != Some(*expected) {
            failures.push(format!("{id} should be {expected}, but is {status:?}"));
        }
    }
    failures
}

/// Returns all connections and attempts.
async fn attempts(sql: &mut PgConnection) -> HashSet<(Uuid, Uuid)> {
    let all: Vec<(Uuid, Uuid)> = sqlx::query_as("select connection_id, id from connect_attempt")
        .fetch_all(sql)
        .await
        .unwrap();
    all.into_iter().collect()
}

impl<'a> User<'a> {
    pub(super) fn new(scene: &'a Environment, token: String) -> Self {
        Self {
            scene,
            token,
            slots: std::array::from_fn(Slot::new),
            addresses: Vec::new(),
        }
    }

    /// Runs random operations until the load stops.
    pub(super) async fn run(mut self) {
        while !self.scene.stop.is_cancelled() {
            let slot = random(SLOTS);
            match random(13) {
                0..5 => self.connect(slot).await,
                5 | 6 => self.reconnect(slot).await,
                7 | 8 => self.disconnect(slot).await,
                9 => self.open_stale_url().await,
                10 if random(3) == 0 => self.replace_slot(slot),
                _ => self.read(slot).await,
            }
            tokio::time::sleep(Duration::from_millis(random(60) as u64)).await;
        }
        for slot in 0..SLOTS {
            self.replace_slot(slot);
        }
    }

    /// Replaces the slot's connection and records its last acknowledged status as the expected final status.
    fn replace_slot(&mut self, number: usize) {
        let slot = std::mem::replace(&mut self.slots[number], Slot::new(number));
        self.addresses.retain(|address| address.slot != number);
        if let (Some(id), Some(expected)) = (slot.id, slot.expected) {
            self.scene
                .acknowledged
                .lock()
                .unwrap()
                .expected
                .push((id, expected));
        }
    }

    async fn connect(&mut self, number: usize) {
        let slot = &mut self.slots[number];
        slot.expected = slot.expected.filter(|expected| *expected != "disconnected");
        let path = format!("/{}/connect?instance_id={}", slot.connector, slot.instance);
        self.begin(number, path).await;
    }

    async fn reconnect(&mut self, number: usize) {
        let slot = &mut self.slots[number];
        if let Some(id) = slot.id {
            slot.expected = slot.expected.filter(|expected| *expected != "disconnected");
            self.begin(number, format!("/connections/{id}/reconnect"))
                .await;
        }
    }

    async fn begin(&mut self, number: usize, path: String) {
        let answer = if random(2) == 0 {
            self.send_once(number, path).await
        } else {
            self.scene
                .send(Method::POST, &path, &self.token, None)
                .await
        };
        let Some((StatusCode::OK, started)) = answer else {
            return;
        };
        let id = uuid(&started["connection_id"]).unwrap();
        self.slots[number].id = Some(id);
        let (Some(attempt), Some(url)) =
            (uuid(&started["attempt_id"]), started["oauth_url"].as_str())
        else {
            return;
        };
        self.scene
            .acknowledged
            .lock()
            .unwrap()
            .started
            .push((id, attempt));
        let address = Address {
            url: url.to_owned(),
            slot: number,
            age: self.slots[number].age,
        };
        if random(4) > 0 {
            self.open(&address).await;
        }
        self.addresses.push(address);
    }

    /// Sends a request with a key, and retries until it is answered.
    async fn send_once(&mut self, number: usize, path: String) -> Option<(StatusCode, Value)> {
        let key = Uuid::new_v4().to_string();
        loop {
            let answer = self
                .scene
                .send(Method::POST, &path, &self.token, Some(&key))
                .await;
            let mut keyed = KeyedRequest {
                token: self.token.clone(),
                path: path.clone(),
                key: key.clone(),
                answer: None,
            };
            match answer {
                None => tokio::time::sleep(Duration::from_millis(100)).await,
                // The request was interrupted. It can be retried when its lease has expired; until then its effect is
                // unknown.
                Some((StatusCode::CONFLICT, _)) => {
                    self.slots[number].expected = None;
                    self.replace_slot(number);
                    self.scene.acknowledged.lock().unwrap().keyed.push(keyed);
                    return None;
                }
                Some((status, body)) => {
                    if status == StatusCode::OK {
                        keyed.answer = Some(body.clone());
                        self.scene.acknowledged.lock().unwrap().keyed.push(keyed);
                    }
                    return Some((status, body));
                }
            }
        }
    }

    async fn open_stale_url(&mut self) {
        if !self.addresses.is_empty() {
            let address = self.addresses[random(self.addresses.len())].clone();
            self.open(&address).await;
        }
    }

    /// Completes the popup, usually with consent.
    async fn open(&mut self, address: &Address) {
        let allow = random(5) > 0;
        if !decide(&self.scene.client, &address.url, allow).await {
            self.scene.counts.denials.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.scene.counts.grants.fetch_add(1, Ordering::Relaxed);
        let slot = &mut self.slots[address.slot];
        if slot.age == address.age {
            slot.expected = Some("connected");
        }
    }

    async fn disconnect(&mut self, number: usize) {
        let slot = &mut self.slots[number];
        let (connector, instance) = (slot.connector, &slot.instance);
        let path = format!("/{connector}/disconnect?instance_id={instance}");
        // From here on, the connection may be disconnected and addresses may be invalid.
        slot.expected = None;
        slot.age += 1;
        let answer = self
            .scene
            .send(Method::DELETE, &path, &self.token, None)
            .await;
        if let Some((StatusCode::OK, body)) = answer {
            self.scene
                .counts
                .disconnects
                .fetch_add(1, Ordering::Relaxed);
            let slot = &mut self.slots[number];
            slot.id = uuid(&body["connection_id"]);
            slot.expected = Some("disconnected");
        }
    }

    async fn read(&mut self, number: usize) {
        let path = match self.slots[number].id {
            Some(id) if random(2) == 0 => format!("/connections/{id}?wait=1"),
            Some(id) => format!("/connections/{id}"),
            None => "/connections".to_owned(),
        };
        self.scene.send(Method::GET, &path, &self.token, None).await;
    }
}

/// Answers the provider's consent page. Returns `true` if Nango stored a grant.
pub(super) async fn decide(client: &Client, url: &str, allow: bool) -> bool {
    let Some(consent) = follow(client.get(url)).await else {
        return false;
    };
    let mut form: Vec<(String, String)> = consent.query_pairs().into_owned().collect();
    let decision = if allow { "allow" } else { "deny" };
    form.push(("account".into(), "ada-work".into()));
    form.push(("decision".into(), decision.into()));
    let Some(callback) = follow(client.post(consent).form(&form)).await else {
        return false;
    };
    let page = client.get(callback).send().await;
    page.is_ok_and(|page| page.status() == StatusCode::OK)
}

/// Returns the redirect location of a response; `None` if it is no redirect.
async fn follow(request: reqwest::RequestBuilder) -> Option<Url> {
    let response = request.send().await.ok()?;
    let location = response.headers().get("location")?.to_str().ok()?;
    response.url().join(location).ok()
}

fn uuid(value: &Value) -> Option<Uuid> {
    value.as_str()?.parse().ok()
}

/// Returns a random number below `end`.
pub(super) fn random(end: usize) -> usize {
    Uuid::new_v4().as_bytes()[..4]
        .iter()
        .fold(0, |number, byte| number << 8 | usize::from(*byte))
        % end
}

/// Returns random faults of Nango and its webhooks.
pub(super) fn weather() -> Value {
    let kinds = [
        json!({}),
        json!({}),
        json!({ "duplicate_webhooks": true }),
        json!({ "delay_webhooks_ms": 700 }),
        json!({ "drop_webhooks": true }),
        json!({ "lose_answer": true }),
        json!({ "latency_ms": 300 }),
        json!({ "refuse_delete": true }),
        json!({ "status": 503 }),
    ];
    kinds[random(kinds.len())].clone()
}
