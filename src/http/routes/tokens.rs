//! Tokens for workflows. Only services can request them.

use crate::domain::ConnectionId;
use crate::http::openapi::errors;
use crate::http::problem::{Code, Problem};
use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::openapi::schema::{Array, ArrayBuilder};
use utoipa::{IntoParams, ToSchema};

use super::validation::{scope_schema, validate_instance_id, validate_scope};
use crate::catalog::scopes;
use crate::http::AppState;
use crate::http::extract::{Json as Body, OptionalJson, Path, Query, TokenService};
use crate::nango::Credentials;
use crate::service::Token;

/// Live credentials of a connection, by their type.
#[derive(Serialize, ToSchema)]
#[schema(as = Token)]
pub(crate) struct TokenBody {
    #[schema(value_type = Uuid)]
    connection_id: ConnectionId,
    connector_slug: String,
    /// Identifies the token without revealing it. Send it to `reportInvalidToken` if the provider rejects the token.
    token_id: String,
    #[serde(flatten)]
    credentials: CredentialsBody,
}

/// Credentials by their type. In the document, each variant becomes a schema that has its title.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum CredentialsBody {
    /// An OAuth 2 access token.
    #[schema(title = "OAuth2Credentials")]
    Oauth2 {
        access_token: String,
        /// The type of the token according to the provider. The default is `Bearer`.
        token_type: String,
        /// When the token expires; null if the provider does not report it.
        expires_at: Option<DateTime<Utc>>,
        /// The granted scopes; null if the provider does not report them.
        scopes: Option<Vec<String>>,
    },
    /// An OAuth 1 token with its secret.
    #[schema(title = "OAuth1Credentials")]
    Oauth1 { token: String, token_secret: String },
    /// An API key.
    #[schema(title = "ApiKeyCredentials")]
    ApiKey { api_key: String },
    /// A username and password.
    #[schema(title = "BasicCredentials")]
    Basic { username: String, password: String },
    /// Credentials of any other kind, as Nango stores them.
    #[schema(title = "OtherCredentials")]
    Other {
        /// Nango's name of the kind.
        kind: String,
        #[schema(value_type = RawCredentials)]
        credentials: Value,
    },
}

/// Credentials as Nango stores them.
#[derive(ToSchema)]
#[schema(value_type = Object)]
#[expect(dead_code, reason = "names the schema in the OpenAPI document")]
struct RawCredentials(Value);

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
                scopes: scope.as_deref().map(scopes::split),
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
            Credentials::Other { kind, raw, .. } => Self::Other {
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

fn body(token: &Token) -> Result<Json<TokenBody>, Problem> {
    Ok(Json(TokenBody {
        connection_id: token.connection.id,
        connector_slug: token.connection.connector.slug.clone(),
        token_id: token.id.clone(),
        credentials: CredentialsBody::of(&token.credentials)?,
    }))
}

/// The requirements of a workflow for a token.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = GetTokenRequest)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenRequest {
    /// Scopes of the provider that the user must have granted. Ignored if the provider does not report the granted scopes.
    #[serde(default)]
    #[schema(schema_with = required_scopes)]
    required_scopes: Vec<String>,
}

/// Returns the schema of the required scopes. No attribute can express the bounds of each item.
fn required_scopes() -> Array {
    ArrayBuilder::new()
        .items(scope_schema())
        .description(Some(
            "Scopes of the provider that the user must have granted. Ignored if the provider does not report the granted \
             scopes.",
        ))
        .build()
}

impl TokenRequest {
    /// Returns the required scopes.
    fn validated(&self) -> Result<&[String], Problem> {
        for scope in &self.required_scopes {
            validate_scope("required_scopes", scope)?;
        }
        Ok(&self.required_scopes)
    }
}

