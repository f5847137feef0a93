//! Checks the configuration for users' tokens, and a single token claim by claim.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::DateTime;
use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use url::Url;

use super::{Report, url_below};
use crate::auth::service_keys::KEY_PREFIX;
use crate::auth::{Authenticator, Config, LEEWAY};
use crate::clock::Clock;
use crate::net::http_client;

/// The timeout of a request to the service.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) async fn check(
    report: &mut Report,
    config: &Config,
    public_url: &Url,
    token: Option<&str>,
    clock: &Clock,
) {
    let auth = match Authenticator::new(config.clone(), clock.clone()) {
        Ok(auth) => auth,
        Err(error) => {
            let remediation = "correct AUTH_JWT_SECRET or AUTH_JWKS_URL";
            report.fail("tokens", error.to_string(), remediation);
            return;
        }
    };
    match (config.hmac_secrets.is_empty(), &config.jwks_url) {
        (true, _) => {}
        (false, None) => report.ok(
            "tokens",
            "tokens signed with AUTH_JWT_SECRET (HS256, HS384, HS512) are accepted",
        ),
        (false, Some(_)) => report.warn(
            "tokens",
            "tokens signed with AUTH_JWT_SECRET (HS256, HS384, HS512) are accepted in addition to the identity provider's",
            "remove AUTH_JWT_SECRET, unless you sign tokens with it",
        ),
    }
    try_secrets(report, config, public_url, clock).await;
    match auth.published_key_count().await {
        None => {}
        Some(Ok(keys)) => report.ok("jwks", format!("{keys} usable keys are published")),
        Some(Err(error)) => report.fail(
            "jwks",
            format!("the keys cannot be fetched: {error}"),
            "correct AUTH_JWKS_URL, make it reachable from this service, or allow its private network in AUTH_JWKS_ALLOWED_NETWORKS. If the JWKS has no key, configure the identity provider to sign with asymmetric keys",
        ),
    }
    if config.jwks_url.is_some() && config.issuers.is_empty() {
        report.warn(
            "issuer",
            "tokens of any issuer are accepted if one of the keys signed them",
            "set AUTH_ISSUER to the identity provider's `iss`",
        );
    }
    if config.jwks_url.is_some() && config.audiences.is_empty() {
        report.warn(
            "audience",
            "tokens for another service are accepted, too",
            "set AUTH_AUDIENCE, if the identity provider's tokens have an `aud` for this service",
        );
    }
    if let Some(token) = token {
        explain(report, config, &auth, token.trim(), clock).await;
    }
}

/// Sends the running service a token signed with each secret. Another check reports that the service does not run.
async fn try_secrets(report: &mut Report, config: &Config, public_url: &Url, clock: &Clock) {
    let Ok(client) = http_client::client(TIMEOUT) else {
        return;
    };
    let address = url_below(public_url, "/api/v1/connectors?limit=1");
    for (index, secret) in config.hmac_secrets.iter().enumerate() {
        let request = client
            .get(&address)
            .bearer_auth(sign(config, secret, clock));
        let Ok(response) = request.send().await else {
            return;
        };
        if response.status() == StatusCode::UNAUTHORIZED {
            report.fail(
                "tokens",
                format!(
                    "the service at PUBLIC_URL rejects a token signed with secret {} of AUTH_JWT_SECRET",
                    index + 1
                ),
                "start it with the same AUTH_JWT_SECRET, AUTH_ISSUER, AUTH_AUDIENCE and AUTH_USER_CLAIM as this command",
            );
        }
    }
}

