//! Logos of providers, which Nango serves beside its API.

use axum::body::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use url::Url;

use super::Nango;
use crate::net::http_client;

/// The largest logo, in bytes.
const MAX_LOGO_BYTES: usize = 128 * 1024;

/// Image types that a page may show. Browsers run no scripts in an image.
const TYPES: [&str; 5] = [
    "image/svg+xml",
    "image/png",
    "image/jpeg",
    "image/webp",
    "image/gif",
];

/// Hosts of the hosted Nango, beside the configured ones.
const HOSTED: [&str; 2] = ["app.nango.dev", "api.nango.dev"];

/// An image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its media type.
    pub content_type: &'static str,
    /// The image itself.
    pub bytes: Bytes,
}

impl Nango {
    /// Fetches the logo at an address that Nango returned; `None` if the address is not Nango's, or the response is not
    /// an image.
    pub async fn logo(&self, address: &str) -> Option<Image> {
        let url = Url::parse(address).ok().filter(|url| self.is_own(url))?;
        let request = self.0.client.get(url).header(ACCEPT, TYPES.join(", "));
        let answer = request
            .send()
            .await
            .ok()
            .filter(|it| it.status().is_success())?;
        let kind = answer.headers().get(CONTENT_TYPE)?.to_str().ok()?;
        let kind = kind.split(';').next().unwrap_or_default().trim();
        let content_type = TYPES.into_iter().find(|it| it.eq_ignore_ascii_case(kind))?;
        let body = http_client::read_body(answer, MAX_LOGO_BYTES).await.ok()?;
        Some(Image {
            content_type,
            bytes: body.into(),
        })
    }

    /// Returns whether an address is Nango's. Otherwise an integration could make this service call another host.
    fn is_own(&self, url: &Url) -> bool {
        let configured = [&self.0.base_url, &self.0.public_url];
        let hosted =
            url.scheme() == "https" && url.host_str().is_some_and(|it| HOSTED.contains(&it));
        hosted || configured.iter().any(|own| own.origin() == url.origin())
    }
}
