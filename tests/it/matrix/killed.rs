//! The process is killed after Nango has done what it was asked, and before that is written down.
//!
//! The real program runs as a replica of its own. Nango holds its answer back until
//! SIGKILL has come; then the other replica goes on.

use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    chain, leases_run_out, nango_is_called, popup, reconnect, revoked, settled, stand, text,
    unasked,
};
use crate::house::{House, User, free_port};
use crate::process::Process;

/// A replica in a process of its own, which is to die.
struct Doomed {
    url: String,
    process: Process,
}

impl Doomed {
    async fn start(house: &House) -> Self {
        let (process, url) = replica_process(house).await;
        Self { url, process }
    }

    /// SIGKILL.
    async fn kill(&mut self, house: &House) {
        self.process.signal("KILL").await;
        self.process.ended().await;
        house.faults(json!({ "consent": "allow" })).await;
        // The other replica's clock stands still; this is later by it, too.
        house.pass(TimeDelta::minutes(2));
    }
}

/// The program as one more replica, and its address. It waits longer for Nango than the others do.
pub(crate) async fn replica_process(house: &House) -> (Process, String) {
    let port = free_port().to_string();
    let url = format!("http://127.0.0.1:{port}");
    let settings = house.settings(&[
        ("PORT", &port),
        ("PUBLIC_URL", &url),
        ("NANGO_TIMEOUT_SECONDS", "14"),
    ]);
    let settings: Vec<(&str, &str)> = settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let mut process = Process::start(&["serve"], &settings);
    process.until_ready_is(&url, StatusCode::OK).await;
    (process, url)
}

/// Nango does what such calls ask for, and does not answer.
async fn hold(house: &House, call: &str) {
    let faults = json!({ "consent": "allow", "only": call, "hold_answers_ms": 60_000 });
    house.faults(faults).await;
}

/// Sends a request to the program, which dies of it.
async fn dies_of(
    process: &mut Doomed,
    house: &House,
    request: reqwest::RequestBuilder,
    (method, call): (&str, &str),
) {
    let asking = tokio::spawn(request.send());
    nango_is_called(house, method, call).await;
    process.kill(house).await;
    assert!(asking.await.unwrap().is_err());
}

#[tokio::test]
async fn connect_process_killed() {
    let house = House::now().await;
    let ada = house.user("ada").await;
    let mut process = Doomed::start(&house).await;
    let connect = |user: &User<'_>| {
        user.request(Method::POST, "/gmail/connect")
            .header("idempotency-key", "the same")
    };
    hold(&house, "POST /connect/sessions").await;
    let request = connect(&ada.at_url(&process.url));
    let call = ("POST", "/connect/sessions");
    dies_of(&mut process, &house, request, call).await;
    assert_eq!(unasked(&house, "status").await, "pending");

    let under_way = connect(&ada).send().await.unwrap();
    assert_eq!(under_way.status(), StatusCode::CONFLICT);
    leases_run_out(&house).await;
    let begun: Value = connect(&ada).send().await.unwrap().json().await.unwrap();
    popup(&house, &begun).await;
    let id = text(&begun, "connection_id");
    ada.until(id, "connected").await;
    assert_eq!(
        chain(&ada, id).await,
        "attempt_started attempt_started connected"
    );
    settled(&house).await;
}

#[tokio::test]
async fn reconnect_process_killed() {
    let house = House::now().await;
    let ada = house.user("ada").await;
    let before = ada.connected("gmail").await;
    let id = text(&before, "id");
    house.pass(TimeDelta::minutes(1));
    let mut process = Doomed::start(&house).await;
    // Nango tells the program of the grant, and the program asks whether that is true.
    let begun = reconnect(&ada.at_url(&process.url), id).await;
    hold(&house, "&connectionId=").await;
    let version = unasked(&house, "version").await;
    popup(&house, &begun).await;
    let nango_id = text(&before, "nango_connection_id");
    nango_is_called(&house, "GET", &format!("connectionId={nango_id}")).await;
    process.kill(&house).await;
    assert_eq!(unasked(&house, "version").await, version);

    assert_eq!(house.sweep().await.found, 1);
    assert_eq!(stand(&ada, id).await, "connected - succeeded");
    let after = ada.connection(id).await;
    assert_eq!(after["nango_connection_id"], before["nango_connection_id"]);
    assert_eq!(
        chain(&ada, id).await,
        "attempt_started connected attempt_started reauthorized"
    );
    settled(&house).await;
}

#[tokio::test]
async fn refresh_process_killed() {
    let house = House::now().await;
    let (ada, id) = revoked(&house).await;
    let mut process = Doomed::start(&house).await;
    // Nango's own word of the refusal is lost, too.
    let faults =
        json!({ "only": "force_refresh", "hold_answers_ms": 60_000, "drop_webhooks": true });
    house.faults(faults).await;
    let path = format!("/connections/{id}/check");
    let request = ada.at_url(&process.url).request(Method::POST, &path);
    dies_of(&mut process, &house, request, ("GET", "force_refresh")).await;
    assert_eq!(stand(&ada, &id).await, "connected - succeeded");

    // Nango remembers the refusal, and nobody has to ask again.
    assert_eq!(house.sweep().await.checked, 1);
    assert_eq!(
        stand(&ada, &id).await,
        "error needs_reauthorization succeeded"
    );
    assert_eq!(
        chain(&ada, &id).await,
        "attempt_started connected needs_reauthorization"
    );
    settled(&house).await;
}

#[tokio::test]
async fn disconnect_process_killed() {
    let house = House::now().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    let mut process = Doomed::start(&house).await;
    hold(&house, "DELETE").await;
    let at_process = ada.at_url(&process.url);
    let request = at_process.request(Method::DELETE, "/gmail/disconnect");
    dies_of(&mut process, &house, request, ("DELETE", "/connections/")).await;
    assert_eq!(
        stand(&ada, id).await,
        "disconnected user_disconnected succeeded"
    );
    // It is deleted at Nango, but nobody knows, and the dead process has the job.
    assert_eq!(house.nango_connections().await.len(), 0);
    let (_, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(ended["upstream_deleted"], false);

    leases_run_out(&house).await;
    settled(&house).await;
    let (_, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(ended["upstream_deleted"], true);
    assert_eq!(
        chain(&ada, id).await,
        "attempt_started connected disconnected"
    );
}
