//! The client parses each recorded response correctly, and sends the recorded requests.

mod answers;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::response::Response;
use patchbay::nango::{
    Config, Error, IntegrationDefaults, ListConnections, Nango, Refresh, SessionRequest,
};
use serde_json::Value;

use crate::test_server::serve;
use answers::Answer;

const SECRET_KEY: &str = "6f1c4bb5-8d9e-4a37-9a53-0c1f3d2e4b5a";

/// The error of each recorded rejection. Successes are not listed.
const REFUSALS: &[(&str, &str)] = &[
    (
        "Unauthorized 401",
        "auth-basic-scheme auth-empty-bearer auth-lowercase-bearer \
         connect-session-create-bad-key connect-session-create-malformed-key \
         connect-session-create-no-auth connection-get-no-auth connections-list-bad-key \
         connections-list-no-auth connections-list-with-session-token",
    ),
    (
        "Unauthorized 403",
        "connect-session-create-docs-connect-override scoped-key-connection-delete-403 \
         scoped-key-connection-get-force-refresh-403",
    ),
    (
        "NotFound",
        "connection-get-404 connection-get-after-delete connection-get-wrong-integration",
    ),
    (
        "InvalidCredentials",
        "connection-get-after-refresh-failed connection-get-expired-refresh-failed \
         connection-get-refresh-exhausted connection-get-refresh-failed \
         connection-get-refresh-failed-again connection-get-refresh-failed-provider-500",
    ),
    (
        "UnknownIntegration",
        "connect-session-create-unknown-integration \
         connect-session-create-unknown-integration-defaults \
         connection-get-unknown-integration",
    ),
    (
        "UnknownConnection",
        "connect-session-reconnect-unknown-connection \
         connect-session-reconnect-wrong-integration",
    ),
    (
        "AlreadyGone",
        "connection-delete-404 connection-delete-again connection-delete-unknown-integration",
    ),
    (
        "UnsupportedField return_url",
        "connect-session-create-validation-error-extra-field",
    ),
    (
        "UnsupportedField allowed_integrations",
        "connect-session-reconnect-allowed-integrations-refused",
    ),
    (
        "UnsupportedField x",
        "connect-session-create-query-not-allowed",
    ),
    ("UnsupportedField foo", "connection-get-unknown-param"),
    (
        "UnsupportedField end_user_id",
        "connections-list-unknown-param",
    ),
    ("RateLimited 40", "rate-limit-429"),
    ("RateLimited 4", "rate-limit-429-other-endpoint"),
    (
        "Unexpected 400 invalid_body",
        "connect-session-create-no-body connect-session-create-validation-error \
         connect-session-create-validation-error-bad-email \
         connect-session-create-validation-error-bad-integration-chars \
         connect-session-create-validation-error-bad-tags \
         connect-session-create-validation-error-empty-id \
         connect-session-create-validation-error-multiple \
         connect-session-create-validation-error-tags-too-long \
         connect-session-create-validation-error-webhook-url \
         connect-session-reconnect-validation-error",
    ),
    (
        "Unexpected 400 invalid_query_params",
        "connection-delete-missing-provider-config-key connection-get-bad-bool \
         connection-get-missing-provider-config-key connections-list-filter-tags-json \
         connections-list-limit-too-big connections-list-limit-zero",
    ),
    (
        "Unexpected 400 invalid_uri_params",
        "connection-get-bad-connection-id",
    ),
    (
        "Unexpected 400 invalid_json",
        "connect-session-create-invalid-json",
    ),
    (
        "Unexpected 415 invalid_content_type",
        "connect-session-create-wrong-content-type",
    ),
    (
        "Unexpected 404 a body of type text/html",
        "unknown-route-post",
    ),
];

#[tokio::test]
async fn recorded_responses_map_to_expected_outcomes() {
    let mut expected: BTreeMap<&str, &str> = BTreeMap::new();
    for (outcome, names) in REFUSALS {
        expected.extend(names.split_whitespace().map(|name| (name, *outcome)));
    }
    let mut answered = BTreeSet::new();
    let mut same_requests = 0;
    for (name, recording) in recordings() {
        let Some(call) = Call::of(&recording) else {
            continue;
        };
        let (base_url, seen) = replay(&recording["response"]).await;
        let nango = nango(base_url);
        let (outcome, debug) = match call.send(&nango).await {
            Ok(answer) => {
                answer.compare(&name, &recording["response"]["body"]);
                (answer.outcome().to_owned(), format!("{answer:?}"))
            }
            Err(error) => (outcome_of(&error), format!("{error:?} {error}")),
        };
        let expected = expected.get(name.as_str()).copied().unwrap_or("Ok");
        assert_eq!(outcome, expected, "{name}");
        for secret in [SECRET_KEY, "mock_", "nango_connect_session_", "not-a-"] {
            assert!(!debug.contains(secret), "{name} shows {secret}: {debug}");
        }
        let seen = seen.lock().unwrap();
        // A rate-limited call is retried once after the delay that Nango requires, if that is short.
        let most = if recording["response"]["status"] == 429 {
            2
        } else {
            1
        };
        assert!(seen.len() <= most, "{name}: {} calls", seen.len());
        same_requests += usize::from(call.compare_request(&name, &recording["request"], &seen[0]));
        answered.insert(name);
    }
    assert!(
        same_requests >= 45,
        "only {same_requests} requests compared"
    );
    let missing: Vec<_> = (expected.keys())
        .filter(|name| !answered.contains(**name))
        .collect();
    assert!(missing.is_empty(), "not recorded any more: {missing:?}");
}

