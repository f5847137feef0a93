//! Users who close the tab, deny access, do nothing, open two tabs, or grant twice.

use chrono::TimeDelta;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use super::{
    assert_status, check, describe_status, event_kinds, noticed, popup, read_column, reconnect,
    refused_until_dead, revoked, text, wait_for_nango_call, wait_until_settled,
};
use crate::eventually::eventually;
use crate::test_app::TestApp;

/// Cancels the client's request while Nango processes its call.
pub(super) async fn cancel_request(
    app: &TestApp,
    request: RequestBuilder,
    (method, call): (&str, &str),
) {
    let asking = tokio::spawn(request.send());
    wait_for_nango_call(app, method, call).await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
}

/// Makes Nango execute matching calls immediately, and delay their responses.
pub(super) async fn hold_response(app: &TestApp, call: &str) {
    let faults = json!({ "consent": "allow", "only": call, "hold_answers_ms": 500 });
    app.faults(faults).await;
}

#[tokio::test]
async fn connect_tab_closed() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connect = || {
        ada.request(Method::POST, "/gmail/connect")
            .header("idempotency-key", "the same")
    };
    hold_response(&app, "POST /connect/sessions").await;
    let call = ("POST", "/connect/sessions");
    cancel_request(&app, connect(), call).await;
    // The request continues, and its response is stored for a retry with the same key.
    eventually(async || connect().send().await.unwrap().status() == StatusCode::OK).await;
    let started: Value = connect().send().await.unwrap().json().await.unwrap();
    popup(&app, &started).await;
    // The tab is closed again, so only the webhook reports the grant.
    eventually(async || read_column(&app, "status").await == "connected").await;
    let id = text(&started, "connection_id");
    assert_eq!(event_kinds(&ada, id).await, "attempt_started connected");
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn reconnect_tab_closed() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    hold_response(&app, "POST /connect/sessions/reconnect").await;
    let path = format!("/connections/{id}/reconnect");
    let request = ada.request(Method::POST, &path);
    cancel_request(&app, request, ("POST", "/connect/sessions/reconnect")).await;
    assert_eq!(describe_status(&ada, id).await, "connected - -");
    let started = reconnect(&ada, id).await;
    let version: i32 = read_column(&app, "version").await.parse().unwrap();
    popup(&app, &started).await;
    eventually(async || read_column(&app, "version").await == (version + 1).to_string()).await;
    assert_eq!(
        event_kinds(&ada, id).await,
        "attempt_started connected attempt_started attempt_started reauthorized"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn refresh_tab_closed() {
    let app = TestApp::new().await;
    let (ada, id) = revoked(&app).await;
    hold_response(&app, "force_refresh").await;
    let path = format!("/connections/{id}/check");
    let request = ada.request(Method::POST, &path);
    cancel_request(&app, request, ("GET", "force_refresh")).await;
    app.faults(json!({})).await;
    app.advance(TimeDelta::minutes(2));
    app.sweep().await;
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
async fn disconnect_tab_closed() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    hold_response(&app, "DELETE").await;
    let request = ada.request(Method::DELETE, "/gmail/disconnect");
    cancel_request(&app, request, ("DELETE", "/connections/")).await;
    let id = text(&connected, "id");
    assert_eq!(
        describe_status(&ada, id).await,
        "disconnected user_disconnected succeeded"
    );
    // Nango's confirmation is applied without another user request.
    eventually(async || {
        let (_, again) = ada.disconnect("gmail", "").await;
        again["upstream_deleted"] == true
    })
    .await;
    assert_eq!(
        event_kinds(&ada, id).await,
        "attempt_started connected disconnected"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn connect_consent_denied() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "deny" })).await;
    let started = ada.connect("gmail").await;
    popup(&app, &started).await;
    let id = text(&started, "connection_id");
    let denied = ada.get(&format!("/connections/{id}?wait=25")).await;
    assert_eq!(
        denied["attempt"]["error_message"],
        "Access was not granted: The user denied the request"
    );
    assert_eq!(
        describe_status(&ada, id).await,
        "error authorization_denied failed"
    );
    // The popup is still open, its session is valid, and the user now grants access.
    app.faults(json!({ "consent": "allow" })).await;
    popup(&app, &started).await;
    ada.wait_until(id, "connected").await;
    assert_eq!(describe_status(&ada, id).await, "connected - succeeded");
    assert_eq!(
        event_kinds(&ada, id).await,
        "attempt_started attempt_failed connected"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn reconnect_consent_denied() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    app.faults(json!({ "consent": "deny" })).await;
    popup(&app, &reconnect(&ada, id).await).await;
    let after = ada.get(&format!("/connections/{id}?wait=25")).await;
    assert_eq!(after["attempt"]["error_code"], "authorization_denied");
    assert_eq!(describe_status(&ada, id).await, "connected - failed");
    assert_eq!(
        after["nango_connection_id"],
        connected["nango_connection_id"]
    );
    let (status, works) = check(&ada, id).await;
    assert_eq!(
        (status, &works["status"]),
        (StatusCode::OK, &json!("connected"))
    );
    assert_eq!(
        event_kinds(&ada, id).await,
        "attempt_started connected attempt_started attempt_failed"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn disconnect_consent_denied() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "deny" })).await;
    let started = ada.connect("gmail").await;
    ada.disconnect("gmail", "").await;
    popup(&app, &started).await;
    assert_eq!(assert_status(&app).await, [204]);
    let id = text(&started, "connection_id");
    assert_eq!(
        describe_status(&ada, id).await,
        "disconnected user_disconnected superseded"
    );
    assert_eq!(event_kinds(&ada, id).await, "attempt_started disconnected");
    wait_until_settled(&app).await;
}

