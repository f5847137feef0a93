//! Who is believed: users' tokens, and the keys of services.

use secrecy::ExposeSecret;

use super::service_keys::EnvironmentKey;
use crate::auth;
use crate::environment::Environment;
use crate::net::address_guard::Networks;

impl Environment<'_> {
    pub(crate) fn auth(&mut self) -> auth::Config {
        let problems = self.problems.len();
        let hmac_secrets = self.rotatable_secrets("AUTH_JWT_SECRET");
        if hmac_secrets
            .iter()
            .any(|secret| secret.expose_secret().len() < 32)
        {
            self.problems.push(
                "AUTH_JWT_SECRET must have at least 32 bytes; a comma stands between two secrets"
                    .to_owned(),
            );
        }
        let jwks_url = self.optional("AUTH_JWKS_URL");
        let jwks_url = jwks_url.and_then(|url| self.http_address("AUTH_JWKS_URL", url));
        if hmac_secrets.is_empty() && jwks_url.is_none() && self.problems.len() == problems {
            self.missing(
                "AUTH_JWT_SECRET or AUTH_JWKS_URL",
                "what users' tokens are verified with: a shared secret, or the identity provider's key set",
            );
        }
        let config = auth::Config {
            hmac_secrets,
            jwks_url,
            jwks_networks: self.with_default("AUTH_JWKS_ALLOWED_NETWORKS", Networks::default()),
            issuers: self.list("AUTH_ISSUER"),
            audiences: self.list("AUTH_AUDIENCE"),
            leeway: self.seconds("AUTH_LEEWAY_SECONDS", 30),
            user_claim: self.with_default("AUTH_USER_CLAIM", "sub".to_owned()),
        };
        if let Err(forbidden) = config.check_jwks_url() {
            self.problems.push(format!(
                "AUTH_JWKS_URL: {forbidden}; AUTH_JWKS_ALLOWED_NETWORKS allows private networks, and there http"
            ));
        }
        config
    }

    pub(crate) fn service_keys(&mut self) -> Vec<EnvironmentKey> {
        let entries: Option<String> = self.optional("SERVICE_API_KEYS");
        let entries = entries.unwrap_or_default();
        let mut keys: Vec<EnvironmentKey> = Vec::new();
        for entry in entries.split(',').filter(|entry| !entry.trim().is_empty()) {
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
