//! The OpenAPI 3.1 document: the handlers' declarations, completed with the parts that all operations share.

pub(crate) mod errors;
mod examples;
mod schemas;
mod webhooks;

use serde_json::{Value, json};
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi as _};

use super::problem::{Code, ProblemBody};
use super::routes::events::StreamReady;

/// The server in the repository's copy of the document.
pub(crate) const PLACEHOLDER_SERVER: &str = "https://patchbay.example";

/// How a service identifies itself and its user.
const SERVICE: &str = "A service key, made by `patchbay keys` or set in `SERVICE_API_KEYS`. The `Patchbay-User` header names the \
    user that the service acts for.";

/// The format of the `Patchbay-User` header.
const USER_HEADER: &str = "The id of the user that the service acts for, in UTF-8 and percent-encoded as by `encodeURIComponent`, \
    such as `auth0%7Cad%C3%A8le`. Whitespace, commas, incomplete escapes and bytes beyond ASCII are rejected, and so are ids with \
    control characters or with whitespace at either end.";

/// The sets of values that may grow. Each one becomes any string, with the known values in a schema of their own.
const OPEN_ENUMS: [&str; 8] = [
    "AccountUnknownReason",
    "Actor",
    "AttemptKind",
    "EventKind",
    "Health",
    "Outcome",
    "ProblemCode",
    "Reason",
];

/// The parts of the document that belong to no handler.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Patchbay",
        description = "Through this API, the users of a product connect their own third-party accounts.\n\n\
            Errors are RFC 9457 problems with a stable `code`. `{connector}` is an id or a slug.\n\n\
            Fields are only ever added: ignore unknown ones. Accept unknown values of `status_reason`, `account_unknown_reason`, `reason`, \
            `error_code`, `code`, `change`, `outcome`, `actor`, `health`, and of the `kind` of an event or attempt. `status` is a closed set, \
            and so is the `type` of credentials: `other` stands for every new kind."
    ),
    components(schemas(ProblemBody, Code, StreamReady)),
    modifiers(&SecuritySchemes),
    tags(
        (name = "catalog", description = "The connectors that users can connect."),
        (name = "connections", description = "The connections of a user: their state, history and authorization."),
        (name = "tokens", description = "Credentials and provider calls for workflows. These operations require a service key."),
        (name = "webhooks", description = "The receiver of Nango's webhooks, and the webhooks that Patchbay sends."),
        (name = "operation", description = "Health checks for platforms and operators. No token is required."),
    )
)]
struct ApiDocument;

struct SecuritySchemes;

impl Modify for SecuritySchemes {
    fn modify(&self, document: &mut OpenApi) {
        let bearer = |format: &str, description: &str| {
            let scheme = HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .bearer_format(format)
                .description(Some(description));
            SecurityScheme::Http(scheme.build())
        };
        if let Some(components) = &mut document.components {
            let user = "A token of a user, issued by the product's identity provider.";
            components.add_security_scheme("user", bearer("JWT", user));
            components.add_security_scheme("service", bearer("pbk_…", SERVICE));
        }
    }
}

/// Returns the document before the handlers have added their paths.
pub(crate) fn base_document() -> OpenApi {
    ApiDocument::openapi()
}

/// The callers that an operation accepts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Callers {
    /// Everyone: platforms, and Nango with its signature.
    Anyone,
    /// A browser without a token, a user, or a service for a user.
    AnyoneOrUsers,
    /// A user, or any service.
    UsersAndServices,
    /// A user, or a service for a user.
    Users,
    /// A service for a user.
    ServicesForUser,
    /// A service.
    Services,
}

impl Callers {
    /// Returns the callers of a path.
    fn of(path: &str) -> Self {
        match path {
            "/api/v1/connectors" | "/api/v1/connectors/list" | "/api/v1/connectors/{connector}" => {
                Self::UsersAndServices
            }
            "/api/v1/connectors/callback" => Self::AnyoneOrUsers,
            // An `<img>` sends no token.
            "/api/v1/connectors/{connector}/logo" => Self::Anyone,
            _ if path.starts_with("/api/v1/users") => Self::Services,
            _ if path.contains("/token") || path.contains("/proxy") => Self::ServicesForUser,
            _ if path.starts_with("/api/v1/connectors") => Self::Users,
            _ => Self::Anyone,
        }
    }

