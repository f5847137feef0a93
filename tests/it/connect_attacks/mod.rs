//! Attacks on the connect flow: a forwarded link, another user's return URL, and attempts to
//! redirect a result or a secret elsewhere.

mod browser_binding;
mod pages;
mod redirects;
pub(crate) mod test_browser;

use crate::test_app::TestApp;

/// Starts a test app whose providers return to the service's own address, as `CONNECT_BINDING` requires.
async fn app(binding: &'static str) -> TestApp {
    TestApp::build(&[("CONNECT_BINDING", binding)], |nango| {
        let webhook_url = nango.webhook_url.as_ref().unwrap();
        let origin = webhook_url.strip_suffix("/api/v1/webhooks/nango").unwrap();
        nango.callback_url = Some(format!("{origin}/api/v1/connectors/callback"));
    })
    .await
}
