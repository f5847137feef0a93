//! Secrets do not leak. Every secret and token is unique. The tests exercise the service at its most verbose log level,
//! then search all readable output for the secrets.

mod exercise;
mod search;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use patchbay::auth::service_keys::Scope;
use prost::Message;
use secrecy::ExposeSecret;
use tower::ServiceExt;
use uuid::Uuid;

use crate::process::Process;
use crate::test_app::{TestApp, free_port};
use crate::test_server::serve;
use exercise::Exerciser;
use search::{Canaries, Location};

/// Bodies sent to external addresses, as text.
type CapturedBodies = Arc<Mutex<Vec<String>>>;

async fn collect(State(all): State<CapturedBodies>, body: Bytes) -> StatusCode {
    let spans = ExportTraceServiceRequest::decode(body).unwrap();
    all.lock().unwrap().push(format!("{spans:?}"));
    StatusCode::OK
}

async fn take(State(all): State<CapturedBodies>, body: String) -> StatusCode {
    all.lock().unwrap().push(body);
    StatusCode::NO_CONTENT
}

/// Returns a unique secret for the environment, with at least 32 characters.
fn canary(name: &str) -> String {
    format!("canary-{name}-{}", Uuid::new_v4().simple())
}

/// Starts a server on this machine that records all requests.
async fn listener(
    path: &str,
    sent: &CapturedBodies,
    endpoint: axum::routing::MethodRouter<CapturedBodies>,
) -> url::Url {
    serve(Router::new().route(path, endpoint).with_state(sent.clone())).await
}

/// Returns the environment of a service with verbose logs and unique secrets.
fn environment(
    app: &TestApp,
    url: &url::Url,
    collector: &url::Url,
    canaries: &mut Canaries,
) -> Vec<(&'static str, String)> {
    let mut add = |what: &'static str, secret: String| {
        canaries.add(what, &secret);
        secret
    };
    let old_signing_key = add("the old NANGO_WEBHOOK_SIGNING_KEY", canary("signing"));
    let metrics = add("METRICS_TOKEN", canary("metrics"));
    let collector_key = add("OTEL_EXPORTER_OTLP_HEADERS", canary("otlp"));
    let encryption_key = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    add("ENCRYPTION_KEY", encryption_key.clone());
    add("AUTH_JWT_SECRET", crate::test_app::JWT_SECRET.to_owned());
    add("NANGO_SECRET_KEY", app.secret_key.clone());
    add("NANGO_WEBHOOK_SIGNING_KEY", app.signing_key.clone());
    let given_key = add(
        "a key of SERVICE_API_KEYS",
        format!("pbk_{}", canary("given")),
    );
    let signing_keys = format!("{},{old_signing_key}", app.signing_key);
    let settings = app.settings(&[
        ("PORT", &url.port().unwrap().to_string()),
        ("PUBLIC_URL", url.as_str()),
        ("RUST_LOG", "trace"),
        ("METRICS_TOKEN", &metrics),
        ("ENCRYPTION_KEY", &encryption_key),
        ("SERVICE_API_KEYS", &format!("given={given_key}")),
        ("NANGO_WEBHOOK_SIGNING_KEY", &signing_keys),
        ("NANGO_TIMEOUT_SECONDS", "1"),
        ("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.as_str()),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            &format!("authorization=Bearer {collector_key}"),
        ),
    ]);
    let database: url::Url = value(&settings, "DATABASE_URL").parse().unwrap();
    let password = database.password().expect("tests log in by password");
    add("the database's password", password.to_owned());
    settings
}

