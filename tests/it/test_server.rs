//! A real HTTP server on a free port, with the responses of a test.

use axum::Router;
use url::Url;

/// Serves `router` until the test's runtime ends. Returns its URL, without a path.
pub(crate) async fn serve(router: Router) -> Url {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url.parse().unwrap()
}