/// Expires the authorization link.
pub(super) async fn expire_attempt(app: &TestApp) {
    app.advance(TimeDelta::minutes(31));
    app.service().await.expiry.run().await.unwrap();
    let mut sql = app.sql().await;
    // The running replica may process the expiry instead.
    eventually(async || {
        let open = "select count(*) from connect_attempt where outcome is null";
        let open: i64 = sqlx::query_scalar(open).fetch_one(&mut sql).await.unwrap();
        open == 0
    })
    .await;
}

#[tokio::test]
async fn connect_consent_never_given() {
    consent_never_given(TestApp::new().await).await;
}

pub(super) async fn consent_never_given(app: TestApp) {
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let id = text(&started, "connection_id");
    popup(&app, &started).await;
    app.advance(TimeDelta::minutes(29));
    assert_eq!(app.service().await.expiry.run().await.unwrap(), 0);
    assert_eq!(
        describe_status(&ada, id).await,
        "pending awaiting_authorization -"
    );
    expire_attempt(&app).await;
    assert_eq!(
        describe_status(&ada, id).await,
        "error attempt_expired expired"
    );
    ada.connected("gmail").await;
    assert_eq!(
        event_kinds(&ada, id).await,
        "attempt_started attempt_failed attempt_started connected"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn reconnect_consent_never_given() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    app.faults(json!({})).await;
    popup(&app, &reconnect(&ada, id).await).await;
    expire_attempt(&app).await;
    assert_eq!(describe_status(&ada, id).await, "connected - expired");
    let (_, works) = check(&ada, id).await;
    assert_eq!(works["status"], "connected");
    assert_eq!(
        event_kinds(&ada, id).await,
        "attempt_started connected attempt_started attempt_failed"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn disconnect_consent_never_given() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let (_, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(ended["upstream_deleted"], true);
    expire_attempt(&app).await;
    let id = text(&started, "connection_id");
    assert_eq!(
        describe_status(&ada, id).await,
        "disconnected user_disconnected superseded"
    );
    assert_eq!(event_kinds(&ada, id).await, "attempt_started disconnected");
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn connect_two_tabs() {
    two_tabs(TestApp::new().await).await;
}

pub(super) async fn two_tabs(app: TestApp) {
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    let (one, other) = tokio::join!(ada.connect("gmail"), ada.connect("gmail"));
    assert_eq!(one["connection_id"], other["connection_id"]);
    let id = text(&one, "connection_id").to_owned();
    let id = id.as_str();
    let newest = ada.connection(id).await;
    let (superseded, open) = if newest["attempt"]["id"] == other["attempt_id"] {
        (one, other)
    } else {
        (other, one)
    };
    // The superseded tab is granted first, which counts and ends the other tab's wait.
    let path = format!("/connections/{id}?wait=25");
    let waited = if app.has_webhooks() {
        tokio::join!(ada.get(&path), popup(&app, &superseded)).0
    } else {
        // A poll queries the newest attempt only.
        popup(&app, &superseded).await;
        app.sweep().await;
        ada.connection(id).await
    };
    assert_eq!(waited["status"], "connected");
    app.advance(TimeDelta::seconds(1));
    popup(&app, &open).await;
    noticed(&app).await;
    replaced_grants_are_due(&app).await;
    eventually(async || {
        let stored = app.nango_connections().await;
        stored.len() == 1 && stored[0] != text(&waited, "nango_connection_id")
    })
    .await;
    assert_eq!(describe_status(&ada, id).await, "connected - succeeded");
    assert_eq!(
        event_kinds(&ada, id).await,
        "attempt_started attempt_started connected reauthorized"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn reconnect_two_tabs() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    let one = reconnect(&ada, id).await;
    let other = reconnect(&ada, id).await;
    popup(&app, &one).await;
    popup(&app, &other).await;
    assert_status(&app).await;
    let after = ada.connection(id).await;
    assert_eq!(
        after["nango_connection_id"],
        connected["nango_connection_id"]
    );
    assert_eq!(describe_status(&ada, id).await, "connected - succeeded");
    let chain = event_kinds(&ada, id).await;
    let started = "attempt_started connected attempt_started attempt_started reauthorized";
    assert!(chain.starts_with(started), "{chain}");
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn refresh_two_tabs() {
    let app = TestApp::new().await;
    let (ada, id) = revoked(&app).await;
    let (one, other) = tokio::join!(check(&ada, &id), check(&ada, &id));
    for (status, body) in [one, other] {
        assert_eq!(status, StatusCode::OK, "{body}");
        assert_eq!(
            (&body["status"], &body["health"]),
            (&json!("connected"), &json!("refused"))
        );
    }
    refused_until_dead(&app).await;
    assert_eq!(
        event_kinds(&ada, &id).await,
        "attempt_started connected credentials_failing needs_reauthorization"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn disconnect_two_tabs() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let (one, other) = tokio::join!(ada.disconnect("gmail", ""), ada.disconnect("gmail", ""));
    for (status, body) in [one, other] {
        assert_eq!(
            (status, &body["status"]),
            (StatusCode::OK, &json!("disconnected"))
        );
    }
    assert_eq!(app.nango_connections().await.len(), 0);
    let (_, again) = ada.disconnect("gmail", "").await;
    assert_eq!(again["upstream_deleted"], true);
    assert_eq!(
        event_kinds(&ada, text(&connected, "id")).await,
        "attempt_started connected disconnected"
    );
    wait_until_settled(&app).await;
}

/// Deletes replaced grants, which are kept for ten minutes until the newer one is known to work.
async fn replaced_grants_are_due(app: &TestApp) {
    app.advance(TimeDelta::minutes(11));
    app.service().await.deletions.delete_due().await.unwrap();
}

#[tokio::test]
async fn connect_two_grants() {
    two_grants(TestApp::new().await).await;
}

pub(super) async fn two_grants(app: TestApp) {
    let ada = app.user("ada").await;
    // Both grants occur concurrently, and each webhook is sent twice.
    let faults = json!({ "consent": "allow", "duplicate_webhooks": true });
    app.faults(faults).await;
    let started = ada.connect("gmail").await;
    tokio::join!(popup(&app, &started), popup(&app, &started));
    noticed(&app).await;
    replaced_grants_are_due(&app).await;
    eventually(async || app.nango_connections().await.len() == 1).await;
    let id = text(&started, "connection_id");
    assert_eq!(describe_status(&ada, id).await, "connected - succeeded");
    let kept = ada.connection(id).await;
    assert_eq!(
        app.nango_connections().await,
        [text(&kept, "nango_connection_id")]
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn reconnect_two_grants() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    let started = reconnect(&ada, id).await;
    popup(&app, &started).await;
    popup(&app, &started).await;
    assert_status(&app).await;
    assert_eq!(
        app.nango_connections().await,
        [text(&connected, "nango_connection_id")]
    );
    assert_eq!(describe_status(&ada, id).await, "connected - succeeded");
    assert_eq!(
        event_kinds(&ada, id).await,
        "attempt_started connected attempt_started reauthorized"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn disconnect_two_grants() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    let started = ada.connect("gmail").await;
    let id = text(&started, "connection_id");
    popup(&app, &started).await;
    ada.wait_until(id, "connected").await;
    ada.disconnect("gmail", "").await;
    // Nango's session outlives the disconnect, and so may the popup.
    popup(&app, &started).await;
    assert_status(&app).await;
    eventually(async || app.nango_connections().await.is_empty()).await;
    assert_eq!(
        describe_status(&ada, id).await,
        "disconnected user_disconnected succeeded"
    );
    assert_eq!(
        event_kinds(&ada, id).await,
        "attempt_started connected disconnected"
    );
    wait_until_settled(&app).await;
}
