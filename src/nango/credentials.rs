//! The credentials that Nango returns of a connection.

use aws_lc_rs::digest::{Context, SHA256};
use chrono::{DateTime, TimeDelta, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::lenient;

/// How long credentials must have been expired before a difference between clocks cannot explain it.
const EXPIRY_TOLERANCE: TimeDelta = TimeDelta::minutes(5);

/// The credentials of an account, by Nango's `type`.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// `OAUTH2`.
    OAuth2 {
        /// The provider's access token.
        access_token: SecretString,
        /// When it expires; `None` if the provider set no expiry.
        expires_at: Option<DateTime<Utc>>,
        /// The token's type, as reported by the provider.
        token_type: Option<String>,
        /// The granted scopes, as reported by the provider.
        scope: Option<String>,
        /// The provider's token response, as JSON text.
        raw: SecretString,
    },
    /// `OAUTH1`.
    OAuth1 {
        /// The provider's token.
        token: SecretString,
        /// The secret that signs requests.
        token_secret: SecretString,
    },
    /// `API_KEY`.
    ApiKey {
        /// The key.
        api_key: SecretString,
    },
    /// `BASIC`.
    Basic {
        /// The user's name at the provider.
        username: SecretString,
        /// The password; some providers have none.
        password: SecretString,
    },
    /// None, because our key lacks the scope to read credentials.
    Withheld,
    /// Any other type, forwarded unchanged.
    Other {
        /// Nango's `type`.
        kind: String,
        /// When they expire; `None` if Nango does not say.
        expires_at: Option<DateTime<Utc>>,
        /// The whole of `credentials`, as JSON text.
        raw: SecretString,
    },
}

/// The types of credentials that are parsed.
#[derive(Deserialize)]
#[serde(tag = "type")]
enum KnownCredentials {
    #[serde(rename = "OAUTH2")]
    OAuth2 {
        #[serde(deserialize_with = "lenient::secret")]
        access_token: SecretString,
        expires_at: Option<DateTime<Utc>>,
        #[serde(default)]
        raw: Value,
    },
    #[serde(rename = "OAUTH1")]
    OAuth1 {
        oauth_token: SecretString,
        oauth_token_secret: SecretString,
    },
    #[serde(rename = "API_KEY", rename_all = "camelCase")]
    ApiKey { api_key: SecretString },
    #[serde(rename = "BASIC")]
    Basic {
        username: SecretString,
        #[serde(default)]
        password: SecretString,
    },
    #[serde(other)]
    Other,
}

impl Credentials {
    /// Returns a digest that identifies the credentials without revealing them; `None` if they are withheld.
    pub fn fingerprint(&self) -> Option<String> {
        let mut context = Context::new(&SHA256);
        let mut add = |secret: &SecretString| context.update(secret.expose_secret().as_bytes());
        match self {
            Self::OAuth2 { access_token, .. } => add(access_token),
            Self::OAuth1 { token, .. } => add(token),
            Self::ApiKey { api_key } => add(api_key),
            // For some providers, the name is the key and the password is empty.
            Self::Basic { username, password } => {
                add(username);
                add(&":".into());
                add(password);
            }
            Self::Other { raw, .. } => add(raw),
            Self::Withheld => return None,
        }
        Some(hex::encode(&context.finish().as_ref()[..8]))
    }

    /// Returns when the credentials expire; `None` if never, or if Nango does not say.
    #[must_use]
    pub fn expires_at(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::OAuth2 { expires_at, .. } | Self::Other { expires_at, .. } => *expires_at,
            _ => None,
        }
    }

    /// Returns the credentials of a provider that needs none. Nango has no `type` for them.
    pub(crate) fn not_needed() -> Self {
        Self::Other {
            kind: "NONE".to_owned(),
            expires_at: None,
            raw: "{}".into(),
        }
    }

    /// Returns whether the credentials expired longer ago than clocks differ. Nango refreshes credentials before that
    /// if it can, and otherwise returns them unchanged.
    pub fn are_expired(&self, now: DateTime<Utc>) -> bool {
        self.expires_at()
            .is_some_and(|at| at < now - EXPIRY_TOLERANCE)
    }

    /// Returns whether the credentials expire in the future, so that they were refreshed. Those without an expiry are
    /// never refreshed.
    pub fn are_refreshed(&self, now: DateTime<Utc>) -> bool {
        self.expires_at().is_some_and(|at| at > now)
    }
}

impl<'de> Deserialize<'de> for Credentials {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = serde_json::Map::deserialize(deserializer)?;
        let Some(kind) = fields.get("type") else {
            return Ok(Self::Withheld);
        };
        let kind = kind.as_str().unwrap_or_default().to_owned();
        let fields = Value::Object(fields);
        let known = KnownCredentials::deserialize(&fields).map_err(D::Error::custom)?;
        Ok(match known {
            KnownCredentials::OAuth2 {
                access_token,
                expires_at,
                raw,
            } => Self::OAuth2 {
                access_token,
                expires_at,
                token_type: text(&raw, "token_type"),
                scope: text(&raw, "scope"),
                raw: raw.to_string().into(),
            },
            KnownCredentials::OAuth1 {
                oauth_token: token,
                oauth_token_secret: token_secret,
            } => Self::OAuth1 {
                token,
                token_secret,
            },
            KnownCredentials::ApiKey { api_key } => Self::ApiKey { api_key },
            KnownCredentials::Basic { username, password } => Self::Basic { username, password },
            KnownCredentials::Other => Self::Other {
                kind,
                expires_at: text(&fields, "expires_at").and_then(|at| at.parse().ok()),
                raw: fields.to_string().into(),
            },
        })
    }
}

fn text(raw: &Value, name: &str) -> Option<String> {
    raw.get(name)?.as_str().map(str::to_owned)
}
