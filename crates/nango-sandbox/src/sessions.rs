//! Connect sessions: a token with which a browser may authorize for half an hour.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::TimeDelta;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::auth::{Caller, SESSION_PREFIX, session_token};
use crate::error::Failure;
use crate::front::JsonBody;
use crate::query::Query;
use crate::schema::{Object, Reader, Tags, is_integration_key};
use crate::state::{App, EndUser, IntegrationDefaults, Organization, Session, State as Stored};
use crate::{times, view};

const LIFETIME: TimeDelta = TimeDelta::minutes(30);

/// The fields that new sessions and reconnect sessions share.
struct Common {
    end_user: Option<EndUser>,
    tags: Option<Tags>,
    defaults: BTreeMap<String, IntegrationDefaults>,
    /// The integrations whose `docs_connect` is overridden.
    overrides: Vec<String>,
    webhook_url_override: Option<String>,
}

const COMMON: [&str; 6] = [
    "end_user",
    "organization",
    "integrations_config_defaults",
    "overrides",
    "webhook_url_override",
    "tags",
];

/// `POST /connect/sessions`
pub(super) async fn create(
    State(app): State<App>,
    query: Query,
    JsonBody(body): JsonBody,
) -> Result<Response, Failure> {
    query.none()?;
    let (mut reader, object) = Reader::open(body.as_ref())?;
    let common = read_common(&app, &mut reader, &object);
    if common.end_user.is_none() && object.get("end_user").is_none() && common.tags.is_none() {
        reader.object(&object, "end_user");
    }
    let allowed = reader.integration_keys(&object, "allowed_integrations");
    reader.only(&object, &known(&app, &["allowed_integrations"]));
    reader.finish("invalid_body")?;

    let mut reader = Reader::default();
    let state = app.lock();
    for (index, key) in allowed.iter().enumerate() {
        if state.integration(key).is_none() {
            let path = ["allowed_integrations", &index.to_string()];
            reader.issue("custom", "Integration does not exist", &path);
        }
    }
    drop(state);
    check_integrations(&app, reader, &common)?;
    Ok(open(&app, common, allowed, None))
}

/// `POST /connect/sessions/reconnect`
pub(super) async fn reconnect(
    State(app): State<App>,
    query: Query,
    JsonBody(body): JsonBody,
) -> Result<Response, Failure> {
    query.none()?;
    let (mut reader, object) = Reader::open(body.as_ref())?;
    let connection_id = reader.string(&object, "connection_id").unwrap_or_default();
    let integration = reader.string(&object, "integration_id").unwrap_or_default();
    let common = read_common(&app, &mut reader, &object);
    reader.only(&object, &known(&app, &["connection_id", "integration_id"]));
    reader.finish("invalid_body")?;
    if app
        .lock()
        .connection(&connection_id, &integration)
        .is_none()
    {
        return Err(Failure::invalid_body(
            "ConnectionID or IntegrationId does not exists",
        ));
    }
    check_integrations(&app, Reader::default(), &common)?;
    Ok(open(&app, common, vec![integration], Some(connection_id)))
}

/// Returns the allowed field names.
fn known<'a>(app: &App, own: &[&'a str]) -> Vec<&'a str> {
    let refused = app.lock().faults.refuse_webhook_url_override;
    let common = COMMON
        .into_iter()
        .filter(|&name| !(refused && name == "webhook_url_override"));
    own.iter().copied().chain(common).collect()
}

fn read_common(app: &App, reader: &mut Reader, object: &Object<'_>) -> Common {
    let mut end_user = read_end_user(reader, object);
    if let Some(found) = reader.optional_object(object, "organization") {
        let id = reader.string(&found, "id").unwrap_or_default();
        let display_name = reader.optional_string(&found, "display_name");
        reader.only(&found, &["id", "display_name"]);
        if let Some(end_user) = &mut end_user {
            end_user.organization = Some(Organization { id, display_name });
        }
    }
    let defaults = read_defaults(reader, object);
    let mut overrides = Vec::new();
    if let Some(found) = reader.optional_record(object, "overrides") {
        let with_docs = found
            .into_iter()
            .filter(|(_, it)| it.get("docs_connect").is_some());
        overrides.extend(with_docs.map(|(key, _)| key));
    }
    let faults = app.lock().faults.clone();
    let webhook_url_override = if faults.refuse_webhook_url_override {
        None
    } else {
        let refuse_private = faults.refuse_private_webhook_urls;
        reader.webhook_url(object, "webhook_url_override", refuse_private)
    };
    Common {
        end_user,
        tags: reader.tags(object, "tags"),
        defaults,
        overrides,
        webhook_url_override,
    }
}

/// Reads the `end_user` of a body, if it has one.
pub(super) fn read_end_user(reader: &mut Reader, object: &Object<'_>) -> Option<EndUser> {
    let found = reader.optional_object(object, "end_user")?;
    let end_user = EndUser {
        id: reader.string(&found, "id").unwrap_or_default(),
        email: reader.optional_email(&found, "email"),
        display_name: reader.optional_string(&found, "display_name"),
        tags: reader.tags(&found, "tags"),
        organization: None,
    };
    reader.only(&found, &["id", "email", "display_name", "tags"]);
    Some(end_user)
}

