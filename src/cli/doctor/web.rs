//! Checks that browsers and Nango reach this service at its public URL.

use std::time::Duration;

use reqwest::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN};
use reqwest::{Client, Response, StatusCode};
use secrecy::ExposeSecret;
use url::Url;
use uuid::Uuid;

use super::{CALLBACK_PATH, Report, url_below};
use crate::config::Config;
use crate::http::{ConnectBinding, HttpConfig};
use crate::nango::NangoConfig;
use crate::nango::webhook::SIGNATURE_HEADER;
use crate::net::address_guard::is_local;
use crate::net::http_client;

/// The timeout of a request to the service.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum size of a callback page, in bytes.
const MAX_PAGE_BYTES: usize = 64 * 1024;

/// The page of the signing key in Nango's dashboard.
const SIGNING_KEY_PAGE: &str = "in Nango: Environment settings, Webhooks, signing key";

pub(crate) async fn check(report: &mut Report, config: &Config) {
    let url = &config.http.public_url;
    transport(report, url, config.nango.as_ref());
    origins(report, &config.http.allowed_origins);
    let Ok(client) = http_client::client(TIMEOUT) else {
        return;
    };
    if !is_reachable(report, &client, url).await {
        return;
    }
    allowed_origins(report, &client, &config.http).await;
    if let Some(nango) = &config.nango {
        webhook(report, &client, url, nango).await;
        callback(report, &client, &config.http, nango).await;
    }
}

fn transport(report: &mut Report, url: &Url, nango: Option<&NangoConfig>) {
    let nango_is_elsewhere = nango.is_some_and(|nango| !is_local(&nango.client.base_url));
    let webhooks_at = nango.map_or(url, |nango| &nango.webhook_base_url);
    match (url.scheme(), is_local(url)) {
        _ if nango_is_elsewhere && is_local(webhooks_at) => report.fail(
            "public url",
            format!("{webhooks_at} is a local URL, which Nango cannot reach"),
            "set PUBLIC_URL to the URL at which the internet reaches this service, or NANGO_WEBHOOK_BASE_URL to the URL at which \
             Nango reaches it",
        ),
        (_, true) => report.ok("public url", format!("{url}, reachable from this machine only")),
        ("https", false) => report.ok("public url", url.as_str()),
        _ => report.fail(
            "public url",
            format!("{url} is not https: an attacker on the network path can read users' tokens"),
            "put a proxy with a certificate in front, and set PUBLIC_URL to its https URL",
        ),
    }
}

fn origins(report: &mut Report, origins: &[String]) {
    let is_insecure = |origin: &&String| {
        let url = Url::parse(origin).ok();
        origin.starts_with("http:") && !url.is_some_and(|url| is_local(&url))
    };
    if origins.is_empty() {
        report.warn(
            "cors",
            "no origin may call the API from a browser, and no page receives the popup's result",
            "set CORS_ALLOWED_ORIGINS to the product's origins",
        );
    } else if let Some(origin) = origins.iter().find(is_insecure) {
        report.warn(
            "cors",
            format!("{origin} is not https: an attacker on the network path can impersonate it"),
            "set CORS_ALLOWED_ORIGINS to https origins only",
        );
    } else {
        report.ok(
            "cors",
            format!("browsers may call from {}", origins.join(", ")),
        );
    }
}

async fn is_reachable(report: &mut Report, client: &Client, url: &Url) -> bool {
    let address = url_below(url, "/healthz");
    let response = match client.get(&address).send().await {
        Ok(response) => response,
        Err(error) => {
            report.fail(
                "reachable",
                format!("{address}: {}", http_client::describe(error)),
                "start the service, or correct PUBLIC_URL, its DNS name, its certificate or the proxy in front",
            );
            return false;
        }
    };
    let status = response.status();
    let is_patchbay = response.text().await.is_ok_and(|text| text == "ok\n");
    if status == StatusCode::OK && is_patchbay {
        report.ok("reachable", format!("{address} leads to this service"));
        return true;
    }
    report.fail(
        "reachable",
        format!("{address} returns {status}, and not as this service does"),
        if url.path() == "/" {
            "correct PUBLIC_URL, or the proxy in front".to_owned()
        } else {
            format!(
                "correct PUBLIC_URL, or configure the proxy in front to remove the path {} from requests",
                url.path()
            )
        },
    );
    false
}

/// Sends a CORS request from each allowed origin.
async fn allowed_origins(report: &mut Report, client: &Client, http: &HttpConfig) {
    let own = http.public_url.origin().ascii_serialization();
    let address = url_below(&http.public_url, "/healthz");
    for origin in http.allowed_origins.iter().filter(|origin| **origin != own) {
        let Ok(response) = client.get(&address).header(ORIGIN, origin).send().await else {
            continue;
        };
        let allowed = response.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN);
        if allowed.is_none_or(|allowed| allowed != origin.as_str()) {
            report.fail(
                "cors",
                format!("the service at PUBLIC_URL does not let pages of {origin} call"),
                "start it with the same CORS_ALLOWED_ORIGINS as this command, and configure the proxy in front to forward its Access-Control headers",
            );
        }
    }
}

