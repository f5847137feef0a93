//! The OpenAPI 3.1 document, generated from the handlers.

use utoipa::openapi::path::Parameter;
use utoipa::openapi::schema::{Schema, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OpenApi, RefOr, SecurityRequirement};
use utoipa::{Modify, OpenApi as _};

use super::problem::{Code, ProblemBody};

/// How a service calls.
const SERVICE: &str = "A key of `patchbay keys` or `SERVICE_API_KEYS`. The header `Patchbay-User` names the user that the service acts \
    for: the user's id in UTF-8, percent-encoded as by `encodeURIComponent`, such as `auth0%7Cad%C3%A8le`. A value with white \
    space, a comma, an incomplete escape or a byte beyond ASCII is refused (400, `user_required`), and so is an id with control characters, \
    or with white space at its beginning or end. Without the header, only the catalog and `erase_user` can be called.";

/// The document's frame: what no handler says.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Patchbay",
        description = "Through this API a product's users connect their own third-party accounts.\n\n\
                       Errors are RFC 9457 problems with a stable `code`. `{connector}` is an id or a slug."
    ),
    components(schemas(ProblemBody, Code)),
    modifiers(&Bearer),
    tags(
        (name = "catalog", description = "What can be connected"),
        (name = "connections", description = "Who is connected to what, and why not if not"),
        (name = "tokens", description = "Credentials for workflows; a service key is needed"),
        (name = "webhooks", description = "What Nango tells"),
        (name = "operation", description = "For platforms and operators; no token is needed"),
    )
)]
struct ApiDocument;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .build();
        if let Some(components) = &mut document.components {
            components.add_security_scheme("user", SecurityScheme::Http(scheme));
            let key = HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .bearer_format("pbk_…")
                .description(Some(SERVICE))
                .build();
            components.add_security_scheme("service", SecurityScheme::Http(key));
        }
    }
}

/// The document before the handlers have added their paths.
pub(crate) fn base_document() -> OpenApi {
    ApiDocument::openapi()
}

/// Says of all operations what no handler says of its own.
pub(crate) fn finalize(document: &mut OpenApi) {
    let paths = std::mem::take(&mut document.paths.paths);
    // What the router calls `{*path}` is `{path}` to OpenAPI.
    let plain = |(path, item): (String, _)| (path.replace("{*", "{"), item);
    document.paths.paths = paths.into_iter().map(plain).collect();
    for (path, item) in &mut document.paths.paths {
        let security = security(path);
        let operations = [
            ("get", &mut item.get),
            ("post", &mut item.post),
            ("put", &mut item.put),
            ("patch", &mut item.patch),
            ("delete", &mut item.delete),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation else {
                continue;
            };
            // One handler for several methods: their ids have to differ.
            if operation.operation_id.as_deref() == Some("proxy") {
                operation.operation_id = Some(format!("proxy_{method}"));
            }
            operation.security.clone_from(&security);
            operation
                .parameters
                .iter_mut()
                .flatten()
                .for_each(make_non_nullable);
            let responses = &mut operation.responses.responses;
            if security.is_some()
                && requires_scope(path)
                && let Some(refused) = responses.get("401").cloned()
            {
                // A key without the scope is refused in the form of no key at all.
                responses.entry("403".to_owned()).or_insert(refused);
            }
            let limited = !matches!(path.as_str(), "/healthz" | "/readyz");
            let problem = responses.iter().find(|(status, _)| status.starts_with('4'));
            if limited && let Some(problem) = problem.map(|(_, problem)| problem.clone()) {
                for status in ["429", "503"] {
                    // Whoever asks too often, and whoever asks a replica that has too much to do.
                    let responses = &mut operation.responses.responses;
                    responses
                        .entry(status.to_owned())
                        .or_insert(problem.clone());
                }
            }
            for (status, response) in &mut operation.responses.responses {
                if let RefOr::T(response) = response
                    && status.starts_with(['4', '5'])
                    && let Some(content) = response.content.shift_remove("application/json")
                {
                    response
                        .content
                        .insert("application/problem+json".to_owned(), content);
                }
            }
        }
    }
}

/// A header that may be left out cannot be null, which is what an `Option` is said to be.
fn make_non_nullable(parameter: &mut RefOr<Parameter>) {
    if let RefOr::T(parameter) = parameter
        && let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema
        && let SchemaType::Array(types) = &mut schema.schema_type
    {
        types.retain(|one| *one != Type::Null);
        if let [only] = types.as_slice() {
            schema.schema_type = SchemaType::Type(only.clone());
        }
    }
}

/// Whether a service's key needs a scope for a path: all but the catalog, which any caller may read.
fn requires_scope(path: &str) -> bool {
    !matches!(
        path,
        "/api/v1/connectors" | "/api/v1/connectors/{connector}"
    )
}

/// Whose token opens a path: a service's key, or a user's token besides. Others are called by platforms and by Nango.
fn security(path: &str) -> Option<Vec<SecurityRequirement>> {
    let services_only =
        path.starts_with("/api/v1/users") || path.contains("/token") || path.contains("/proxy");
    if !services_only && !path.starts_with("/api/v1/connectors") {
        return None;
    }
    let mut schemes = vec![SecurityRequirement::new("service", Vec::<String>::new())];
    if !services_only {
        schemes.push(SecurityRequirement::new("user", Vec::<String>::new()));
    }
    Some(schemes)
}
