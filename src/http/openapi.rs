//! The OpenAPI 3.1 document, generated from the handlers.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OpenApi, RefOr, SecurityRequirement};
use utoipa::{Modify, OpenApi as _};

use super::error::{Code, ProblemBody};

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
        (name = "webhooks", description = "What Nango tells"),
        (name = "operation", description = "For platforms and operators; no token is needed"),
    )
)]
struct Frame;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .build();
        if let Some(components) = &mut document.components {
            components.add_security_scheme("user", SecurityScheme::Http(scheme));
        }
    }
}

/// The document before the handlers have added their paths.
pub(super) fn frame() -> OpenApi {
    Frame::openapi()
}

/// Says of all operations what no handler says of its own.
pub(super) fn complete(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        for operation in [
            &mut item.get,
            &mut item.post,
            &mut item.patch,
            &mut item.delete,
        ]
        .into_iter()
        .flatten()
        {
            // All others are called by platforms and by Nango.
            if path.starts_with("/api/v1/connectors") {
                operation.security =
                    Some(vec![SecurityRequirement::new("user", Vec::<String>::new())]);
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