/// Returns a signed token with the configured issuer and audience, for a nonexistent user. It is valid for an hour, so
/// that clock skew does not fail this check. Another check reports clock skew.
fn sign(config: &Config, secret: &SecretString, clock: &Clock) -> String {
    let mut claims = Map::new();
    claims.insert("exp".to_owned(), (clock.now().timestamp() + 3600).into());
    for (name, value) in [
        ("iss", config.issuers.first()),
        ("aud", config.audiences.first()),
    ] {
        claims.extend(value.map(|value| (name.to_owned(), value.clone().into())));
    }
    claims.insert(config.user_claim.clone(), "patchbay-doctor".into());
    let claims = Value::Object(claims).to_string();
    let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
    let signed = format!(
        "{}.{}",
        encode(br#"{"alg":"HS256","typ":"JWT"}"#),
        encode(claims.as_bytes())
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
    let signature = encode(hmac::sign(&key, signed.as_bytes()).as_ref());
    format!("{signed}.{signature}")
}

/// Reports each claim of a token, and its user or why it is rejected.
async fn explain(
    report: &mut Report,
    config: &Config,
    auth: &Authenticator,
    token: &str,
    clock: &Clock,
) {
    if token.starts_with(KEY_PREFIX) {
        let remediation =
            "pass a user's token in --token. `patchbay keys list` shows the service keys";
        report.warn("token", "this is a service key", remediation);
        return;
    }
    explain_claims(report, config, auth, token, clock);
    match auth.authenticate(token).await {
        Ok(caller) => report.ok(
            "token",
            format!("the token is valid: its user is {}", caller.user_id),
        ),
        Err(error) => report.fail(
            "token",
            format!("the token is rejected: {error}"),
            remediation(error),
        ),
    }
}

/// Reports the header and the claims, if the token can be decoded.
fn explain_claims(
    report: &mut Report,
    config: &Config,
    auth: &Authenticator,
    token: &str,
    clock: &Clock,
) {
    let mut parts = token.split('.').map(decode_object);
    if let (Some(Some(header)), Some(Some(claims))) = (parts.next(), parts.next()) {
        let text = |value: Option<&Value>| value.map_or("missing".to_owned(), Value::to_string);
        report.ok("token alg", text(header.get("alg")));
        for (check, name) in [("token kid", "kid"), ("token typ", "typ")] {
            if let Some(found) = header.get(name) {
                report.ok(check, found.to_string());
            }
        }
        let audience = if claims.contains_key("aud") {
            "aud"
        } else {
            "client_id"
        };
        let audience = claims.get(audience);
        for (check, found, accepted, wanted, variable) in [
            (
                "token iss",
                claims.get("iss"),
                auth.check_issuer(&claims).is_ok(),
                &config.issuers,
                "AUTH_ISSUER",
            ),
            (
                "token aud",
                audience,
                auth.check_audience(&claims).is_ok(),
                &config.audiences,
                "AUTH_AUDIENCE",
            ),
        ] {
            let found = text(found);
            match (accepted, wanted.is_empty()) {
                (false, _) => report.fail(
                    check,
                    format!("{found}, but {variable} requires {}", wanted.join(" or ")),
                    format!("correct {variable}, or the identity provider's configuration"),
                ),
                (true, false) => report.ok(check, found),
                (true, true) => report.ok(check, format!("{found}; any value is accepted")),
            }
        }
        check_times(report, &claims, clock);
        let user = text(claims.get(&config.user_claim));
        report.ok("token user", format!("{}: {user}", config.user_claim));
    }
}

fn decode_object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn check_times(report: &mut Report, claims: &Map<String, Value>, clock: &Clock) {
    let now = clock.now();
    let leeway = LEEWAY.as_secs().cast_signed();
    for (check, name) in [
        ("token exp", "exp"),
        ("token nbf", "nbf"),
        ("token iat", "iat"),
    ] {
        let Some(seconds) = claims.get(name).and_then(Value::as_f64) else {
            let found = claims.get(name).filter(|value| !value.is_null());
            match (name, found) {
                ("exp", None) => {
                    let remediation = "configure the identity provider to let its tokens expire";
                    report.fail(check, "missing: the token would never expire", remediation);
                }
                (_, Some(found)) => report.fail(
                    check,
                    format!("{found} is not a number"),
                    "configure the identity provider to write it as seconds since 1970, without quotes",
                ),
                (_, None) => {}
            }
            continue;
        };
        let Some(at) = DateTime::from_timestamp(seconds as i64, 0) else {
            continue;
        };
        let remaining = (at - now).num_seconds();
        let (wrong, found) = if name == "exp" {
            (remaining + leeway <= 0, format!("{at}, in {remaining} s"))
        } else {
            (remaining > leeway, format!("{at}, {} s ago", -remaining))
        };
        if wrong {
            let remediation = "use a new token. If it is new, this machine's clock or the identity provider's is wrong";
            report.fail(check, found, remediation);
        } else {
            report.ok(check, found);
        }
    }
}

fn remediation(error: crate::auth::Error) -> &'static str {
    use crate::auth::Error;
    match error {
        Error::TooLarge => {
            "configure the identity provider to issue smaller tokens, for example with fewer groups"
        }
        Error::NotAJwt => {
            "pass the whole token. With Auth0, Okta and Logto, the frontend must request a token for an API (audience, resource). Otherwise it receives an opaque one"
        }
        Error::Encrypted => {
            "configure the identity provider to sign tokens without encrypting them. With Auth0, request an audience"
        }
        Error::BadHeader | Error::BadClaims | Error::BadSignatureEncoding => {
            "pass the whole token, unchanged from the identity provider"
        }
        Error::Unsigned => "configure the identity provider to sign its tokens",
        Error::CriticalHeader => "configure the identity provider to issue tokens without `crit`",
        Error::WrongType => "use an access token or an ID token. This token has another purpose",
        Error::UnsupportedAlgorithm => {
            "configure the identity provider to sign with RS256, PS256, ES256 or EdDSA"
        }
        Error::NoSecret => {
            "set AUTH_JWT_SECRET, or configure the identity provider to sign with a key of its JWKS"
        }
        Error::AnotherSecret => {
            "set AUTH_JWT_SECRET to the identity provider's secret, byte for byte"
        }
        Error::NoKeySet => "set AUTH_JWKS_URL to the URL of the identity provider's JWKS",
        Error::UnknownKey => {
            "set AUTH_JWKS_URL to the JWKS of the identity provider that signed the token"
        }
        Error::KeyOfAnotherAlgorithm | Error::NoKeyOfAlgorithm => {
            "compare the token's `alg` with the keys at AUTH_JWKS_URL, which may belong to another identity provider"
        }
        Error::TooManyKeys => "configure the identity provider to set `kid` in its tokens",
        Error::AnotherKey => {
            "pass the token unchanged. If it is unchanged, AUTH_JWKS_URL belongs to another identity provider or tenant"
        }
        Error::NoExpiry => "configure the identity provider to let its tokens expire",
        Error::ExpiryNotANumber | Error::StartNotANumber | Error::IssueTimeNotANumber => {
            "configure the identity provider to write times as seconds since 1970, without quotes"
        }
        Error::Expired => "use a new token. If it is new, this machine's clock is wrong",
        Error::NotYetValid | Error::IssuedInTheFuture => {
            "synchronize the clocks of this machine and of the identity provider with NTP"
        }
        Error::NoIssuer => "configure the identity provider to write `iss`, or unset AUTH_ISSUER",
        Error::WrongIssuer => "set AUTH_ISSUER to the token's `iss`, including a slash at its end",
        Error::NoAudience => {
            "configure the identity provider to write `aud`, or unset AUTH_AUDIENCE. If a token has no `aud`, its `client_id` is compared"
        }
        Error::WrongAudience => {
            "set AUTH_AUDIENCE to the token's `aud`, if the token is for this service"
        }
        Error::NoUser => "set AUTH_USER_CLAIM to the claim with the user's id",
        Error::UserNotText => "set AUTH_USER_CLAIM to a claim that is text or a whole number",
        Error::InvalidUser(_) => {
            "set AUTH_USER_CLAIM to a claim that is the same in all tokens of the user"
        }
        Error::KeysUnavailable => "correct AUTH_JWKS_URL, or make it reachable from this service",
    }
}
