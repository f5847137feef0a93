//! Settings of Nango: its API, and the keys that sign its webhooks.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::webhook::SigningKeys;
use crate::environment::{Environment, is_example};
use crate::nango;
use crate::net::address_guard::is_internal;

/// The maximum of `NANGO_TIMEOUT_SECONDS`. A connect or a check may need four calls in sequence, within the timeout of
/// a request and before another request may use its Idempotency-Key; a deletion may need three before its lease
/// expires; and a graceful shutdown waits for one.
pub(crate) const MAX_NANGO_TIMEOUT: Duration = Duration::from_secs(14);

/// The minimum length of a key that signs webhooks, in bytes. Nango's own have 36.
const MIN_SIGNING_KEY: usize = 16;

/// Settings of Nango: its API, and the keys that sign its webhooks.
#[derive(Clone, Debug)]
pub struct NangoConfig {
    /// `NANGO_BASE_URL`, `NANGO_PUBLIC_URL`, `NANGO_SECRET_KEY` and `NANGO_TIMEOUT_SECONDS`.
    pub client: nango::Config,
    /// `NANGO_WEBHOOK_BASE_URL`: the address of this service to which Nango sends an attempt's webhooks.
    pub webhook_base_url: Url,
    /// `SWEEP_INTERVAL_SECONDS`: how often the sweep compares all connections at Nango with the table.
    pub sweep_interval: Duration,
    /// `NANGO_WEBHOOK_SIGNING_KEY`: one key, or two separated by a comma while it is rotated.
    pub signing_keys: SigningKeys,
}

impl Environment<'_> {
    /// Reads the settings of Nango. The outer option is `None` if a problem was recorded, the inner one if Nango is
    /// disabled. `own` is the public address of this service.
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
            if !nango::is_secret_key(secret_key) {
                self.problems.push(
                    "NANGO_SECRET_KEY has white space or another character that no key has: copy it again"
                        .to_owned(),
                );
            }
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

    /// Returns Nango's address for browsers if none is configured: the API's, unless only this service can reach it.
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