/// Returns the last value of a variable.
fn value<'a>(settings: &'a [(&'static str, String)], name: &str) -> &'a str {
    let mut named = settings.iter().filter(|(given, _)| *given == name);
    &named.next_back().unwrap().1
}

#[tokio::test]
async fn secrets_do_not_leak_into_readable_output() {
    let app = TestApp::with_system_clock().await;
    let (traces, messages) = (CapturedBodies::default(), CapturedBodies::default());
    let collector = listener("/v1/traces", &traces, post(collect)).await;
    let product = listener("/hook", &messages, post(take)).await;
    let url: url::Url = format!("http://127.0.0.1:{}", free_port()).parse().unwrap();
    let mut canaries = Canaries::default();
    let settings = environment(&app, &url, &collector, &mut canaries);
    let scopes = Scope::ALL.into();
    let kept_key = app.keys().await.create("kept", &scopes).await.unwrap();
    canaries.add("a key of patchbay keys", kept_key.expose_secret());

    let borrowed: Vec<(&str, &str)> = settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    // The service's public URL differs from that of the app, which has used the database before.
    sqlx::query("update installation set public_url = $1")
        .bind(url.as_str())
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    let mut process = Process::start(&["serve"], &borrowed);
    let base = url.as_str().trim_end_matches('/');
    process.until_ready_is(base, reqwest::StatusCode::OK).await;
    let mut driven = Exerciser {
        app: &app,
        url: base.to_owned(),
        kept_key: kept_key.expose_secret().to_owned(),
        given_key: value(&settings, "SERVICE_API_KEYS").replace("given=", ""),
        metrics: value(&settings, "METRICS_TOKEN").to_owned(),
        canaries,
        places: Vec::new(),
    };
    driven.add_endpoint(&borrowed, &product).await;
    driven.exercise().await;
    driven.trigger_errors(&borrowed).await;
    driven.commands(&borrowed).await;
    driven.wait_for_deliveries(&messages).await;
    process.signal("TERM").await;
    assert!(process.ended().await.success(), "{}", process.output());

    let Exerciser {
        canaries,
        mut places,
        ..
    } = driven;
    let joined = |sent: &CapturedBodies| sent.lock().unwrap().join("\n");
    places.push(Location::new("the log", process.output()));
    places.push(Location::new("traces", joined(&traces)));
    places.push(Location::new("webhooks to the product", joined(&messages)));
    places.extend(search::tables(&app).await);
    assert_no_leaks(&canaries, &places);
    assert_no_personal_data(&places);
}

/// Fails if a secret is found in a forbidden location, or if there is no output.
fn assert_no_leaks(canaries: &Canaries, places: &[Location]) {
    let (count, bytes) = (
        places.len(),
        places.iter().map(Location::len).sum::<usize>(),
    );
    let found = canaries.found_in(places);
    let secrets = canaries.len();
    println!("{secrets} secrets, searched for in {count} places of {bytes} bytes");
    assert!(found.is_empty(), "{found:#?}");
    for name in [
        "the log",
        "traces",
        "webhooks to the product",
        "/metrics",
        "table connection_event",
        "table idempotency_key",
        "table webhook_endpoint",
        "events",
    ] {
        let place = places.iter().find(|place| place.name == name);
        let output = place.is_some_and(|place| place.len() > 200);
        assert!(output, "{name} is empty");
    }
    let log = places.iter().find(|place| place.name == "the log");
    let log = &log.unwrap().text;
    assert!(log.contains(r#""level":"TRACE""#) && log.contains("request failed"));
}

/// Fails if the log or traces contain names of accounts.
fn assert_no_personal_data(places: &[Location]) {
    let named = |name: &str| places.iter().find(|place| place.name == name).unwrap();
    let accounts = named("table user_connector_connection");
    for text in ["ada@analytical.example", "Ada Lovelace"] {
        assert!(accounts.text.contains(text), "no account was looked up");
        for name in ["the log", "traces"] {
            assert!(!named(name).text.contains(text), "{text} is in {name}");
        }
    }
}

#[tokio::test]
async fn panic_message_is_not_returned_to_caller() {
    let secret = canary("panic");
    let reported = secret.clone();
    let panics = move || async move {
        assert!(reported.is_empty(), "{reported}");
    };
    let router = patchbay::http::with_middleware(Router::new().fallback(panics));
    let answer = router
        .oneshot(axum::extract::Request::new(Body::empty()))
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let text = format!("{:?}", answer.headers());
    let body = axum::body::to_bytes(answer.into_body(), 10_000)
        .await
        .unwrap();
    let mut canaries = Canaries::default();
    canaries.add("a panic's message", &secret);
    let places = [Location::new(
        "the answer",
        text + std::str::from_utf8(&body).unwrap(),
    )];
    assert_eq!(canaries.found_in(&places), Vec::<String>::new());
}
