//! Traces: from a caller's request through SQL to Nango, as a collector receives them.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use reqwest::Method;

use crate::process::Process;
use crate::test_app::{TestApp, free_port};
use crate::test_server::serve;

/// The requests to a collector.
type Collected = Arc<Mutex<Vec<ExportTraceServiceRequest>>>;

async fn collect(State(all): State<Collected>, headers: HeaderMap, body: Bytes) -> StatusCode {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    all.lock().unwrap().push(request);
    StatusCode::OK
}

/// The trace contexts that a failing Nango received.
type SpanFields = Arc<Mutex<Vec<String>>>;

async fn fail(State(reported): State<SpanFields>, headers: HeaderMap) -> StatusCode {
    let trace = headers.get("traceparent").map(|it| it.to_str().unwrap());
    reported
        .lock()
        .unwrap()
        .push(trace.unwrap_or_default().to_owned());
    StatusCode::INTERNAL_SERVER_ERROR
}

fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.as_ref()? {
        AnyValue {
            value: Some(Value::StringValue(text)),
        } => Some(text.clone()),
        AnyValue {
            value: Some(Value::IntValue(number)),
        } => Some(number.to_string()),
        other => panic!("{other:?}"),
    }
}

/// A trace and a span in it, from the caller.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// Starts a connection at a failing Nango. Returns the spans that the collector received, their text,
/// and the trace contexts that Nango received.
async fn traced() -> (Vec<Span>, String, Vec<String>, String) {
    let app = TestApp::with_system_clock().await;
    let (collected, reported) = (Collected::default(), SpanFields::default());
    let collector = Router::new().route("/v1/traces", post(collect));
    let collector = serve(collector.with_state(collected.clone())).await;
    let nango = serve(Router::new().fallback(fail).with_state(reported.clone())).await;
    let port = free_port().to_string();
    let url = format!("http://127.0.0.1:{port}");
    let settings = app.settings(&[
        ("PORT", &port),
        ("PUBLIC_URL", &url),
        ("NANGO_BASE_URL", nango.as_str()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.as_str()),
    ]);
    let settings: Vec<(&str, &str)> = settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let mut process = Process::start(&["serve"], &settings);
    process.until_ready_is(&url, StatusCode::OK).await;
    let ada = app.user("ada@user.example").await;
    let connect = ada.at_url(&url).request(Method::POST, "/gmail/connect");
    let traceparent = format!("00-{TRACE}-{CALLER}-01");
    let answer = connect.header("traceparent", traceparent).send().await;
    assert_eq!(answer.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    process.signal("TERM").await;
    assert!(process.ended().await.success(), "{}", process.output());

    let all = collected.lock().unwrap();
    let resources = all.iter().flat_map(|request| &request.resource_spans);
    for resource in resources.clone() {
        let attributes = &resource.resource.as_ref().unwrap().attributes;
        let name = attribute(attributes, "service.name");
        assert_eq!(name.as_deref(), Some("patchbay"));
    }
    let spans = resources.flat_map(|resource| &resource.scope_spans);
    let spans = spans.flat_map(|scope| scope.spans.iter().cloned());
    let spans = spans.filter(|span| hex::encode(&span.trace_id) == TRACE);
    let text = format!("{all:?}");
    for secret in [ada.token.as_str(), &app.secret_key, "ada", "%40"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    let reported = reported.lock().unwrap().clone();
    (spans.collect(), text, reported, process.output())
}

#[tokio::test]
async fn trace_spans_request_operation_sql_and_nango_calls() {
    let (spans, _, reported, output) = traced().await;
    let named = |name: &str| -> Vec<&Span> {
        let found = spans.iter().filter(|span| span.name == name);
        found.collect()
    };
    let [request] = named("POST /api/v1/connectors/{connector}/connect")[..] else {
        panic!("{spans:#?}");
    };
    assert_eq!(hex::encode(&request.parent_span_id), CALLER);
    assert_eq!(request.kind(), SpanKind::Server);
    let of_request = |name: &str| attribute(&request.attributes, name);
    assert_eq!(
        of_request("http.response.status_code").as_deref(),
        Some("503")
    );
    assert_eq!(request.status.as_ref().unwrap().code, 2, "an error");

    let [operation] = named("connect")[..] else {
        panic!("{spans:#?}");
    };
    assert_eq!(operation.parent_span_id, request.span_id);
    let below = |span: &Span| {
        let parents = [&request.span_id, &operation.span_id];
        parents.contains(&&span.parent_span_id)
    };
    let statements = named("sql");
    assert!(statements.len() > 2 && statements.iter().all(|span| below(span)));
    let texts = statements
        .iter()
        .filter_map(|span| attribute(&span.attributes, "db.query.text"));
    let texts: Vec<String> = texts.collect();
    assert!(
        texts
            .iter()
            .any(|text| text.contains("insert into connect_attempt")),
        "{texts:#?}"
    );
    assert_eq!(texts.len(), statements.len());
    assert!(named("begin").iter().all(|span| below(span)));

    // Each retry has its own span, and Nango receives the context of the span that calls it.
    let tries = named("nango create_session");
    assert_eq!(tries.len(), 3);
    for call in tries {
        assert!(below(call));
        assert_eq!(call.kind(), SpanKind::Client);
        let error = attribute(&call.attributes, "error.type");
        assert_eq!(error.as_deref(), Some("unavailable"));
        let name = format!("00-{TRACE}-{}-01", hex::encode(&call.span_id));
        assert!(reported.contains(&name), "{name} in {reported:?}");
    }
    // Log lines are the same as without traces.
    let line = output
        .lines()
        .find(|line| line.contains(r#""message":"request""#));
    let line: serde_json::Value = serde_json::from_str(line.unwrap()).unwrap();
    assert!(line["span"].is_null() && line["spans"].is_null(), "{line}");
}
