//! Authentication settings: users' tokens and service keys.

use secrecy::ExposeSecret;

use super::service_keys::EnvironmentKey;
use crate::auth;
use crate::environment::{Environment, parse_http_url};
use crate::net::address_guard::Networks;
use url::Url;

impl Environment<'_> {
    pub(crate) fn auth(&mut self) -> auth::Config {
        let problems = self.problems.len();
        let mut hmac_secrets = self.rotatable_secrets("AUTH_JWT_SECRET");
        if hmac_secrets
            .iter()
            .any(|secret| secret.expose_secret().len() < 32)
        {
            self.problems.push(
                "AUTH_JWT_SECRET must have at least 32 bytes; a comma stands between two secrets"
                    .to_owned(),
            );
        }
        if let [secret] = hmac_secrets.as_slice()
            && parse_http_url(secret.expose_secret()).is_ok()
        {
            self.problems.push(
                "AUTH_JWT_SECRET is an address: set AUTH_JWKS_URL to it, and remove AUTH_JWT_SECRET"
                    .to_owned(),
            );
        }
        let jwks_url = self.jwks_url();
        if hmac_secrets.is_empty() && jwks_url.is_none() && self.problems.len() == problems {
            self.missing(
                "AUTH_JWT_SECRET or AUTH_JWKS_URL",
                "the key that verifies users' tokens: a shared secret, or the identity provider's key set",
            );
        }
        if hmac_secrets.len() > 1 {
            // The text may also be a single secret that contains a comma.
            let all = hmac_secrets.iter().map(ExposeSecret::expose_secret);
            hmac_secrets.push(all.collect::<Vec<_>>().join(",").into());
        }
        let config = auth::Config {
            hmac_secrets,
            jwks_url,
            jwks_networks: self.with_default("AUTH_JWKS_ALLOWED_NETWORKS", Networks::default()),
            issuers: self.list("AUTH_ISSUER"),
            audiences: self.list("AUTH_AUDIENCE"),
            user_claim: self.with_default("AUTH_USER_CLAIM", "sub".to_owned()),
        };
        if let Err(forbidden) = config.check_jwks_url() {
            self.problems.push(format!(
                "AUTH_JWKS_URL: {forbidden}; AUTH_JWKS_ALLOWED_NETWORKS allows private networks, and there http"
            ));
        }
        config
    }

    fn jwks_url(&mut self) -> Option<Url> {
        let url = self.url("AUTH_JWKS_URL")?;
        if url.path().ends_with("/.well-known/openid-configuration") {
            self.problems.push(
                "AUTH_JWKS_URL is the address of the discovery document: write the jwks_uri that stands in it"
                    .to_owned(),
            );
        }
        Some(url)
    }

    pub(crate) fn service_keys(&mut self) -> Vec<EnvironmentKey> {
        let entries = self.secret_items("SERVICE_API_KEYS");
        let mut keys: Vec<EnvironmentKey> = Vec::new();
        for entry in entries.iter().filter(|entry| !entry.is_empty()) {
            let key: EnvironmentKey = match entry.parse() {
                Ok(key) => key,
                Err(error) => {
                    self.problems.push(format!("SERVICE_API_KEYS: {error}"));
                    continue;
                }
            };
            if let Some(same) = keys.iter().find(|other| other.is_same_key(&key)) {
                self.problems.push(format!(
                    "SERVICE_API_KEYS: {} and {} have the same key: give each service its own",
                    same.name(),
                    key.name()
                ));
            }
            keys.push(key);
        }
        keys
    }
}