    fn security(self) -> Value {
        match self {
            Self::Anyone => json!([]),
            Self::AnyoneOrUsers => json!([{}, { "user": [] }, { "service": [] }]),
            Self::UsersAndServices | Self::Users => json!([{ "user": [] }, { "service": [] }]),
            Self::ServicesForUser | Self::Services => json!([{ "service": [] }]),
        }
    }

    /// Returns the parameter that names a service's user, for operations that belong to a user.
    fn user_parameter(self) -> Option<Value> {
        let (required, condition) = match self {
            Self::ServicesForUser => (true, ""),
            Self::Users | Self::AnyoneOrUsers => (
                false,
                " Required with a service key, ignored with a user's token.",
            ),
            Self::Anyone | Self::UsersAndServices | Self::Services => return None,
        };
        Some(json!({
            "name": "Patchbay-User",
            "in": "header",
            "description": format!("{USER_HEADER}{condition}"),
            "required": required,
            "schema": { "type": "string", "minLength": 1 },
            "example": "ada",
        }))
    }
}

/// Completes the document for a service at this address.
pub(crate) fn complete(document: OpenApi, server: &str) -> Value {
    let mut document = serde_json::to_value(document).expect("the document is plain data");
    document["servers"] =
        json!([{ "url": server, "description": "The `PUBLIC_URL` of a deployment." }]);
    let paths = std::mem::take(&mut document["paths"]);
    document["paths"] = members(paths)
        // The router's `{*path}` is `{path}` in OpenAPI.
        .map(|(path, item)| (path.replace("{*", "{"), item))
        .map(|(path, mut item)| {
            for (method, operation) in item.as_object_mut().into_iter().flatten() {
                complete_operation(&path, method, operation);
            }
            (path, item)
        })
        .collect();
    let components = &mut document["components"]["schemas"];
    schemas::complete(components, &OPEN_ENUMS);
    document["webhooks"] = webhooks::complete(components);
    examples::add(&mut document);
    document
}

fn complete_operation(path: &str, method: &str, operation: &mut Value) {
    let callers = Callers::of(path);
    operation["security"] = callers.security();
    // One handler serves several methods.
    if operation["operationId"] == "proxy" {
        let (first, rest) = method.split_at(1);
        operation["operationId"] = format!("proxy{}{rest}", first.to_uppercase()).into();
        if matches!(method, "post" | "put" | "patch") {
            operation["requestBody"] = json!({
                "description": "The body for the provider, of any content type.",
                "content": { "application/json": { "schema": {} } },
            });
        }
    }
    if let Some(summary) = operation["summary"].as_str() {
        operation["summary"] = summary.trim_end_matches('.').into();
    }
    if let Some(body) = operation.get_mut("requestBody") {
        schemas::remove_null_option(&mut body["content"]["application/json"]["schema"]);
    }
    let mut parameters = std::mem::take(&mut operation["parameters"]);
    for parameter in parameters.as_array_mut().into_iter().flatten() {
        schemas::remove_null_type(&mut parameter["schema"]);
    }
    let own = parameters.as_array_mut().map(std::mem::take);
    let all: Vec<Value> = own
        .into_iter()
        .flatten()
        .chain(callers.user_parameter())
        .collect();
    if !all.is_empty() {
        operation["parameters"] = all.into();
    } else if let Some(fields) = operation.as_object_mut() {
        fields.remove("parameters");
    }
    errors::complete(callers, path, operation);
}

/// Returns the members of an object.
fn members(object: Value) -> impl Iterator<Item = (String, Value)> {
    let object = match object {
        Value::Object(members) => members,
        _ => serde_json::Map::new(),
    };
    object.into_iter()
}
