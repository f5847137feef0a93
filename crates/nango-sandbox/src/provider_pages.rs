//! The provider's endpoints: consent, tokens, accounts, and test APIs.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use askama::Template;
use axum::body::{Body, to_bytes};
use axum::extract::{Form, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::stream;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use url::Url;

use crate::accounts;
use crate::callback_page::{initial, render_page};
use crate::credentials::Credentials;
use crate::faults::Consent;
use crate::provider::{ACCOUNTS, Account, AuthorizeRequest, TokenRequest, account};
use crate::query::Query;
use crate::server::DropConnection;
use crate::state::App;

/// Returns the routes under `/provider`.
pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/authorize", get(ask).post(decide))
        .route("/token", post(token))
        .route("/userinfo", get(userinfo))
        .route("/echo", any(echo))
        .route("/inspect", any(inspect))
        .route("/inspect/{*path}", any(inspect))
        .route("/answer", any(answer))
        .route("/account/{provider}", any(accounts::who))
}

#[derive(Template)]
#[template(path = "consent.html")]
struct ConsentPage<'a> {
    integration: &'a str,
    initial: String,
    request: &'a AuthorizeRequest,
    accounts: &'a [Account],
    chosen: &'a str,
}

#[derive(Template)]
#[template(path = "message.html")]
struct MessagePage<'a> {
    title: &'a str,
    message: &'a str,
}

/// The submitted form of the consent page: the request and the decision.
#[derive(Deserialize)]
struct Decision {
    account: String,
    decision: String,
    #[serde(flatten)]
    request: AuthorizeRequest,
    /// A checkbox for each scope, present if checked.
    #[serde(flatten)]
    others: BTreeMap<String, String>,
}

impl App {
    /// Returns the URL of a path below `/provider`, as browsers reach it.
    pub(super) fn provider_url(&self, path: &str) -> String {
        format!("{}/provider/{path}", self.public_url)
    }

    /// Returns the name of the requesting integration, or why the request cannot be answered by a redirect.
    fn check(&self, request: &AuthorizeRequest) -> Result<String, &'static str> {
        if request.redirect_uri != self.redirect_uri() {
            return Err("This redirect_uri is not registered for the application.");
        }
        if request.response_type != "code" {
            return Err("Only response_type=code is supported.");
        }
        if request.code_challenge_method != "S256" {
            return Err("Only code_challenge_method=S256 is supported.");
        }
        let state = self.lock();
        let mut integrations = state.integrations.iter();
        integrations
            .find(|it| it.credentials.client_id == request.client_id)
            .map(|it| it.display_name.clone())
            .ok_or("No application has this client_id.")
    }
}

fn bad_request(message: &str) -> Response {
    let title = "This sign-in cannot go on";
    render_page(StatusCode::BAD_REQUEST, &MessagePage { title, message })
}

async fn ask(
    State(app): State<App>,
    request: Result<
        axum::extract::Query<AuthorizeRequest>,
        axum::extract::rejection::QueryRejection,
    >,
) -> Response {
    let request = match request {
        Ok(axum::extract::Query(request)) => request,
        Err(rejection) => return bad_request(&rejection.body_text()),
    };
    let integration = match app.check(&request) {
        Ok(integration) => integration,
        Err(message) => return bad_request(message),
    };
    let consent = app.lock().faults.consent;
    let chosen = request.hinted_account();
    match consent {
        Consent::Allow => allow(&app, request, chosen),
        Consent::Deny => deny(&request),
        Consent::Ask => {
            let page = ConsentPage {
                initial: initial(&integration),
                integration: &integration,
                request: &request,
                accounts: &ACCOUNTS,
                chosen: chosen.id,
            };
            render_page(StatusCode::OK, &page)
        }
    }
}

async fn decide(State(app): State<App>, Form(decision): Form<Decision>) -> Response {
    if let Err(message) = app.check(&decision.request) {
        return bad_request(message);
    }
    match (decision.decision.as_str(), account(&decision.account)) {
        ("allow", Some(account)) => {
            let mut request = decision.request;
            if decision.others.contains_key("scopes_shown") {
                request
                    .keep_scopes(|scope| decision.others.contains_key(&format!("scope:{scope}")));
            }
            allow(&app, request, account)
        }
        ("deny", _) => deny(&decision.request),
        _ => bad_request("Choose an account, and allow or deny."),
    }
}

