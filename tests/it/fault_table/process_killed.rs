//! The process is killed after Nango has executed a call, and before the result is stored.
//!
//! The real program runs as another replica. Nango delays its response until the process is killed. Then the other
//! replica continues.

use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    describe_status, event_kinds, expire_leases, popup, read_column, reconnect, refused_until_dead,
    revoked, text, wait_for_nango_call, wait_until_settled,
};
use crate::process::Process;
use crate::test_app::{TestApp, User, free_port};

/// A replica as a process that is killed.
struct KillableProcess {
    url: String,
    process: Process,
}

impl KillableProcess {
    async fn start(app: &TestApp) -> Self {
        let (process, url) = replica_process(app).await;
        Self { url, process }
    }

    /// Kills the process with SIGKILL.
    async fn kill(&mut self, app: &TestApp) {
        self.process.signal("KILL").await;
        self.process.ended().await;
        app.faults(json!({ "consent": "allow" })).await;
        // Also advances the test clock, which the other replica uses.
        app.advance(TimeDelta::minutes(2));
    }
}

/// Starts the program as another replica, with a longer Nango timeout. Returns it with its address.
pub(crate) async fn replica_process(app: &TestApp) -> (Process, String) {
    let port = free_port().to_string();
    let url = format!("http://127.0.0.1:{port}");
    let settings = app.settings(&[("PORT", &port), ("NANGO_TIMEOUT_SECONDS", "14")]);
    let settings: Vec<(&str, &str)> = settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let mut process = Process::start(&["serve"], &settings);
    process.until_ready_is(&url, StatusCode::OK).await;
    (process, url)
}

/// Makes Nango execute matching calls without a response.
async fn hold_lock(app: &TestApp, call: &str) {
    let faults = json!({ "consent": "allow", "only": call, "hold_answers_ms": 60_000 });
    app.faults(faults).await;
}

/// Sends a request to the program, and kills it during the request.
async fn is_killed_by(
    process: &mut KillableProcess,
    app: &TestApp,
    request: reqwest::RequestBuilder,
    (method, call): (&str, &str),
) {
    let asking = tokio::spawn(request.send());
    wait_for_nango_call(app, method, call).await;
    process.kill(app).await;
    assert!(asking.await.unwrap().is_err());
}

#[tokio::test]
async fn connect_process_killed() {
    let app = TestApp::with_system_clock().await;
    let ada = app.user("ada").await;
    let mut process = KillableProcess::start(&app).await;
    let connect = |user: &User<'_>| {
        user.request(Method::POST, "/gmail/connect")
            .header("idempotency-key", "the same")
    };
    hold_lock(&app, "POST /connect/sessions").await;
    let request = connect(&ada.at_url(&process.url));
    let call = ("POST", "/connect/sessions");
    is_killed_by(&mut process, &app, request, call).await;
    assert_eq!(read_column(&app, "status").await, "pending");

    let under_way = connect(&ada).send().await.unwrap();
    assert_eq!(under_way.status(), StatusCode::CONFLICT);
    expire_leases(&app).await;
    let started: Value = connect(&ada).send().await.unwrap().json().await.unwrap();
    popup(&app, &started).await;
    let id = text(&started, "connection_id");
    ada.wait_until(id, "connected").await;
    assert_eq!(
        event_kinds(&ada, id).await,
        "attempt_started attempt_started connected"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn reconnect_process_killed() {
    let app = TestApp::with_system_clock().await;
    let ada = app.user("ada").await;
    let before = ada.connected("gmail").await;
    let id = text(&before, "id");
    app.advance(TimeDelta::minutes(1));
    let mut process = KillableProcess::start(&app).await;
    // Nango's webhook reports the grant, and the program queries Nango to verify it.
    let started = reconnect(&ada.at_url(&process.url), id).await;
    hold_lock(&app, "&connectionId=").await;
    let version = read_column(&app, "version").await;
    popup(&app, &started).await;
    let nango_id = text(&before, "nango_connection_id");
    wait_for_nango_call(&app, "GET", &format!("connectionId={nango_id}")).await;
    process.kill(&app).await;
    assert_eq!(read_column(&app, "version").await, version);

    assert_eq!(app.sweep().await.found, 1);
    assert_eq!(describe_status(&ada, id).await, "connected - succeeded");
    let after = ada.connection(id).await;
    assert_eq!(after["nango_connection_id"], before["nango_connection_id"]);
    assert_eq!(
        event_kinds(&ada, id).await,
        "attempt_started connected attempt_started reauthorized"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn refresh_process_killed() {
    let app = TestApp::with_system_clock().await;
    let (ada, id) = revoked(&app).await;
    let mut process = KillableProcess::start(&app).await;
    // Nango's webhook about the failed refresh is lost, too.
    let faults =
        json!({ "only": "force_refresh", "hold_answers_ms": 60_000, "drop_webhooks": true });
    app.faults(faults).await;
    let path = format!("/connections/{id}/check");
    let request = ada.at_url(&process.url).request(Method::POST, &path);
    is_killed_by(&mut process, &app, request, ("GET", "force_refresh")).await;
    assert_eq!(describe_status(&ada, &id).await, "connected - succeeded");

    // Nango has recorded the refusal, so the sweep finds it without another user request.
    assert_eq!(app.sweep().await.checked, 1);
    refused_until_dead(&app).await;
    assert_eq!(
        describe_status(&ada, &id).await,
        "error needs_reauthorization succeeded"
    );
    assert_eq!(
        event_kinds(&ada, &id).await,
        "attempt_started connected credentials_failing needs_reauthorization"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn disconnect_process_killed() {
    let app = TestApp::with_system_clock().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    let mut process = KillableProcess::start(&app).await;
    hold_lock(&app, "DELETE").await;
    let at_process = ada.at_url(&process.url);
    let request = at_process.request(Method::DELETE, "/gmail/disconnect");
    is_killed_by(&mut process, &app, request, ("DELETE", "/connections/")).await;
    assert_eq!(
        describe_status(&ada, id).await,
        "disconnected user_disconnected succeeded"
    );
    // The connection is deleted at Nango, but this is not recorded, and the killed process holds the job's lease.
    assert_eq!(app.nango_connections().await.len(), 0);
    let (_, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(ended["upstream_deleted"], false);

    expire_leases(&app).await;
    wait_until_settled(&app).await;
    let (_, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(ended["upstream_deleted"], true);
    assert_eq!(
        event_kinds(&ada, id).await,
        "attempt_started connected disconnected"
    );
}