/// A call of the client, derived from a recorded request.
enum Call {
    Session(SessionRequest),
    Get(String, String, Refresh),
    List(ListConnections),
    Delete(String, String),
    Integrations,
}

impl Call {
    fn of(recording: &Value) -> Option<Self> {
        let request = recording.get("request")?;
        let query = query_of(request);
        let get = |name: &str| query.get(name).cloned();
        let body = &request["body"];
        let path = request["path"].as_str()?;
        let id = path.strip_prefix("/connections/").map(|id| {
            let id = id.replace("%3C", "<");
            (id, get("provider_config_key").unwrap_or_default())
        });
        let defaults = |integration: &str| {
            let given = &body["integrations_config_defaults"][integration];
            IntegrationDefaults {
                scopes: given["connection_config"]["oauth_scopes_override"]
                    .as_str()
                    .map(|scopes| scopes.split(',').map(str::to_owned).collect())
                    .unwrap_or_default(),
                parameters: BTreeMap::new(),
                authorization_params: strings(&given["authorization_params"]),
            }
        };
        let session = |reconnects: Option<String>| {
            let integration = match &reconnects {
                Some(_) => &body["integration_id"],
                None => &body["allowed_integrations"][0],
            };
            let integration = integration.as_str().unwrap_or("github");
            let webhook = body["webhook_url_override"].as_str();
            Self::Session(SessionRequest {
                reconnects,
                integration: integration.to_owned(),
                tags: strings(&body["tags"]),
                webhook_url_override: webhook.and_then(|url| url.parse().ok()),
                defaults: defaults(integration),
            })
        };
        Some(match (request["method"].as_str()?, path, id) {
            ("POST", "/connect/sessions" | "/does-not-exist", _) => session(None),
            ("POST", "/connect/sessions/reconnect", _) => {
                session(Some(body["connection_id"].as_str()?.to_owned()))
            }
            ("GET", _, Some((id, key))) => {
                let force = query.contains_key("force_refresh");
                let refresh = if force {
                    Refresh::Force
                } else {
                    Refresh::WhenDue
                };
                Self::Get(id, key, refresh)
            }
            ("DELETE", _, Some((id, key))) => Self::Delete(id, key),
            ("GET", "/connections", _) => Self::List(filter_of(&query)),
            ("GET", "/integrations", _) => Self::Integrations,
            _ => return None,
        })
    }

    async fn send(&self, nango: &Nango) -> Result<Answer, Error> {
        Ok(match self {
            Self::Session(session) => Answer::Session(nango.session(session).await?),
            Self::Get(id, key, refresh) => {
                Answer::Connection(nango.connection(id, key, *refresh).await?.into())
            }
            Self::List(filter) => Answer::Connections(nango.connections(filter).await?),
            Self::Delete(id, key) => Answer::Deleted(nango.delete_connection(id, key).await?),
            Self::Integrations => Answer::Integrations(nango.integrations().await?),
        })
    }

    /// Returns whether this client would send the recorded request. If so, the sent request must be the same.
    fn compare_request(&self, name: &str, recorded: &Value, sent: &Sent) -> bool {
        let known: &[&str] = match self {
            Self::Session(session) if session.reconnects.is_some() => {
                &["connection_id", "integration_id", "tags"]
            }
            Self::Session(_) => &["allowed_integrations", "tags"],
            Self::Get(_, _, Refresh::Force) => &["provider_config_key", "force_refresh"],
            Self::Get(..) | Self::Delete(..) => &["provider_config_key"],
            Self::List(_) => &[
                "tags[end_user_id]",
                "tags[workspace]",
                "integrationId",
                "connectionId",
                "limit",
                "page",
            ],
            Self::Integrations => &[],
        };
        let query = query_of(recorded);
        let fields = recorded["body"].as_object();
        let fields: Vec<_> = fields.into_iter().flatten().map(|(k, _)| k).collect();
        let required = match self {
            Self::Session(_) => fields.len() == known.len(),
            Self::Get(..) | Self::Delete(..) => query.contains_key("provider_config_key"),
            Self::List(_) | Self::Integrations => true,
        };
        let one = recorded["body"]["allowed_integrations"]
            .as_array()
            .is_none_or(|keys| keys.len() == 1);
        let bearer = recorded["headers"]["Authorization"] == "Bearer <NANGO_SECRET_KEY>";
        let value = query
            .get("force_refresh")
            .is_none_or(|value| value == "true");
        let used = fields.into_iter().chain(query.keys());
        if !(required
            && one
            && bearer
            && value
            && used.clone().all(|k| known.contains(&k.as_str())))
        {
            return false;
        }
        assert_eq!(sent.method.as_str(), recorded["method"], "{name}");
        assert_eq!(sent.path, recorded["path"], "{name}");
        assert_eq!(sent.query, query, "{name}");
        assert_eq!(sent.body, recorded["body"], "{name}");
        assert_eq!(sent.authorization, format!("Bearer {SECRET_KEY}"), "{name}");
        true
    }
}

