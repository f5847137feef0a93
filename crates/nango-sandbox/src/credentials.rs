//! The credentials of a connection and the fields of the form, by auth mode.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use crate::provider::TokenAnswer;
use crate::times;

/// A connection's credentials.
#[derive(Clone)]
pub(super) enum Credentials {
    /// The tokens of an OAuth 2 provider or of an installed app. `raw` is its token response.
    OAuth2 {
        /// `OAUTH2`, or `APP` for an installed app.
        kind: &'static str,
        access_token: String,
        refresh_token: Option<String>,
        expires_at: Option<DateTime<Utc>>,
        raw: Map<String, Value>,
    },
    /// Any other credentials, as in a response: a `type` and the fields of that type.
    Other(Map<String, Value>),
}

impl Credentials {
    /// Returns the credentials of a token response.
    pub(super) fn granted(answer: &TokenAnswer, auth_mode: &str, now: DateTime<Utc>) -> Self {
        let mut raw = answer.raw.clone();
        if auth_mode == "OAUTH1" {
            // The sandbox's provider supports OAuth 2 only. Other modes differ in shape only.
            let credentials = json!({
                "type": auth_mode,
                "oauth_token": answer.access_token,
                "oauth_token_secret": answer.refresh_token,
                "raw": raw,
            });
            return Self::Other(credentials.as_object().cloned().unwrap_or_default());
        }
        let expires_at = answer.expires_in.map(|it| now + TimeDelta::seconds(it));
        if let Some(expires_at) = expires_at {
            raw.insert("expires_at".into(), times::javascript(expires_at).into());
        }
        Self::OAuth2 {
            kind: if is_app(auth_mode) { "APP" } else { "OAUTH2" },
            access_token: answer.access_token.clone(),
            refresh_token: answer.refresh_token.clone(),
            expires_at,
            raw,
        }
    }

    /// Returns the `credentials` of a response. The refresh token is included only on request.
    pub(super) fn to_json(&self, with_refresh_token: bool) -> Value {
        let Self::OAuth2 {
            kind,
            access_token,
            refresh_token,
            expires_at,
            raw,
        } = self
        else {
            return self.stored();
        };
        let mut shown = json!({ "type": kind, "access_token": access_token });
        let mut raw = raw.clone();
        if !with_refresh_token || *kind == "APP" {
            raw.remove("refresh_token");
        } else if let Some(refresh_token) = refresh_token {
            shown["refresh_token"] = refresh_token.as_str().into();
        }
        if let Some(expires_at) = expires_at {
            shown["expires_at"] = times::javascript(*expires_at).into();
        }
        shown["raw"] = raw.into();
        shown
    }

    /// Returns the `authorization` header with which Nango calls the provider.
    pub(super) fn authorization(&self) -> String {
        let fields = match self {
            Self::OAuth2 { access_token, .. } => return format!("Bearer {access_token}"),
            Self::Other(fields) => fields,
        };
        let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
        match text("type") {
            "BASIC" => {
                let both = format!("{}:{}", text("username"), text("password"));
                format!("Basic {}", STANDARD.encode(both))
            }
            "API_KEY" => format!("Bearer {}", text("apiKey")),
            "OAUTH2_CC" | "TWO_STEP" => format!("Bearer {}", text("token")),
            _ => format!("Bearer {}", text("oauth_token")),
        }
    }

    fn stored(&self) -> Value {
        match self {
            Self::OAuth2 { raw, .. } | Self::Other(raw) => raw.clone().into(),
        }
    }

    /// Returns `true` if a provider that tests credentials would reject these. The sandbox simulates the test: values
    /// that start with `invalid` or `not-a-` are rejected.
    pub(super) fn are_invalid(&self) -> bool {
        let Self::Other(fields) = self else {
            return false;
        };
        let bad = |text: &str| text.starts_with("not-a-") || text.starts_with("invalid");
        fields.values().filter_map(Value::as_str).any(bad)
    }
}

/// Returns `true` if integrations of this mode are authorized in a popup at the provider.
pub(super) fn is_oauth(auth_mode: &str) -> bool {
    matches!(
        auth_mode,
        "OAUTH2" | "OAUTH1" | "MCP_OAUTH2" | "MCP_OAUTH2_GENERIC" | "CUSTOM"
    )
}

/// Returns `true` if a user of this mode installs an app at the provider, such as a GitHub App with OAuth.
pub(super) fn is_app(auth_mode: &str) -> bool {
    auth_mode == "CUSTOM"
}

/// Returns the fields of the form for a mode: their names and labels.
pub(super) fn fields(auth_mode: &str) -> &'static [(&'static str, &'static str)] {
    match auth_mode {
        "API_KEY" => &[("apiKey", "API key")],
        "BASIC" => &[("username", "User name"), ("password", "Password")],
        "OAUTH2_CC" => &[
            ("client_id", "Client ID"),
            ("client_secret", "Client secret"),
        ],
        "AWS_SIGV4" => &[("role_arn", "Role ARN"), ("region", "Region")],
        "JWT" => &[
            ("privateKeyId", "Private key ID"),
            ("privateKey", "Private key"),
        ],
        "NONE" => &[],
        _ => &[("username", "User name"), ("password", "Password or token")],
    }
}
