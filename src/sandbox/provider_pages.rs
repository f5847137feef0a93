//! The provider's endpoints: consent, tokens, and who a token belongs to.

use askama::Template;
use axum::body::Body;
use axum::extract::{Form, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::callback_page::{initial, show};
use super::faults::Consent;
use super::provider::{ACCOUNTS, Account, AuthorizeRequest, TokenRequest, account};
use super::state::App;

/// Everything under `/provider`.
pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/authorize", get(ask).post(decide))
        .route("/token", post(token))
        .route("/userinfo", get(userinfo))
        .route("/echo", any(echo))
}

#[derive(Template)]
#[template(path = "sandbox/consent.html")]
struct ConsentPage<'a> {
    integration: &'a str,
    initial: String,
    request: &'a AuthorizeRequest,
    accounts: &'a [Account],
    chosen: &'a str,
}

#[derive(Template)]
#[template(path = "sandbox/message.html")]
struct MessagePage<'a> {
    title: &'a str,
    message: &'a str,
}

/// What the consent page posts: the request again, and the decision.
#[derive(Deserialize)]
struct Decision {
    account: String,
    decision: String,
    #[serde(flatten)]
    request: AuthorizeRequest,
}

impl App {
    /// An address below `/provider`, as browsers reach it.
    pub(super) fn provider_url(&self, path: &str) -> String {
        format!("{}/provider/{path}", self.public_url)
    }

    /// The name of the integration that asks; why the request cannot be answered by a redirect.
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
    show(StatusCode::BAD_REQUEST, &MessagePage { title, message })
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
            show(StatusCode::OK, &page)
        }
    }
}

async fn decide(State(app): State<App>, Form(decision): Form<Decision>) -> Response {
    if let Err(message) = app.check(&decision.request) {
        return bad_request(message);
    }
    match (decision.decision.as_str(), account(&decision.account)) {
        ("allow", Some(account)) => allow(&app, decision.request, account),
        ("deny", _) => deny(&decision.request),
        _ => bad_request("Choose an account, and allow or deny."),
    }
}

fn allow(app: &App, request: AuthorizeRequest, account: Account) -> Response {
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

/// Answers with what it was sent: an API to see what arrives at a provider.
async fn echo(
    State(app): State<App>,
    method: Method,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Some(account) = bearer(&app, &headers) else {
        return refused();
    };
    let mut answer = Response::new(body);
    let text = |value: String| HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(""));
    let seen = [
        ("x-echo-account", account.id.to_owned()),
        ("x-echo-method", method.to_string()),
        ("x-echo-query", query.unwrap_or_default()),
    ];
    for (name, value) in seen {
        answer.headers_mut().insert(name, text(value));
    }
    if let Some(kind) = headers.get(header::CONTENT_TYPE) {
        answer
            .headers_mut()
            .insert(header::CONTENT_TYPE, kind.clone());
    }
    answer
}

fn bearer(app: &App, headers: &HeaderMap) -> Option<Account> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let token = value.strip_prefix("Bearer ")?;
    app.lock().provider.account_of(token, app.now())
}

fn refused() -> Response {
    let error = Json(json!({ "error": "invalid_token" }));
    (StatusCode::UNAUTHORIZED, error).into_response()
}
