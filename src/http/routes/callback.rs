//! The return from the popup, of the provider or of Nango.

use std::sync::LazyLock;

use askama::Template;
use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, RawQuery, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::validation::validate_name;
use crate::domain::{ConnectionId, ConnectorId, Reason, State as ConnectionState, Status};
use crate::http::AppState;
use crate::http::browser_binding::ReturnDecision;
use crate::http::extract::{AcceptsHtml, ConnectionsReader, check_encoding};
use crate::http::openapi::errors;
use crate::http::problem::{Code, Problem};
use crate::service::Error;
use crate::views::ConnectionView;

/// The page's script and style. The content security policy allows only their hashes.
const SCRIPT: &str = include_str!("../../../templates/returned.js");
const STYLE: &str = include_str!("../../../templates/returned.css");

static CSP: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = |text: &str| STANDARD.encode(digest(&SHA256, text.as_bytes()));
    let (script, style) = (hash(SCRIPT), hash(STYLE));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; \
         frame-ancestors 'none'; base-uri 'none'"
    );
    HeaderValue::from_str(&policy).expect("base64 has only characters that a header may hold")
});

#[derive(Template)]
#[template(path = "returned.html")]
struct CallbackPage<'a> {
    title: &'a str,
    text: &'a str,
    success: bool,
    message: String,
    script: &'a str,
    style: &'a str,
}

#[derive(Template)]
#[template(path = "elsewhere.html")]
struct BrowserMismatchPage<'a> {
    location: Option<&'a str>,
    attacked: bool,
    style: &'a str,
}

/// The query of a return from the popup.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CallbackQuery {
    /// The OAuth state. If it is set, the whole query is forwarded to Nango.
    state: Option<String>,
    /// The id of the connection. A request with a token may send Nango's id instead.
    connection_id: Option<String>,
}

/// The state of a connection after the popup.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CallbackResponse)]
pub(crate) struct CallbackAnswer {
    /// `true` if the connection is connected.
    success: bool,
    #[schema(value_type = Uuid)]
    connection_id: ConnectionId,
    /// Nango's id of the connection; null if Nango stores none.
    nango_connection_id: Option<String>,
    #[schema(value_type = Uuid)]
    connector_id: ConnectorId,
    connector_slug: String,
    status: Status,
    /// Why the connection is not connected; null if it is.
    status_reason: Option<Reason>,
    /// A human-readable summary.
    message: String,
}

/// Complete an authorization in the popup.
///
/// With `state`, a provider has returned to the product's own domain. The browser is redirected to Nango with the same
/// query and its cookie. If `CONNECT_BINDING` is set and the browser did not start an attempt, it gets a page instead.
///
/// With `connection_id`, Nango has returned to the product. Nango is queried for the state of the connection. A browser
/// gets a page that notifies its opener, at the allowed origins only, and closes. Other clients get JSON and need a token.
#[utoipa::path(get, path = "/api/v1/connectors/callback", operation_id = "handleCallback", tag = "connections", params(CallbackQuery),
    responses(
        (status = 200, description = "The state of the connection, or a page for a browser.",
            content((CallbackAnswer = "application/json"), (String = "text/html"))),
        (status = 308, description = "A redirect to Nango's `/oauth/callback`."),
    ),
    extensions(("x-error-codes" = json!([Code::ConnectionNotFound, errors::NANGO])))
)]
pub(crate) async fn callback(
    State(app): State<AppState>,
    page: AcceptsHtml,
    reader: Result<ConnectionsReader, Problem>,
    parts: Parts,
    RawQuery(raw): RawQuery,
    query: Result<Query<CallbackQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query?;
    if query.state.is_some() {
        let nango = app.nango.as_ref().ok_or(Error::NangoDisabled)?;
        let location = nango.oauth_callback_url(&raw.unwrap_or_default());
        return match app
            .browser_binding
            .on_provider_return(&app.services.connect, &parts.headers)
            .await?
        {
            ReturnDecision::Forward => {
                Ok((StatusCode::PERMANENT_REDIRECT, [(LOCATION, location)]).into_response())
            }
            ReturnDecision::Confirm => Ok(browser_mismatch_page(
                StatusCode::OK,
                Some(&location),
                false,
            )),
            ReturnDecision::Reject => Ok(browser_mismatch_page(StatusCode::FORBIDDEN, None, false)),
            ReturnDecision::Attacked => {
                Ok(browser_mismatch_page(StatusCode::FORBIDDEN, None, true))
            }
        };
    }
    let id = query
        .connection_id
        .ok_or_else(|| Problem::invalid("state or connection_id is required"))?;
    if page.0 {
        // A browser's navigation carries no token. The page contains only whether the connection succeeded, and sends
        // it only to the product's own origins.
        return Ok(
            match app.services.connections.find_returned(None, &id).await {
                Ok(details) => connection_page(&app, &details),
                Err(Error::ConnectionNotFound) => not_found_page(&app),
                Err(error) => return Err(error.into()),
            },
        );
    }
    let ConnectionsReader(user) = reader?;
    // A provider's query is forwarded as it is, so only this service's own parameters are checked.
    check_encoding(raw.as_deref().unwrap_or_default())?;
    validate_name("connection_id", &id)?;
    let details = match app
        .services
        .connections
        .find_returned(Some(&user), &id)
        .await
    {
        Err(Error::ConnectionNotFound) => {
            // Clients can make up ids, and each causes a query to Nango.
            app.limits.check_connect(&user, &parts)?;
            app.services
                .connections
                .find_returned_at_nango(&user, &id)
                .await?
        }
        known => known?,
    };
    Ok(axum::Json(CallbackAnswer::from(&details)).into_response())
}

