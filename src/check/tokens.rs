//! Users' tokens: what they are verified with, and whether a given one is good.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::DateTime;
use serde_json::{Map, Value};

use super::Report;
use crate::auth::{Authenticator, Config};
use crate::clock::Clock;
use crate::keys::KEY_PREFIX;

pub(super) async fn check(
    report: &mut Report,
    config: &Config,
    token: Option<&str>,
    clock: &Clock,
) {
    let auth = match Authenticator::new(config.clone(), clock.clone()) {
        Ok(auth) => auth,
        Err(error) => {
            let mend = "correct AUTH_JWT_SECRET or AUTH_JWKS_URL";
            report.fail("tokens", error.to_string(), mend);
            return;
        }
    };
    match (config.hs256_secrets.is_empty(), &config.jwks_url) {
        (true, _) => {}
        (false, None) => report.ok(
            "tokens",
            "those signed with AUTH_JWT_SECRET (HS256) are accepted",
        ),
        (false, Some(_)) => report.warn(
            "tokens",
            "those signed with AUTH_JWT_SECRET (HS256) are accepted beside the identity provider's",
            "remove AUTH_JWT_SECRET, unless you sign tokens with it",
        ),
    }
    match auth.published_keys().await {
        None => {}
        Some(Ok(0)) => report.fail(
            "jwks",
            "AUTH_JWKS_URL answers, and has no key for RS256, ES256 or EdDSA",
            "name the address of the identity provider's JWKS; at Supabase, switch to asymmetric signing keys",
        ),
        Some(Ok(keys)) => report.ok("jwks", format!("{keys} usable keys are published")),
        Some(Err(error)) => report.fail(
            "jwks",
            format!("the keys cannot be fetched: {error}"),
            "correct AUTH_JWKS_URL, let this service reach it, or allow its private network in AUTH_JWKS_ALLOWED_NETWORKS",
        ),
    }
    if config.jwks_url.is_some() && config.issuer.is_none() {
        report.warn(
            "issuer",
            "a token of any issuer is good that one of the keys has signed",
            "set AUTH_ISSUER to the identity provider's `iss`",
        );
    }
    if config.jwks_url.is_some() && config.audience.is_none() {
        report.warn(
            "audience",
            "tokens that were made for another service are good here, too",
            "set AUTH_AUDIENCE, if the identity provider's tokens have an `aud` for this service",
        );
    }
    if let Some(token) = token {
        explain(report, config, &auth, token.trim(), clock).await;
    }
}

/// Says claim by claim what is looked at, and then who the token's bearer is.
async fn explain(
    report: &mut Report,
    config: &Config,
    auth: &Authenticator,
    token: &str,
    clock: &Clock,
) {
    if token.starts_with(KEY_PREFIX) {
        let mend = "`patchbay keys list` shows which keys there are; give --token a user's token";
        report.warn("token", "this is a service key", mend);
        return;
    }
    let mut parts = token.split('.').map(object);
    if let (Some(Some(header)), Some(Some(claims))) = (parts.next(), parts.next()) {
        let text = |value: Option<&Value>| value.map_or("missing".to_owned(), Value::to_string);
        report.ok("token alg", text(header.get("alg")));
        if let Some(key) = header.get("kid") {
            report.ok("token kid", key.to_string());
        }
        let has = |name: &str, wanted: &str| match claims.get(name) {
            Some(Value::Array(several)) => several.iter().any(|one| one == wanted),
            one => one.is_some_and(|one| one == wanted),
        };
        for (check, name, wanted, variable) in [
            ("token iss", "iss", &config.issuer, "AUTH_ISSUER"),
            ("token aud", "aud", &config.audience, "AUTH_AUDIENCE"),
        ] {
            let found = text(claims.get(name));
            match wanted {
                Some(wanted) if !has(name, wanted) => report.fail(
                    check,
                    format!("{found}, and {variable} wants {wanted:?}"),
                    format!("correct {variable}, or how the identity provider makes its tokens"),
                ),
                Some(_) => report.ok(check, found),
                None => report.ok(check, format!("{found}; any is good")),
            }
        }
        times(report, config, &claims, clock);
        let user = text(claims.get(&config.user_claim));
        report.ok("token user", format!("{}: {user}", config.user_claim));
    }
    match auth.authenticate(token).await {
        Ok(caller) => report.ok(
            "token",
            format!("it is good: its bearer is the user {}", caller.user_id),
        ),
        Err(error) => report.fail("token", format!("it is refused: {error}"), mend(error)),
    }
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn times(report: &mut Report, config: &Config, claims: &Map<String, Value>, clock: &Clock) {
    let now = clock.now();
    let leeway = config.leeway.as_secs().cast_signed();
    for (check, name) in [
        ("token exp", "exp"),
        ("token nbf", "nbf"),
        ("token iat", "iat"),
    ] {
        let Some(seconds) = claims.get(name).and_then(Value::as_f64) else {
            if name == "exp" {
                let mend = "have the identity provider's tokens expire";
                report.fail(check, "missing: it would be good for ever", mend);
            }
            continue;
        };
        let Some(at) = DateTime::from_timestamp(seconds as i64, 0) else {
            continue;
        };
        let left = (at - now).num_seconds();
        let (wrong, found) = if name == "exp" {
            (left + leeway <= 0, format!("{at}, in {left} s"))
        } else {
            (left > leeway, format!("{at}, {} s ago", -left))
        };
        if wrong {
            let mend = "take a fresh token; if it is one, this machine's clock or the identity provider's is wrong";
            report.fail(check, found, mend);
        } else {
            report.ok(check, found);
        }
    }
}

fn mend(error: crate::auth::Error) -> &'static str {
    use crate::auth::Error;
    match error {
        Error::TooLarge => "have the identity provider put less into its tokens",
        Error::Malformed => "give the whole token: three parts with dots between",
        Error::AlgorithmNotAllowed => {
            "HS256 needs AUTH_JWT_SECRET; RS256, ES256 and EdDSA need AUTH_JWKS_URL"
        }
        Error::UnknownKey => "AUTH_JWKS_URL has to be that of the identity provider that signs",
        Error::BadSignature => {
            "AUTH_JWT_SECRET has to be the identity provider's own, byte for byte"
        }
        Error::NoExpiry => "have the identity provider's tokens expire",
        Error::Expired | Error::NotYetValid => "take a fresh token; if it is one, a clock is wrong",
        Error::WrongIssuer => "correct AUTH_ISSUER",
        Error::WrongAudience => "correct AUTH_AUDIENCE",
        Error::NoUser => "AUTH_USER_CLAIM has to name the claim that holds the user's id, a text",
        Error::KeysUnavailable => "correct AUTH_JWKS_URL, or let this service reach it",
    }
}