/// Sends a signed webhook without an effect to the URL to which Nango sends webhooks. `url` is `PUBLIC_URL`.
async fn webhook(report: &mut Report, client: &Client, url: &Url, nango: &NangoConfig) {
    let secret_key = nango.client.secret_key.expose_secret();
    if nango.signing_keys.contains(secret_key) {
        report.warn(
            "webhook key",
            "NANGO_WEBHOOK_SIGNING_KEY is the secret key. Nango signs with the secret key only in environments from before 20 \
             April 2026 and in the initial ones of a self-hosted Nango (dev and prod), until the key is rotated",
            format!("rotate the signing key ({SIGNING_KEY_PAGE}) and copy the new one, or check there that both keys are the same"),
        );
    }
    let base = &nango.webhook_base_url;
    let address = url_below(base, &format!("/api/v1/webhooks/nango/{}", Uuid::now_v7()));
    let body = r#"{"type":"patchbay_doctor"}"#;
    let signature = nango.signing_keys.sign(body.as_bytes());
    let request = client.post(&address).header(SIGNATURE_HEADER, signature);
    match request.body(body).send().await.map(|response| response.status()) {
        Ok(StatusCode::NO_CONTENT) => report.ok(
            "webhooks",
            format!(
                "a signed webhook is accepted. Nango's environment has to send its webhooks to {} with the same key ({SIGNING_KEY_PAGE})",
                url_below(base, "/api/v1/webhooks/nango")
            ),
        ),
        Ok(StatusCode::UNAUTHORIZED) => report.fail(
            "webhooks",
            format!("the service at {base} rejects webhooks signed with NANGO_WEBHOOK_SIGNING_KEY"),
            "start it with the same NANGO_WEBHOOK_SIGNING_KEY as this command",
        ),
        Ok(status) => report.fail(
            "webhooks",
            format!("the response to a signed webhook is {status}"),
            "configure the proxy in front to forward POST requests below /api/v1/webhooks unchanged",
        ),
        Err(error) if base != url => report.fail(
            "webhooks",
            format!("{address}: {}", http_client::describe(error)),
            "correct NANGO_WEBHOOK_BASE_URL, or run this command where that URL is reachable",
        ),
        Err(error) => report.fail(
            "webhooks",
            format!("{address}: {}", http_client::describe(error)),
            "configure the proxy in front to forward POST requests below /api/v1/webhooks unchanged",
        ),
    }
}

/// Requests the callback like a browser that has started no attempt.
async fn callback(report: &mut Report, client: &Client, http: &HttpConfig, nango: &NangoConfig) {
    let address = url_below(&http.public_url, CALLBACK_PATH);
    let base = nango.client.public_url.as_str().trim_end_matches('/');
    let redirect_url = format!("{base}/oauth/callback?state=patchbay-doctor");
    let request = client
        .get(format!("{address}?state=patchbay-doctor"))
        .send();
    let matches = match request.await {
        Ok(response) => matches_binding(response, http.connect_binding, &redirect_url).await,
        Err(_) => false,
    };
    match (http.connect_binding, matches) {
        (ConnectBinding::Off, true) => report.ok(
            "callback",
            format!(
                "{address} redirects to Nango, as Nango's callback URL requires if it is set to this one"
            ),
        ),
        (ConnectBinding::Off, false) => report.warn(
            "callback",
            format!("{address} does not redirect to {base}/oauth/callback"),
            "only required if Nango's callback URL is set to it: start the service at PUBLIC_URL with the same NANGO_BASE_URL or NANGO_PUBLIC_URL",
        ),
        (_, true) => report.ok(
            "callback",
            format!("{address} stops a browser that has started no attempt"),
        ),
        (_, false) => report.fail(
            "callback",
            format!("{address} does not stop a browser that has started no attempt, as CONNECT_BINDING requires"),
            "start the service at PUBLIC_URL with the same CONNECT_BINDING and NANGO_PUBLIC_URL as this command",
        ),
    }
}

/// Returns whether a callback's response to a browser without an attempt is the one that `binding` requires.
async fn matches_binding(response: Response, binding: ConnectBinding, redirect_url: &str) -> bool {
    let status = response.status();
    let location = response.headers().get("location");
    let is_redirect =
        location.is_some_and(|location| location.as_bytes() == redirect_url.as_bytes());
    match binding {
        ConnectBinding::Off => status == StatusCode::PERMANENT_REDIRECT && is_redirect,
        ConnectBinding::Ask => {
            let page = http_client::read_body(response, MAX_PAGE_BYTES)
                .await
                .unwrap_or_default();
            status == StatusCode::OK && String::from_utf8_lossy(&page).contains(redirect_url)
        }
        ConnectBinding::Required => {
            let page = http_client::read_body(response, MAX_PAGE_BYTES)
                .await
                .unwrap_or_default();
            let page = String::from_utf8_lossy(&page);
            status == StatusCode::FORBIDDEN && page.contains("Started in another browser")
        }
    }
}