fn read_defaults(
    reader: &mut Reader,
    object: &Object<'_>,
) -> BTreeMap<String, IntegrationDefaults> {
    let mut defaults = BTreeMap::new();
    let Some(found) = reader.optional_object(object, "integrations_config_defaults") else {
        return defaults;
    };
    for key in found.keys() {
        let Some(preset) = reader.object(&found, key) else {
            continue;
        };
        let fields = ["user_scopes", "authorization_params", "connection_config"];
        reader.only(&preset, &fields);
        let [user_scopes, params, config] = fields;
        defaults.insert(
            key.to_owned(),
            IntegrationDefaults {
                user_scopes: reader.optional_string(&preset, user_scopes),
                authorization_params: reader.optional_record(&preset, params).unwrap_or_default(),
                connection_config: reader.optional_record(&preset, config).unwrap_or_default(),
            },
        );
    }
    defaults
}

/// Rejects presets for nonexistent integrations, and features that self-hosted plans do not have.
fn check_integrations(app: &App, mut reader: Reader, common: &Common) -> Result<(), Failure> {
    let named = [
        (
            "integrations_config_defaults",
            common.defaults.keys().collect::<Vec<_>>(),
        ),
        ("overrides", common.overrides.iter().collect()),
    ];
    for (field, keys) in named {
        for key in keys {
            if !is_integration_key(key) || app.lock().integration(key).is_none() {
                reader.issue("custom", "Integration does not exist", &[field, key]);
            }
        }
    }
    reader.finish("invalid_body")?;
    if !common.overrides.is_empty() {
        return Err(Failure::new(StatusCode::FORBIDDEN, "forbidden")
            .message("You are not allowed to override the docs connect url"));
    }
    Ok(())
}

/// Returns the tags that Nango derives from an end user.
pub(super) fn derived_tags(end_user: &EndUser) -> Tags {
    let mut tags = end_user.tags.clone().unwrap_or_default();
    let mut put = |name: &str, value: Option<&String>| {
        if let Some(value) = value {
            tags.insert(name.to_owned(), value.clone());
        }
    };
    put("end_user_id", Some(&end_user.id));
    put("end_user_email", end_user.email.as_ref());
    put("end_user_display_name", end_user.display_name.as_ref());
    if let Some(organization) = &end_user.organization {
        put("organization_id", Some(&organization.id));
        put(
            "organization_display_name",
            organization.display_name.as_ref(),
        );
    }
    tags
}

fn open(app: &App, common: Common, allowed: Vec<String>, reconnect: Option<String>) -> Response {
    let mut tags = common
        .end_user
        .as_ref()
        .map(derived_tags)
        .unwrap_or_default();
    tags.extend(common.tags.unwrap_or_default());
    let expired = app.lock().faults.expired_sessions;
    let lifetime = if expired { TimeDelta::zero() } else { LIFETIME };
    let expires_at = app.now() + lifetime;
    let digits = [Uuid::new_v4(), Uuid::new_v4()].map(|uuid| uuid.simple().to_string());
    let token = format!("{SESSION_PREFIX}{}", digits.concat());
    let connect_link = format!("{}/connect-ui/?session_token={token}", app.public_url);
    let session = Session {
        end_user: common.end_user,
        tags,
        allowed,
        defaults: common.defaults,
        webhook_url_override: common.webhook_url_override,
        reconnect,
        expires_at,
    };
    app.lock().sessions.insert(token.clone(), session);
    let data = json!({
        "token": token,
        "connect_link": connect_link,
        "expires_at": times::javascript(expires_at),
    });
    (StatusCode::CREATED, Json(json!({ "data": data }))).into_response()
}

/// `GET /connect/session`, with the session token.
pub(super) async fn get(State(app): State<App>, headers: HeaderMap) -> Result<Response, Failure> {
    let token = session_token(&app, &headers)?;
    let answer = async { Json(json!({ "data": to_json(&app, &token) })) };
    Ok(app
        .with_rate_limit(Caller::Session, "GET", "/connect/session", answer)
        .await)
}

fn to_json(app: &App, token: &str) -> Value {
    let state = app.lock();
    let session = state.session(token, app.now());
    let mut data = json!({
        "endUser": session.and_then(|it| end_user_of(&state, it)).map(view::end_user),
        "connectUISettings": {
            "showWatermark": true,
            "defaultTheme": "system",
            "theme": { "light": { "primary": "#00B2E3" }, "dark": { "primary": "#00B2E3" } },
        },
        "websocketsPath": "/",
    });
    if let Some(session) = session {
        if !session.allowed.is_empty() {
            data["allowed_integrations"] = json!(session.allowed);
        }
        if session.reconnect.is_some() {
            data["isReconnecting"] = Value::Bool(true);
        }
    }
    data
}

/// Returns the end user of a session, or of its connection.
fn end_user_of<'a>(state: &'a Stored, session: &'a Session) -> Option<&'a EndUser> {
    let reconnected = session.reconnect.as_ref().zip(session.allowed.first());
    let connection = reconnected.and_then(|(id, key)| state.connection(id, key));
    session
        .end_user
        .as_ref()
        .or_else(|| connection?.end_user.as_ref())
}

/// `DELETE /connect/session`, with the session token. Authorizations in progress can still complete.
pub(super) async fn delete(
    State(app): State<App>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let token = session_token(&app, &headers)?;
    let answer = async {
        app.lock().sessions.remove(&token);
        StatusCode::NO_CONTENT
    };
    Ok(app
        .with_rate_limit(Caller::Session, "DELETE", "/connect/session", answer)
        .await)
}