/// Get a live token of a connection.
///
/// Returns credentials that are valid now, refreshed if necessary. Request them right before each use, and do not store them.
#[utoipa::path(post, path = "/api/v1/connectors/connections/{id}/token", operation_id = "getToken", tag = "tokens",
    params(("id" = Uuid, Path, description = "The id of a connection.")),
    request_body(content = Option<TokenRequest>),
    responses((status = 200, body = TokenBody, description = "The credentials.")),
    extensions(("x-error-codes" = json!([Code::ConnectionNotFound, Code::AccountMismatch, Code::ConnectorNotConfigured, Code::InsufficientProviderScope, Code::NeedsReauthorization, Code::NotConnected, Code::ProviderUnavailable, errors::NANGO, Code::UnsupportedMediaType])))
)]
pub(crate) async fn of_connection(
    State(state): State<AppState>,
    workflow: TokenService,
    Path(id): Path<ConnectionId>,
    OptionalJson(request): OptionalJson<TokenRequest>,
) -> Result<Json<TokenBody>, Problem> {
    let scopes = request.validated()?;
    let tokens = &state.services.tokens;
    let token = tokens
        .token(&workflow.user, id, scopes, &workflow.service.name)
        .await;
    body(&*token?)
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct TokenQuery {
    /// The `instance_id` of the connection. Omit it if the user has one connection of the connector.
    #[param(max_length = 255, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    instance_id: Option<String>,
}

/// Get a live token by connector.
///
/// Returns the credentials of the user's only connection of the connector, or of the given instance. If several
/// connections match, the error `ambiguous_connection` lists them in `candidates`.
#[utoipa::path(post, path = "/api/v1/connectors/{connector}/token", operation_id = "getConnectorToken", tag = "tokens",
    params(("connector" = String, Path, description = "The id or slug of a connector.", example = "gmail"), TokenQuery),
    request_body(content = Option<TokenRequest>),
    responses((status = 200, body = TokenBody, description = "The credentials.")),
    extensions(("x-error-codes" = json!([Code::AmbiguousConnection, Code::ConnectionNotFound, Code::ConnectorNotFound, Code::AccountMismatch, Code::ConnectorNotConfigured, Code::InsufficientProviderScope, Code::NeedsReauthorization, Code::NotConnected, Code::ProviderUnavailable, errors::NANGO, Code::UnsupportedMediaType])))
)]
pub(crate) async fn of_connector(
    State(state): State<AppState>,
    workflow: TokenService,
    Path(connector): Path<String>,
    Query(query): Query<TokenQuery>,
    OptionalJson(request): OptionalJson<TokenRequest>,
) -> Result<Json<TokenBody>, Problem> {
    let (instance, scopes) = (query.instance_id.as_deref(), request.validated()?);
    instance.map(validate_instance_id).transpose()?;
    let service = &workflow.service.name;
    let tokens = &state.services.tokens;
    let token = tokens
        .token_of_connector(&workflow.user, &connector, instance, scopes, service)
        .await;
    body(&*token?)
}

/// A token that the provider rejected.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ReportInvalidTokenRequest)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefusedToken {
    /// The `token_id` of the rejected token.
    token_id: String,
}

/// The outcome of a report.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ReportInvalidTokenResponse)]
pub(crate) struct RefusedAnswer {
    /// `true` if this call refreshed the credentials; `false` if an earlier call did.
    refreshed: bool,
}

/// Report a token that the provider rejected.
///
/// Makes Nango refresh the credentials. Concurrent and repeated reports of one token cause one refresh.
#[utoipa::path(post, path = "/api/v1/connectors/connections/{id}/token/invalid", operation_id = "reportInvalidToken", tag = "tokens",
    params(("id" = Uuid, Path, description = "The id of a connection.")),
    request_body = RefusedToken,
    responses((status = 200, body = RefusedAnswer, description = "The credentials are refreshed. Request the token again.")),
    extensions(("x-error-codes" = json!([Code::ConnectionNotFound, Code::UnsupportedMediaType, Code::AccountMismatch, Code::ConnectorNotConfigured, Code::NeedsReauthorization, Code::NotConnected, Code::ProviderUnavailable, errors::NANGO])))
)]
pub(crate) async fn refused(
    State(state): State<AppState>,
    workflow: TokenService,
    Path(id): Path<ConnectionId>,
    Body(refused): Body<RefusedToken>,
) -> Result<Json<RefusedAnswer>, Problem> {
    let tokens = &state.services.tokens;
    let done = tokens
        .token_refused(&workflow.user, id, &refused.token_id)
        .await;
    Ok(Json(RefusedAnswer { refreshed: done? }))
}