impl From<&ConnectionView> for CallbackAnswer {
    fn from(details: &ConnectionView) -> Self {
        let connection = &details.connection;
        let name = &connection.connector.name;
        let message = match connection.state.status() {
            Status::Connected => format!("{name} is connected"),
            Status::Pending => format!("{name} still waits for the authorization"),
            Status::Disconnected => format!("{name} is disconnected"),
            Status::Error => connection
                .last_error
                .clone()
                .unwrap_or_else(|| format!("{name} could not be connected")),
        };
        Self {
            success: matches!(connection.state, ConnectionState::Connected { .. }),
            connection_id: connection.id,
            nango_connection_id: connection
                .state
                .upstream()
                .map(|upstream| upstream.id.clone()),
            connector_id: connection.connector.id,
            connector_slug: connection.connector.slug.clone(),
            status: connection.state.status(),
            status_reason: connection.state.reason(),
            message,
        }
    }
}

fn connection_page(app: &AppState, details: &ConnectionView) -> Response {
    let answer = CallbackAnswer::from(details);
    let (kind, title) = match answer.status {
        Status::Connected => ("OAUTH_SUCCESS", "Connected"),
        _ => ("OAUTH_ERROR", "Not connected"),
    };
    let text = if answer.success {
        "The account is connected."
    } else {
        "The account is not connected."
    };
    let message = json!({
        "type": kind, "connection_id": answer.connection_id, "status": answer.status, "error": answer.status_reason,
    });
    page_response(app, StatusCode::OK, title, text, &message)
}

fn not_found_page(app: &AppState) -> Response {
    let message = json!({ "type": "OAUTH_ERROR", "error": "connection_not_found" });
    let (title, text) = ("Connection not found", "There is no such connection.");
    page_response(app, StatusCode::NOT_FOUND, title, text, &message)
}

fn page_response(
    app: &AppState,
    status: StatusCode,
    title: &str,
    text: &str,
    message: &serde_json::Value,
) -> Response {
    let data = json!({ "message": message, "origins": *app.allowed_origins }).to_string();
    // Inside a script element only `<` could end the data.
    let page = CallbackPage {
        title,
        text,
        message: data.replace('<', "\\u003c"),
        success: message["type"] == "OAUTH_SUCCESS",
        script: SCRIPT,
        style: STYLE,
    };
    render(status, &page)
}

/// Returns the page for a browser that has started no attempt, or that sent our cookie more than once. With a
/// `location` the user can continue.
fn browser_mismatch_page(status: StatusCode, location: Option<&str>, attacked: bool) -> Response {
    let page = BrowserMismatchPage {
        location,
        attacked,
        style: STYLE,
    };
    render(status, &page)
}

fn render(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(html) => (status, [(CONTENT_SECURITY_POLICY, CSP.clone())], Html(html)).into_response(),
        Err(error) => {
            Problem::internal(format_args!("a page cannot be rendered: {error}")).into_response()
        }
    }
}