fn allow(app: &App, mut request: AuthorizeRequest, account: Account) -> Response {
    let withheld = app.lock().faults.withheld_scopes.clone();
    request.keep_scopes(|scope| !withheld.iter().any(|it| it == scope));
    let (state, to) = (request.state.clone(), request.redirect_uri.clone());
    let code = app.lock().provider.allow(request, account, app.now());
    send_back(&to, &[("state", &state), ("code", &code)])
}

fn deny(request: &AuthorizeRequest) -> Response {
    let answer = [
        ("state", request.state.as_str()),
        ("error", "access_denied"),
        ("error_description", "The user denied the request"),
    ];
    send_back(&request.redirect_uri, &answer)
}

fn send_back(to: &str, answer: &[(&str, &str)]) -> Response {
    match Url::parse_with_params(to, answer) {
        Ok(to) => (StatusCode::FOUND, [(header::LOCATION, to.to_string())]).into_response(),
        Err(error) => bad_request(&format!("The redirect_uri is no URL: {error}")),
    }
}

async fn token(State(app): State<App>, Form(request): Form<TokenRequest>) -> Response {
    let answer = app.lock().provider_token(&request, app.now());
    match answer {
        Ok(answer) => Json(answer.raw).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, Json(error)).into_response(),
    }
}

async fn userinfo(State(app): State<App>, headers: HeaderMap) -> Response {
    match bearer(&app, &headers) {
        Some(account) => Json(account).into_response(),
        None => refused(),
    }
}

/// Returns the request's body with its type.
async fn echo(State(app): State<App>, headers: HeaderMap, body: Body) -> Response {
    if caller(&app, &headers).is_none() {
        return refused();
    }
    let mut answer = Response::new(body);
    if let Some(kind) = headers.get(header::CONTENT_TYPE) {
        answer
            .headers_mut()
            .insert(header::CONTENT_TYPE, kind.clone());
    }
    answer
}

/// Returns a description of the request: an API that shows how the proxy changes a call.
async fn inspect(State(app): State<App>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Some(caller) = caller(&app, &parts.headers) else {
        return refused();
    };
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = parts.headers.iter();
    let headers: Map<String, Value> = headers
        .map(|(name, value)| (name.to_string(), text(value).into()))
        .collect();
    let description = json!({
        "caller": caller,
        "method": parts.method.as_str(),
        "path": parts.uri.path().strip_prefix("/inspect"),
        "query": parts.uri.query(),
        "headers": headers,
        "body_base64": STANDARD.encode(body),
    });
    Json(description).into_response()
}

/// Responds as the query requires: `status`, `header=name: value` repeatedly, `body`, `chunked`, `delay_ms`, and
/// `hang_up`.
async fn answer(State(app): State<App>, query: Query, headers: HeaderMap) -> Response {
    if caller(&app, &headers).is_none() {
        return refused();
    }
    let number = |name: &str| query.get(name).and_then(|value| value.parse::<u64>().ok());
    if let Some(delay) = number("delay_ms") {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let text = query.get("body").unwrap_or_default().to_owned();
    let body = if query.get("chunked").is_some() {
        Body::from_stream(stream::iter([io::Result::Ok(text)]))
    } else {
        Body::from(text)
    };
    let mut answer = Response::new(body);
    let status = number("status").and_then(|status| u16::try_from(status).ok());
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    *answer.status_mut() = status.unwrap_or(StatusCode::OK);
    for line in query.all("header") {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            answer.headers_mut().append(name, value);
        }
    }
    if query.get("hang_up").is_some() {
        answer.extensions_mut().insert(DropConnection);
    }
    answer
}

fn bearer(app: &App, headers: &HeaderMap) -> Option<Account> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let token = value.strip_prefix("Bearer ")?;
    app.lock().provider.account_of(token, app.now())
}

/// Returns the caller of the API: the account of an access token, or `key` for a stored API key.
fn caller(app: &App, headers: &HeaderMap) -> Option<&'static str> {
    if let Some(account) = bearer(app, headers) {
        return Some(account.id);
    }
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let is_key = |credentials: &Credentials| {
        matches!(credentials, Credentials::Other(_)) && credentials.authorization() == value
    };
    let state = app.lock();
    let mut connections = state.connections.iter();
    connections
        .any(|connection| is_key(&connection.credentials))
        .then_some("key")
}

fn refused() -> Response {
    let error = Json(json!({ "error": "invalid_token" }));
    (StatusCode::UNAUTHORIZED, error).into_response()
}
