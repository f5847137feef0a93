//! The metrics: access, values, and the names in the dashboard and the alerts.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use patchbay::telemetry::metrics;
use reqwest::{Method, Response, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::test_app::{IMMEDIATE_SWEEP, TestApp};

const TOKEN: &str = "a token that only Prometheus has";

async fn app() -> TestApp {
    TestApp::with(&[("METRICS_TOKEN", TOKEN)]).await
}

async fn ask(app: &TestApp, token: Option<&str>) -> Response {
    let request = app.client.get(format!("{}/metrics", app.url));
    let request = match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    request.send().await.unwrap()
}

async fn scrape(app: &TestApp) -> String {
    let answer = ask(app, Some(TOKEN)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], metrics::CONTENT_TYPE);
    answer.text().await.unwrap()
}

/// Returns the value of a metric with all its labels.
fn value(text: &str, series: &str) -> Option<f64> {
    let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    let mut found = lines.filter(|(name, _)| *name == series);
    found.next().map(|(_, value)| value.parse().unwrap())
}

fn assert_value(text: &str, series: &str, expected: f64) {
    assert_eq!(value(text, series), Some(expected), "{series} in\n{text}");
}

/// Produces activity: a connect, a denial, a workflow, a sweep, and a forged signature.
async fn app_with_activity(app: &TestApp) {
    let ada = app.user("ada@user.example").await;
    app.faults(json!({ "consent": "allow" })).await;
    let started = ada.connect("gmail").await;
    app.advance(TimeDelta::seconds(7));
    app.popup(started["oauth_url"].as_str().unwrap()).await;
    let id = started["connection_id"].as_str().unwrap();
    ada.wait_until(id, "connected").await;
    app.faults(json!({ "consent": "deny" })).await;
    let denied = ada.connect("github").await;
    app.popup(denied["oauth_url"].as_str().unwrap()).await;
    ada.wait_until(denied["connection_id"].as_str().unwrap(), "error")
        .await;
    let key = app.keys().await;
    let scopes = [patchbay::auth::service_keys::Scope::TokensRead].into();
    let key = key.create("engine", &scopes).await.unwrap();
    for _ in 0..3 {
        let url = format!("{}/api/v1/connectors/gmail/token", app.url);
        let request = app.client.post(url).bearer_auth(key.expose_secret());
        let answer = request.header("patchbay-user", "ada@user.example").send();
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    }
    let forged = app
        .client
        .post(format!("{}/api/v1/webhooks/nango", app.url))
        .send();
    assert_eq!(forged.await.unwrap().status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn metrics_require_token() {
    let app = app().await;
    for token in [None, Some("another"), Some(&TOKEN[1..])] {
        let answer = ask(&app, token).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(
            answer.headers()["www-authenticate"],
            "Bearer realm=\"metrics\""
        );
    }
    assert_eq!(ask(&app, Some(TOKEN)).await.status(), StatusCode::OK);

    let without = TestApp::new().await;
    for token in [None, Some(""), Some(TOKEN)] {
        let answer = ask(&without, token).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn metrics_count_events_without_personal_data() {
    let app = app().await;
    app_with_activity(&app).await;
    let text = scrape(&app).await;
    assert_value(&text, "patchbay_connections{status=\"connected\"}", 1.0);
    assert_value(&text, "patchbay_connections{status=\"error\"}", 1.0);
    assert_value(&text, "patchbay_connections{status=\"pending\"}", 0.0);
    assert_value(
        &text,
        "patchbay_attempts_started_total{kind=\"connect\"}",
        2.0,
    );
    assert_value(
        &text,
        "patchbay_attempts_ended_total{outcome=\"succeeded\",reason=\"\"}",
        1.0,
    );
    assert_value(
        &text,
        "patchbay_attempts_ended_total{outcome=\"failed\",reason=\"authorization_denied\"}",
        1.0,
    );
    assert_value(&text, "patchbay_time_to_connect_seconds_sum", 7.0);
    assert_value(&text, "patchbay_tokens_total{source=\"nango\"}", 1.0);
    assert_value(&text, "patchbay_tokens_total{source=\"cache\"}", 2.0);
    assert_value(
        &text,
        "patchbay_nango_calls_total{operation=\"create_session\",outcome=\"ok\"}",
        2.0,
    );
    let webhook = "patchbay_http_requests_total{route=\"/api/v1/webhooks/nango\",method=\"POST\",status=\"401\"}";
    assert_value(&text, webhook, 1.0);
    let connect = "route=\"/api/v1/connectors/{connector}/connect\",method=\"POST\"";
    assert_value(
        &text,
        &format!("patchbay_http_requests_total{{{connect},status=\"200\"}}"),
        2.0,
    );
    assert_value(
        &text,
        &format!("patchbay_http_request_duration_seconds_count{{{connect}}}"),
        2.0,
    );
    assert_value(&text, "patchbay_database_up", 1.0);
    assert_value(
        &text,
        "patchbay_queue_waiting{queue=\"event_deliveries\"}",
        0.0,
    );
    assert_value(
        &text,
        "patchbay_queue_waiting{queue=\"open_attempts\"}",
        0.0,
    );
    assert!(value(&text, "patchbay_sweep_age_seconds").unwrap() >= 0.0);
    assert!(text.ends_with("# EOF\n"));
    for secret in ["engine", TOKEN, &app.secret_key, "pbk_"] {
        assert!(!text.contains(secret), "{secret} in\n{text}");
    }
    let mut words = text.split(|character: char| !character.is_ascii_alphanumeric());
    assert!(words.all(|word| word != "ada"), "{text}");
}

#[tokio::test]
async fn queue_metrics_report_size_and_oldest_age() {
    let app = app().await;
    let ada = app.user("ada").await;
    ada.connected("gmail").await;
    app.faults(json!({ "refuse_delete": true })).await;
    ada.disconnect("gmail", "").await;
    ada.connect("github").await;
    app.advance(TimeDelta::minutes(5));
    let text = scrape(&app).await;
    for queue in ["upstream_deletions", "open_attempts"] {
        assert_value(
            &text,
            &format!("patchbay_queue_waiting{{queue=\"{queue}\"}}"),
            1.0,
        );
        assert_value(
            &text,
            &format!("patchbay_queue_oldest_seconds{{queue=\"{queue}\"}}"),
            300.0,
        );
    }
}

#[tokio::test]
async fn metrics_are_separate_per_service_instance() {
    let (one, other) = (app().await, app().await);
    app_with_activity(&one).await;
    let text = scrape(&other).await;
    assert_eq!(
        value(&text, "patchbay_attempts_started_total{kind=\"connect\"}"),
        None
    );
}

/// Inserts more connections than are counted exactly, without an ANALYZE.
async fn fill(app: &TestApp) {
    let fill = "alter table user_connector_connection set (autovacuum_enabled = false); \
         insert into user_connector_connection \
           (id, user_id, connector_id, status, status_reason, disconnected_at, created_at, updated_at) \
         select gen_random_uuid(), 'u' || n, connector_id, s, 'user_disconnected', now(), now(), now() \
         from user_connector_connection, generate_series(1, 60000) n, \
           lateral (select case when n % 4 = 0 then 'error' else 'disconnected' end as s) k";
    sqlx::raw_sql(fill)
        .execute(&mut app.sql().await)
        .await
        .unwrap();
}

#[tokio::test]
async fn connection_counts_are_missing_before_the_first_analyze() {
    let app = app().await;
    app.user("ada").await.connected("gmail").await;
    fill(&app).await;
    let text = scrape(&app).await;
    assert_eq!(value(&text, "patchbay_connections{status=\"error\"}"), None);
    assert_value(&text, "patchbay_orphans", 0.0);
}

#[tokio::test]
async fn connection_counts_are_estimated_for_large_tables() {
    let app = app().await;
    let ada = app.user("ada").await;
    ada.connected("gmail").await;
    fill(&app).await;
    let analyze = "analyze user_connector_connection";
    sqlx::raw_sql(analyze)
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    let text = scrape(&app).await;
    for (status, share) in [("disconnected", 45_000.0), ("error", 15_000.0)] {
        let series = format!("patchbay_connections{{status=\"{status}\"}}");
        let estimate = value(&text, &series).unwrap();
        assert!((estimate - share).abs() < 1500.0, "{estimate} {status}");
    }
}

/// Returns the names of all metrics, including those of a sweep.
async fn all_names(app: &TestApp) -> BTreeSet<String> {
    app_with_activity(app).await;
    let service = app.service().await;
    let report = service
        .sweeper
        .sweep(IMMEDIATE_SWEEP, &CancellationToken::new())
        .await;
    report.unwrap().unwrap();
    let mut registry = metrics::registry();
    service.statistics.register(&mut registry);
    let text = scrape(app).await + &metrics::encode_text(&[&registry]).unwrap();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(['{', ' ']).next().unwrap().to_owned())
        .collect()
}

/// Returns the names with this application's prefix in a text.
fn names_in(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("patchbay_"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn dashboard_and_alerts_match_exported_metrics() {
    let app = app().await;
    // An app whose limit rejects a request.
    let limited = app
        .replica(&[
            ("RATE_LIMIT_ADDRESS_PER_MINUTE", "1"),
            ("METRICS_TOKEN", TOKEN),
        ])
        .await;
    for _ in 0..2 {
        app.client.get(&limited.url).send().await.unwrap();
    }
    let of_limited = app.client.get(format!("{}/metrics", limited.url));
    let of_limited = of_limited.bearer_auth(TOKEN).send().await.unwrap();
    let mut real = names_in(&of_limited.text().await.unwrap());
    real.extend(all_names(&app).await);

    let dashboard: Value =
        serde_json::from_str(include_str!("../../docs/monitoring/grafana.json")).unwrap();
    let shown = names_in(&dashboard.to_string());
    let alerted = names_in(include_str!("../../docs/monitoring/alerts.yaml"));
    for name in shown.union(&alerted) {
        assert!(real.contains(name), "there is no {name} in {real:#?}");
    }
    let plain = |name: &String| {
        let plain = name.trim_end_matches("_bucket").trim_end_matches("_count");
        plain.trim_end_matches("_sum").to_owned()
    };
    let shown: BTreeSet<String> = shown.iter().map(plain).collect();
    // Skip names without a sample of their own: descriptions omit the counter's `_total` suffix.
    let samples = real
        .iter()
        .filter(|name| *name != "patchbay_build" && !real.contains(&format!("{name}_total")));
    for name in samples.map(plain) {
        assert!(shown.contains(&name), "{name} is on no panel");
    }
}

#[tokio::test]
async fn long_polls_are_excluded_from_request_durations() {
    let app = app().await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let path = format!(
        "/connections/{}?wait=1",
        started["connection_id"].as_str().unwrap()
    );
    let (status, _) = ada.call(Method::GET, &path, None).await;
    assert_eq!(status, StatusCode::OK);
    let text = scrape(&app).await;
    let route = "route=\"/api/v1/connectors/connections/{id}\",method=\"GET\"";
    assert_value(
        &text,
        &format!("patchbay_http_requests_total{{{route},status=\"200\"}}"),
        1.0,
    );
    let timed = format!("patchbay_http_request_duration_seconds_count{{{route}}}");
    assert_eq!(value(&text, &timed), None);
}
