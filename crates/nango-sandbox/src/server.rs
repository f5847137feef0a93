//! The routes, and the loop that serves them.

use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, patch, post};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::util::AndThen;

use crate::state::App;
use crate::{
    auth, connect_ui, connections, control, front, import, integrations, metadata, oauth,
    provider_pages, proxy, sessions, webhooks,
};

/// Marks a response that is not sent: the connection is closed instead. In the response's extensions.
#[derive(Clone)]
pub(super) struct DropConnection;

/// An injected fault closed the connection without a response.
#[derive(Debug, thiserror::Error)]
#[error("an injected fault closed the connection")]
struct ConnectionDropped;

impl From<Infallible> for ConnectionDropped {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// Returns all routes of the port.
pub(super) fn router(app: App) -> Router {
    Router::new()
        .merge(with_key(&app))
        .route(
            "/connect/session",
            get(sessions::get).delete(sessions::delete),
        )
        .route("/oauth/connect/{integration}", get(oauth::connect))
        .route("/oauth/callback", get(oauth::callback))
        .route(
            "/connect-ui/",
            get(connect_ui::page).post(connect_ui::submit),
        )
        .nest("/provider", provider_pages::routes())
        .merge(control::routes())
        .route("/health", get(front::health))
        .route("/ready", get(front::health))
        .fallback(not_found)
        .method_not_allowed_fallback(not_found)
        .layer(from_fn_with_state(app.clone(), front::receive))
        .with_state(app)
}

/// Returns the routes of the API that require the secret key.
fn with_key(app: &App) -> Router<App> {
    let mut router = Router::new()
        .route("/connect/sessions", post(sessions::create))
        .route("/connect/sessions/reconnect", post(sessions::reconnect))
        .route("/connections", post(import::import))
        .route("/config/{key}", get(integrations::legacy_get))
        .route("/integrations", post(integrations::create))
        .route("/proxy", any(proxy::handle))
        .route("/proxy/", any(proxy::handle))
        .route("/proxy/{*path}", any(proxy::handle))
        .route(
            "/integrations/{key}",
            get(integrations::get)
                .patch(integrations::update)
                .delete(integrations::delete),
        )
        .route(
            "/connection/{id}/metadata",
            post(metadata::legacy_set).patch(metadata::legacy_merge),
        )
        .route(
            "/environment/webhook-signing-key/rotate",
            post(webhooks::rotate_signing_key),
        );
    for prefix in ["/connections", "/connection"] {
        router = router
            .route(prefix, get(connections::list))
            .route(&format!("{prefix}/{{id}}"), get(connections::get))
            .route(&format!("{prefix}/{{id}}"), patch(connections::update))
            .route(&format!("{prefix}/{{id}}"), delete(connections::delete))
            .route(
                &format!("{prefix}/metadata"),
                post(metadata::set).patch(metadata::merge),
            );
    }
    let both = Router::new()
        .route("/integrations", get(integrations::list))
        .route_layer(from_fn_with_state(
            app.clone(),
            auth::require_key_or_session,
        ));
    router
        .route_layer(from_fn_with_state(app.clone(), auth::require_secret_key))
        .merge(both)
}

async fn not_found(method: Method, uri: Uri) -> Response {
    let path = uri.path().replace('&', "&amp;").replace('<', "&lt;");
    let page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <title>Error</title>\n</head>\n<body>\n<pre>Cannot {method} {path}</pre>\n</body>\n</html>\n"
    );
    let headers = [
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'"),
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
    ];
    (StatusCode::NOT_FOUND, headers, page).into_response()
}

/// Accepts connections until `stop` is cancelled, which also closes the open connections.
///
/// axum's own server cannot close a connection without a response, which faults require.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let service = AndThen::new(router, |response: Response| {
        ready(match response.extensions().get::<DropConnection>() {
            None => Ok(response),
            Some(DropConnection) => Err(ConnectionDropped),
        })
    });
    let http = http1::Builder::new();
    let accept = async {
        loop {
            let stream = match accepted(&listener).await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the sandbox could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (http, stop) = (http.clone(), stop.clone());
            let service = TowerToHyperService::new(service.clone());
            tasks.spawn(async move {
                let serving = http.serve_connection(TokioIo::new(stream), service);
                // The error of a connection concerns only its client.
                stop.run_until_cancelled(serving).await.map(Result::ok);
            });
        }
    };
    stop.run_until_cancelled(accept).await;
}

async fn accepted(listener: &TcpListener) -> io::Result<tokio::net::TcpStream> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
