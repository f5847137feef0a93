//! Nango: its API, and what its webhooks are signed with.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::webhook::SigningKeys;
use crate::environment::{Environment, is_example};
use crate::nango;
use crate::net::address_guard::is_internal;

/// The longest that `NANGO_TIMEOUT_SECONDS` may be. A connect or a check may need four calls one after the other, within a
/// request's time and before its Idempotency-Key is another's; a deletion three, before it is; and a service that stops
/// lets one come to its end.
pub(crate) const MAX_NANGO_TIMEOUT: Duration = Duration::from_secs(14);

/// The shortest key that webhooks may be signed with, in bytes. Nango's own have 36.
const MIN_SIGNING_KEY: usize = 16;

/// Nango: its API, and what its webhooks are signed with.
#[derive(Clone, Debug)]
pub struct NangoConfig {
    /// `NANGO_BASE_URL`, `NANGO_PUBLIC_URL`, `NANGO_SECRET_KEY` and `NANGO_TIMEOUT_SECONDS`.
    pub client: nango::Config,
    /// `NANGO_WEBHOOK_BASE_URL`: the address of this service to which Nango sends an attempt's webhooks.
    pub webhook_base_url: Url,
    /// `SWEEP_INTERVAL_SECONDS`: how often all that Nango holds is compared with the table.
    pub sweep_interval: Duration,
    /// `NANGO_WEBHOOK_SIGNING_KEY`: one key, or two separated by a comma while it is rotated.
    pub signing_keys: SigningKeys,
}

impl Environment<'_> {
    /// The outer option is `None` where something is wrong, the inner one where Nango is switched off. `own` is this
    /// service's own public address.
    pub(crate) fn nango(&mut self, own: Option<&Url>) -> Option<Option<NangoConfig>> {
        let enabled = self.flag("NANGO_ENABLED", true);
        let problems = self.problems.len();
        let base_url = match self.base_url("NANGO_BASE_URL") {
            None if self.problems.len() == problems => "https://api.nango.dev".parse().ok(),
            given => given,
        };
        let public_url = self.base_url("NANGO_PUBLIC_URL");
        let webhook_base_url = self.base_url("NANGO_WEBHOOK_BASE_URL");
        let timeout = self.positive_seconds("NANGO_TIMEOUT_SECONDS", 10);
        if timeout > MAX_NANGO_TIMEOUT {
            self.problems.push(format!(
                "NANGO_TIMEOUT_SECONDS must be at most {}: a request may need four calls, and is given 60 seconds",
                MAX_NANGO_TIMEOUT.as_secs()
            ));
        }
        let sweep_every = self.positive_seconds("SWEEP_INTERVAL_SECONDS", 300);
        // Connect sessions have replaced Nango's public key. It is still read so that an environment of the original
        // service works unchanged.
        let _ = self.secret("NANGO_PUBLIC_KEY");
        if !enabled {
            self.names
                .extend(["NANGO_SECRET_KEY", "NANGO_WEBHOOK_SIGNING_KEY"]);
            return Some(None);
        }
        let secret_key = self.required(
            "NANGO_SECRET_KEY",
            "the secret key of your Nango environment",
        );
        if let Some(secret_key) = &secret_key {
            self.refuse_example("NANGO_SECRET_KEY", secret_key);
        }
        let signing_keys = self.signing_keys();
        let base_url = base_url?;
        let public_url = match public_url {
            Some(public_url) => public_url,
            None => self.public_nango(&base_url, own),
        };
        Some(Some(NangoConfig {
            client: nango::Config {
                base_url,
                public_url,
                secret_key: SecretString::from(secret_key?),
                timeout,
            },
            webhook_base_url: webhook_base_url.or_else(|| own.cloned())?,
            sweep_interval: sweep_every,
            signing_keys: signing_keys?,
        }))
    }

    fn signing_keys(&mut self) -> Option<SigningKeys> {
        const NAME: &str = "NANGO_WEBHOOK_SIGNING_KEY";
        let problems = self.problems.len();
        let keys = self.rotatable_secrets(NAME);
        if keys.is_empty() && self.problems.len() == problems {
            self.missing(
                NAME,
                "the key with which Nango signs webhooks (Environment settings, Webhooks), not the secret key",
            );
        }
        let is_short = |key: &SecretString| {
            let key = key.expose_secret();
            key.len() < MIN_SIGNING_KEY && !is_example(key)
        };
        if keys.iter().any(is_short) {
            self.problems.push(format!(
                "{NAME} must have at least {MIN_SIGNING_KEY} characters, because a shorter key can be guessed: copy it from Nango's environment settings; a comma stands between two keys"
            ));
        }
        SigningKeys::new(&keys).ok()
    }

    /// Nango's address for browsers where none is given: the API's, unless only this service can reach that one.
    fn public_nango(&mut self, base_url: &Url, own: Option<&Url>) -> Url {
        let is_public = |url: &Url| !is_internal(url);
        if is_internal(base_url) && own.is_some_and(is_public) {
            self.missing(
                "NANGO_PUBLIC_URL",
                "the address at which browsers reach Nango; NANGO_BASE_URL is in a private network, and is not shown to browsers",
            );
        }
        base_url.clone()
    }
}
