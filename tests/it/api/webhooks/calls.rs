//! The calls to Nango that webhooks cause: few, however often they are replayed.

use super::*;

/// Returns the number of calls that Nango has received.
async fn calls(app: &TestApp) -> usize {
    let calls = app.control("requests", Method::GET, Value::Null).await;
    calls.as_array().unwrap().len()
}

#[tokio::test]
async fn webhook_of_unknown_attempt_costs_no_call() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let nango_id = text(&connected, "nango_connection_id");
    let known = tags(&app, &nango_id, "gmail").await;
    let before = calls(&app).await;
    for _ in 0..20 {
        let attempt = Uuid::now_v7().to_string();
        assert_eq!(send(&app, &attempt, &denial("gmail")).await.status, 204);
        let mut tags = known.clone();
        tags["patchbay_attempt"] = json!(attempt);
        let event = success(&nango_id, "gmail", &tags);
        for path in [attempt.as_str(), ""] {
            assert_eq!(send(&app, path, &event).await.status, 204);
        }
        let mut event = success(&Uuid::new_v4().to_string(), "gmail", &json!({}));
        event["operation"] = json!("refresh");
        assert_eq!(send(&app, "", &event).await.status, 204);
    }
    // A poll that was in progress before may end in between. Any kind of these webhooks would cause 20 calls.
    assert!(calls(&app).await < before + 20);
    assert_eq!(ada.connection(&text(&connected, "id")).await, connected);
}

#[tokio::test]
async fn replayed_denial_costs_no_call_and_changes_nothing() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let (id, attempt) = (
        text(&started, "connection_id"),
        text(&started, "attempt_id"),
    );
    let denial = denial("gmail");
    let before = calls(&app).await;
    assert_eq!(send(&app, &attempt, &denial).await.status, 204);
    assert_eq!(calls(&app).await, before + 1);
    let denied = ada.connection(&id).await;
    assert_eq!(denied["status_reason"], "authorization_denied");
    for _ in 0..20 {
        assert_eq!(send(&app, &attempt, &denial).await.status, 204);
    }
    assert_eq!(calls(&app).await, before + 1);
    assert_eq!(ada.connection(&id).await, denied);
    // A failure of a granted or superseded attempt changes nothing, either.
    let connected = ada.connected("gmail").await;
    let before = calls(&app).await;
    let granted = text(&connected["attempt"], "id");
    for attempt in [&attempt, &granted] {
        assert_eq!(send(&app, attempt, &denial).await.status, 204);
    }
    assert_eq!(calls(&app).await, before);
    assert_eq!(ada.connection(&id).await, connected);
}

#[tokio::test]
async fn replayed_success_costs_few_calls() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let nango_id = text(&connected, "nango_connection_id");
    let event = success(&nango_id, "gmail", &tags(&app, &nango_id, "gmail").await);
    let before = calls(&app).await;
    let (mut taken, mut refused) = (0, 0);
    for n in 0..60 {
        // The address is not signed, so only the tags in the body count.
        let path = [String::new(), Uuid::now_v7().to_string()][n % 2].clone();
        let answer = send(&app, &path, &event).await;
        match answer.status.as_u16() {
            204 => taken += 1,
            _ => {
                let problem = answer.is_problem(503, "overloaded");
                let detail = "Too many webhooks of this attempt arrived within a minute. Send the webhook again later.";
                assert_eq!(problem["detail"], detail);
                refused += 1;
            }
        }
    }
    assert!(taken <= 10 && refused >= 50, "{taken} {refused}");
    assert!(calls(&app).await - before <= 10);
    assert_eq!(ada.connection(&text(&connected, "id")).await, connected);
}

#[tokio::test]
async fn webhook_without_a_waiting_user_keeps_to_the_rate_budget() {
    const LIMIT: u32 = 100;
    let app = TestApp::build(&[], |nango| nango.rate_limit = LIMIT).await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let nango_id = text(&connected, "nango_connection_id");
    let tags = tags(&app, &nango_id, "gmail").await;
    app.advance(chrono::TimeDelta::minutes(2));
    let attempt = text(&ada.connect("github").await, "attempt_id");
    for _ in 0..LIMIT * 3 / 4 {
        app.nango(Method::GET, "/connections?limit=1").await;
    }
    // The user waits for this webhook, and its call shows that the budget has room.
    assert_eq!(send(&app, &attempt, &denial("github")).await.status, 204);
    let before = calls(&app).await;
    let mut event = success(&nango_id, "gmail", &tags);
    send(&app, "", &event)
        .await
        .is_problem(503, "nango_rate_limited");
    event["operation"] = json!("refresh");
    event["success"] = json!(false);
    send(&app, "", &event)
        .await
        .is_problem(503, "nango_rate_limited");
    assert_eq!(calls(&app).await, before);
    app.advance(chrono::TimeDelta::seconds(62));
    assert_eq!(send(&app, "", &event).await.status, 204);
    assert!(calls(&app).await > before);
}
