//! Logos of connectors: the brand's icon, otherwise Nango's logo, otherwise the connector's initials.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use url::Url;

use super::core::Core;
use super::current_catalog::CurrentCatalog;
use crate::catalog::Connector;
use crate::nango::Image;

/// The TTL of a cached logo of Nango.
const LOGO_TTL: Duration = Duration::from_secs(24 * 3600);

/// How long a logo that could not be fetched is not requested again.
const MISSING_TTL: Duration = Duration::from_secs(600);

/// The maximum number of cached logos. Each has at most 128 KiB.
const CAPACITY: u64 = 200;

/// The logos of connectors.
#[derive(Debug)]
pub struct Logos {
    core: Arc<Core>,
    catalog: Arc<CurrentCatalog>,
    public_url: Url,
    /// Nango's logos by integration key.
    found: Cache<String, Image>,
    /// The keys of integrations whose logo could not be fetched.
    missing: Cache<String, ()>,
}

impl Logos {
    pub(crate) fn new(core: Arc<Core>, catalog: Arc<CurrentCatalog>, public_url: Url) -> Self {
        let cache = Cache::builder().max_capacity(CAPACITY);
        Self {
            core,
            catalog,
            public_url,
            found: cache.time_to_live(LOGO_TTL).build(),
            missing: Cache::builder()
                .max_capacity(CAPACITY)
                .time_to_live(MISSING_TTL)
                .build(),
        }
    }

    /// Returns the URL of a connector's logo at this service.
    pub fn url(&self, connector: &Connector) -> Url {
        let mut url = self.public_url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty()
                .extend(["api", "v1", "connectors", &connector.slug, "logo"]);
        }
        url
    }

    /// Returns the logo of a connector by id or slug, and `false` for initials that Nango's logo may replace later.
    /// `None` if there is no such connector. Requests are not authenticated, so an unknown connector causes no call to
    /// Nango.
    pub async fn get(&self, reference: &str) -> Option<(Image, bool)> {
        let catalog = self.catalog.current();
        let connector = catalog.get(reference)?;
        let svg = |text: String| Image {
            content_type: "image/svg+xml",
            bytes: text.into(),
        };
        if let Some(logo) = connector.brand_logo() {
            return Some((svg(logo), true));
        }
        match self.nango_logo(&connector.integration_key).await {
            Some(logo) => Some((logo, true)),
            None => Some((svg(connector.initials_logo()), false)),
        }
    }

    async fn nango_logo(&self, key: &str) -> Option<Image> {
        let upstream = self.core.upstream.as_ref()?;
        let integrations = self.catalog.integrations()?;
        let logo = &integrations.get(key)?.logo;
        if logo.is_empty() || self.missing.contains_key(key) {
            return None;
        }
        let fetched = self
            .found
            .optionally_get_with_by_ref(key, upstream.nango.logo(logo));
        let fetched = fetched.await;
        if fetched.is_none() {
            self.missing.insert(key.to_owned(), ()).await;
        }
        fetched
    }
}