fn outcome_of(error: &Error) -> String {
    match error {
        Error::Unauthorized { status, .. } => format!("Unauthorized {status}"),
        Error::NotFound => "NotFound".to_owned(),
        Error::InvalidCredentials { message } => {
            assert!(message.ends_with('.'), "not Nango's message: {message}");
            "InvalidCredentials".to_owned()
        }
        Error::UnknownIntegration => "UnknownIntegration".to_owned(),
        Error::UnknownConnection => "UnknownConnection".to_owned(),
        Error::UnsupportedField(field) => format!("UnsupportedField {field}"),
        Error::RateLimited { retry_after } => {
            format!("RateLimited {}", retry_after.unwrap_or_default().as_secs())
        }
        Error::Unexpected { status, detail } => {
            let code = detail.split([':', ';']).next().unwrap_or_default();
            format!("Unexpected {status} {code}")
        }
        other => format!("{other:?}"),
    }
}

fn filter_of(query: &BTreeMap<String, String>) -> ListConnections {
    let get = |name: &str| query.get(name).cloned();
    let tag = |(key, value): (&String, &String)| {
        let key = key.strip_prefix("tags[")?.strip_suffix(']')?;
        Some((key.to_owned(), value.clone()))
    };
    ListConnections {
        tags: query.iter().filter_map(tag).collect(),
        integration: get("integrationId"),
        connection_id: get("connectionId"),
        limit: get("limit").and_then(|n| n.parse().ok()),
        page: get("page").and_then(|n| n.parse().ok()),
    }
}

/// A received request.
struct Sent {
    method: Method,
    path: String,
    query: BTreeMap<String, String>,
    body: Value,
    authorization: String,
}

/// Serves the recorded response to every request. Returns the URL and the received requests.
async fn replay(response: &Value) -> (url::Url, Arc<Mutex<Vec<Sent>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (response, log) = (response.clone(), Arc::clone(&seen));
    let router = Router::new().fallback(move |request: Request| async move {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        let query = parts.uri.query().unwrap_or_default().as_bytes();
        log.lock().unwrap().push(Sent {
            path: parts.uri.path().to_owned(),
            query: url::form_urlencoded::parse(query).into_owned().collect(),
            body: serde_json::from_slice(&body).unwrap_or_default(),
            authorization: parts.headers["authorization"].to_str().unwrap().to_owned(),
            method: parts.method,
        });
        recorded_response(&response)
    });
    (serve(router).await, seen)
}

fn recorded_response(recorded: &Value) -> Response {
    let body = match (&recorded["body"], recorded["body_text"].as_str()) {
        (Value::Null, text) => text.unwrap_or_default().to_owned(),
        (json, _) => json.to_string(),
    };
    let mut response = Response::new(Body::from(body));
    let status = recorded["status"].as_u64().unwrap();
    *response.status_mut() = u16::try_from(status).unwrap().try_into().unwrap();
    for (name, value) in recorded["headers"].as_object().unwrap() {
        if name != "content-length" {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            let value = HeaderValue::from_str(value.as_str().unwrap()).unwrap();
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn nango(base_url: url::Url) -> Nango {
    let config = Config {
        public_url: base_url.clone(),
        base_url,
        secret_key: SECRET_KEY.into(),
        timeout: Duration::from_secs(10),
    };
    Nango::new(config).unwrap()
}

/// Returns all recordings by name.
pub(crate) fn recordings() -> BTreeMap<String, Value> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/nango");
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    files
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let text = std::fs::read(path).unwrap();
            (name, serde_json::from_slice(&text).unwrap())
        })
        .collect()
}

fn query_of(request: &Value) -> BTreeMap<String, String> {
    let raw = request["query_raw"].as_str().unwrap_or_default();
    url::form_urlencoded::parse(raw.as_bytes())
        .into_owned()
        .collect()
}

/// Returns the text fields of an object.
pub(crate) fn strings(object: &Value) -> BTreeMap<String, String> {
    let fields = object.as_object().into_iter().flatten();
    fields
        .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
        .collect()
}
