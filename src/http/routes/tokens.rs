//! Tokens for workflows: for services only.

use crate::http::problem::Code;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;
use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::http::AppState;
use crate::http::extract::{Json as Body, Path, Query, TokenService};
use crate::nango::Credentials;
use crate::service::Token;

/// A live token, and whose it is.
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenBody {
    connection_id: Uuid,
    connector_slug: String,
    /// Names the token without telling it: send it to `/token/invalid` should the provider refuse the token.
    token_id: String,
    #[serde(flatten)]
    credentials: CredentialsBody,
}

/// Credentials, by their type.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum CredentialsBody {
    /// An OAuth 2 access token.
    Oauth2 {
        access_token: String,
        /// As the provider says; `Bearer` if it does not.
        token_type: String,
        /// When it ends; null where the provider does not say.
        expires_at: Option<DateTime<Utc>>,
        /// What it allows; null where the provider does not say.
        scopes: Option<Vec<String>>,
    },
    /// An OAuth 1 token with its secret.
    Oauth1 { token: String, token_secret: String },
    /// An API key.
    ApiKey { api_key: String },
    /// A user name and password.
    Basic { username: String, password: String },
    /// Credentials of another kind, as Nango has them.
    Other {
        kind: String,
        #[schema(value_type = Object)]
        credentials: Value,
    },
}

impl CredentialsBody {
    fn of(credentials: &Credentials) -> Result<Self, Problem> {
        let text = |secret: &secrecy::SecretString| secret.expose_secret().to_owned();
        Ok(match credentials {
            Credentials::OAuth2 {
                access_token,
                expires_at,
                token_type,
                scope,
                ..
            } => Self::Oauth2 {
                access_token: text(access_token),
                token_type: token_type.as_deref().unwrap_or("Bearer").to_owned(),
                expires_at: *expires_at,
                scopes: scope.as_deref().map(scopes),
            },
            Credentials::OAuth1 {
                token,
                token_secret,
            } => Self::Oauth1 {
                token: text(token),
                token_secret: text(token_secret),
            },
            Credentials::ApiKey { api_key } => Self::ApiKey {
                api_key: text(api_key),
            },
            Credentials::Basic { username, password } => Self::Basic {
                username: text(username),
                password: text(password),
            },
            Credentials::Other { kind, raw } => Self::Other {
                kind: kind.clone(),
                credentials: serde_json::from_str(raw.expose_secret()).unwrap_or_default(),
            },
            Credentials::Withheld => {
                tracing::error!(
                    "Nango withholds credentials: NANGO_SECRET_KEY lacks the scope to read them"
                );
                return Err(Problem::new(
                    Code::NangoMisconfigured,
                    "Nango's key may not read credentials",
                ));
            }
        })
    }
}

/// Providers part scopes by spaces (RFC 6749, 3.3) or, some of them, by commas.
fn scopes(text: &str) -> Vec<String> {
    text.split([' ', ','])
        .filter(|scope| !scope.is_empty())
        .map(str::to_owned)
        .collect()
}

fn body(token: &Token) -> Result<Json<TokenBody>, Problem> {
    Ok(Json(TokenBody {
        connection_id: token.connection.id,
        connector_slug: token.connection.connector.slug.clone(),
        token_id: token.id.clone(),
        credentials: CredentialsBody::of(&token.credentials)?,
    }))
}

/// A live access token of a connection.
///
/// | code | what to do |
/// |---|---|
/// | `not_connected` | have the user connect: `connect` says where |
/// | `needs_reauthorization` | have the user reconnect: `connect` says where |
/// | `account_mismatch` | have the user decide which account it is |
/// | `provider_unavailable`, `nango_unavailable`, `nango_timeout`, `nango_rate_limited` | try again after `Retry-After` |
#[utoipa::path(post, path = "/api/v1/connectors/connections/{id}/token", operation_id = "get_token", tag = "tokens",
    params(("id" = Uuid, Path, description = "A connection's id"),
        ("Patchbay-User" = String, Header, description = "The user that the service acts for", min_length = 1, max_length = 255)),
    responses(
        (status = 200, body = TokenBody), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody),
        (status = 502, body = ProblemBody), (status = 503, body = ProblemBody), (status = 504, body = ProblemBody)
    )
)]
pub(crate) async fn of_connection(
    State(state): State<AppState>,
    workflow: TokenService,
    Path(id): Path<Uuid>,
) -> Result<Json<TokenBody>, Problem> {
    let token = state
        .connections
        .token(&workflow.user, id, &workflow.service.name)
        .await;
    body(&*token?)
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct TokenQuery {
    /// Which of the user's accounts of the connector; may be left out when there is one.
    instance_id: Option<String>,
}

/// A live access token of a user's connection of a connector.
///
/// As that of a connection; of several, none is guessed: `ambiguous_connection`
/// has the `candidates`.
#[utoipa::path(post, path = "/api/v1/connectors/{connector}/token", operation_id = "get_token_of_connector", tag = "tokens",
    params(("connector" = String, Path, description = "A connector's id or slug"), TokenQuery,
        ("Patchbay-User" = String, Header, description = "The user that the service acts for", min_length = 1, max_length = 255)),
    responses(
        (status = 200, body = TokenBody), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody),
        (status = 502, body = ProblemBody), (status = 503, body = ProblemBody), (status = 504, body = ProblemBody)
    )
)]
pub(crate) async fn of_connector(
    State(state): State<AppState>,
    workflow: TokenService,
    Path(connector): Path<String>,
    Query(query): Query<TokenQuery>,
) -> Result<Json<TokenBody>, Problem> {
    let instance = query.instance_id.as_deref();
    let token = state
        .connections
        .token_of_connector(&workflow.user, &connector, instance, &workflow.service.name)
        .await;
    body(&*token?)
}

/// What a workflow says of a token that the provider refused.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct RefusedToken {
    /// The refused token's `token_id`.
    token_id: String,
}

/// What came of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RefusedAnswer {
    /// Whether it was refreshed by this call; if not, it had been since: ask for the token again.
    refreshed: bool,
}

/// The provider refused a token: it is refreshed, once however many say so.
#[utoipa::path(post, path = "/api/v1/connectors/connections/{id}/token/invalid", operation_id = "refuse_token", tag = "tokens",
    params(("id" = Uuid, Path, description = "A connection's id"),
        ("Patchbay-User" = String, Header, description = "The user that the service acts for", min_length = 1, max_length = 255)),
    request_body = RefusedToken,
    responses(
        (status = 200, body = RefusedAnswer), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody),
        (status = 413, body = ProblemBody), (status = 415, body = ProblemBody),
        (status = 502, body = ProblemBody), (status = 503, body = ProblemBody), (status = 504, body = ProblemBody)
    )
)]
pub(crate) async fn refused(
    State(state): State<AppState>,
    workflow: TokenService,
    Path(id): Path<Uuid>,
    Body(refused): Body<RefusedToken>,
) -> Result<Json<RefusedAnswer>, Problem> {
    let done = state
        .connections
        .token_refused(&workflow.user, id, &refused.token_id)
        .await;
    Ok(Json(RefusedAnswer { refreshed: done? }))
}
