//! Nango: its API, and what its webhooks are signed with.

use std::time::Duration;

use secrecy::SecretString;

use super::environment::Environment;
use crate::nango;
use crate::nango::webhook::SigningKeys;

/// The longest that `NANGO_TIMEOUT_SECONDS` may be. A connect or a check may need four calls one after the other, within a
/// request's time and before its Idempotency-Key is another's; a deletion three, before it is; and a service that stops
/// lets one come to its end.
pub(crate) const LONGEST_CALL: Duration = Duration::from_secs(14);

/// Nango: its API, and what its webhooks are signed with.
#[derive(Clone, Debug)]
pub struct NangoConfig {
    /// `NANGO_BASE_URL`, `NANGO_SECRET_KEY` and `NANGO_TIMEOUT_SECONDS`.
    pub client: nango::Config,
    /// `SWEEP_INTERVAL_SECONDS`: how often all that Nango holds is compared with the table.
    pub sweep_every: Duration,
    /// `NANGO_WEBHOOK_SIGNING_KEY`: one key, or two separated by a comma while it is rotated.
    pub signing_keys: SigningKeys,
}

impl Environment<'_> {
    /// The outer option is `None` where something is wrong, the inner one where Nango is switched off.
    pub(super) fn nango(&mut self) -> Option<Option<NangoConfig>> {
        let enabled = self.or("NANGO_ENABLED", true);
        let base_url = self.optional("NANGO_BASE_URL");
        let base_url = match base_url {
            Some(url) => self.web_address("NANGO_BASE_URL", url),
            None => "https://api.nango.dev".parse().ok(),
        };
        let timeout = self.positive_seconds("NANGO_TIMEOUT_SECONDS", 10);
        if timeout > LONGEST_CALL {
            self.problems.push(format!(
                "NANGO_TIMEOUT_SECONDS must be at most {}: a request may need four calls, and is given 60 seconds",
                LONGEST_CALL.as_secs()
            ));
        }
        let sweep_every = self.positive_seconds("SWEEP_INTERVAL_SECONDS", 300);
        // Connect sessions have replaced Nango's public key. It is still read so that an
        // environment made for the predecessor starts unchanged.
        let _: Option<String> = self.optional("NANGO_PUBLIC_KEY");
        if !enabled {
            self.names
                .extend(["NANGO_SECRET_KEY", "NANGO_WEBHOOK_SIGNING_KEY"]);
            return Some(None);
        }
        let secret_key = self.required(
            "NANGO_SECRET_KEY",
            "the secret key of your Nango environment",
        );
        let signing_keys = self.alternatives("NANGO_WEBHOOK_SIGNING_KEY");
        if signing_keys.is_empty() {
            self.missing(
                "NANGO_WEBHOOK_SIGNING_KEY",
                "the key with which Nango signs webhooks (Environment settings, Webhooks), not the secret key",
            );
        }
        let signing_keys = SigningKeys::new(&signing_keys)
            .map_err(|error| {
                self.problems
                    .push(format!("NANGO_WEBHOOK_SIGNING_KEY: {error}"));
            })
            .ok()?;
        Some(Some(NangoConfig {
            client: nango::Config {
                base_url: base_url?,
                secret_key: SecretString::from(secret_key?),
                timeout,
            },
            sweep_every,
            signing_keys,
        }))
    }
}
