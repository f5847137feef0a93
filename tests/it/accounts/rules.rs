//! Each account rule, against a sample from the provider's documentation and against the fake Nango.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::{StreamExt, stream};
use patchbay::catalog::{AccountRule, Catalog, Provider};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{app_with_accounts, text, wait_for};
use crate::test_app::{TestApp, User};

/// Returns the samples by connector, which the fake Nango uses, too.
fn samples() -> BTreeMap<String, Value> {
    let text = include_str!("../../../crates/nango-sandbox/src/accounts.json");
    serde_json::from_str(text).unwrap()
}

fn claims(token: &Value) -> Value {
    let claims = token.as_str().and_then(|token| token.split('.').nth(1));
    claims.map_or(Value::Null, |claims| {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
    })
}

/// Returns the document of a sample that a rule reads.
fn document(sample: &Value) -> Value {
    json!({
        "raw": sample["raw"],
        "id_token": claims(&sample["raw"]["id_token"]),
        "connection_config": sample["connection_config"],
        "credentials": sample["credentials"],
        "response": sample["response"],
    })
}

#[test]
fn each_rule_reads_its_documented_sample() {
    let samples = samples();
    let mut wrong = Vec::new();
    for (slug, rule) in AccountRule::builtin() {
        let Some(sample) = samples.get(slug) else {
            wrong.push(format!("{slug} has no sample"));
            continue;
        };
        let document = document(sample);
        let read = rule.read(&document);
        let fields = json!({
            "id": read.id, "name": read.name, "email": read.email, "avatar": read.avatar,
            "workspace_id": read.workspace_id, "workspace": read.workspace,
        });
        if fields != sample["expected"] {
            wrong.push(format!("{slug}: {fields}, expected {}", sample["expected"]));
        }
        if !rule.path.is_empty() && rule.request(&document).is_err() {
            wrong.push(format!("{slug}: the sample lacks a part of {}", rule.path));
        }
        if !rule.source.starts_with("https://") {
            wrong.push(format!("{slug} has no source"));
        }
        // Without the source of the rule, the id must come from a lookup, or be unknown.
        let mut only = document.clone();
        for root in ["raw", "id_token", "response"] {
            if rule.id_source.as_deref() != Some(root)
                && rule.id_source.as_deref() != Some("request")
            {
                only[root] = Value::Null;
            }
        }
        if rule.identifies_account() && rule.read(&only).id != read.id {
            wrong.push(format!(
                "{slug}: the id does not come from {:?}",
                rule.id_source
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rules_cover_every_connectable_connector() {
    let catalog = Catalog::builtin();
    let mut without = Vec::new();
    let mut identified = 0;
    for connector in catalog.iter().filter(|it| it.provider.is_some()) {
        let rule = connector
            .account_rule()
            .unwrap_or_else(|| panic!("{} has no rule", connector.slug));
        assert_eq!(rule.auth_mode, connector.auth_mode, "{}", connector.slug);
        if rule.identifies_account() {
            identified += 1;
        } else {
            assert!(rule.reason.is_some(), "{}", connector.slug);
            without.push(connector.slug.as_str());
        }
    }
    assert_eq!(
        (identified, without),
        (81, vec!["amplitude", "google-ai", "razorpay"])
    );
    for (slug, rule) in AccountRule::builtin() {
        let all = rule
            .also
            .iter()
            .chain((!rule.provider.is_empty()).then_some(&rule.provider));
        for provider in all {
            assert!(Provider::find(provider).is_some(), "{slug}: {provider}");
        }
    }
}

/// Returns a row of the document's table.
fn row(slug: &str, rule: &AccountRule, sample: &Value) -> String {
    if !rule.identifies_account() {
        let reason = rule.reason.as_deref().unwrap_or_default();
        return format!(
            "| {slug} | none: {reason} | | | | | [docs]({}) |",
            rule.source
        );
    }
    let mut request = String::new();
    if !rule.path.is_empty() {
        let host = rule.base_url.as_deref().unwrap_or_default();
        request = format!("`{} {host}{}`", rule.method, rule.path);
    }
    format!(
        "| {slug} | {} | {} | {request} | {} | `{}` | [docs]({}) |",
        rule.kind.as_deref().unwrap_or_default(),
        rule.id_source.as_deref().unwrap_or_default(),
        rule.scopes.join(", ").replace('|', " or "),
        text(&sample["expected"], "id"),
        rule.source,
    )
}

#[test]
fn documented_table_matches_rules() {
    const START: &str = "| --- | --- | --- | --- | --- | --- | --- |\n";
    const END: &str = "\n## Logos";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ACCOUNTS.md");
    let document = fs::read_to_string(&path).unwrap();
    let (before, rest) = document.split_once(START).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let samples = samples();
    let rows = AccountRule::builtin().iter();
    let rows: Vec<String> = rows
        .map(|(slug, rule)| row(slug, rule, &samples[slug]))
        .collect();
    let catalog = Catalog::builtin();
    let missing = catalog.iter().filter(|it| it.provider.is_none());
    let missing: Vec<String> = missing.map(|it| format!("`{}`", it.slug)).collect();
    let table = format!(
        "{}\n\nNango has no provider for these connectors, so that they cannot be connected yet: {}.\n",
        rows.join("\n"),
        missing.join(", "),
    );
    let expected = format!("{before}{START}{table}{END}{after}");
    if std::env::var_os("UPDATE_EXAMPLES").is_some() {
        fs::write(&path, &expected).unwrap();
        return;
    }
    assert!(
        document == expected,
        "docs/ACCOUNTS.md is stale: UPDATE_EXAMPLES=1 cargo test --test it -- documented_table"
    );
}

/// Returns the parameters that the user enters, from the sample. If they determine the account, `other` returns those
/// of another account.
fn parameters(connector: &Value, sample: &Value, other: bool) -> BTreeMap<String, String> {
    let mut given = BTreeMap::new();
    for parameter in connector["parameters"].as_array().unwrap() {
        let name = text(parameter, "name");
        let of_sample = &sample["connection_config"][name];
        let of_sample = of_sample.as_str().map(str::to_owned);
        let example = || parameter["example"].as_str().map(str::to_owned);
        let Some(value) = of_sample.or_else(example) else {
            continue;
        };
        let value = if other { format!("2{value}") } else { value };
        given.insert(name.to_owned(), value);
    }
    given
}

/// Completes the popup, or enters a key on Nango's page.
async fn authorize(
    app: &TestApp,
    connector: &Value,
    sample: &Value,
    started: &Value,
    account: &str,
) {
    let url = text(started, "oauth_url");
    if !url.contains("/connect-ui/") && !url.contains("session_token=") {
        panic!("no address: {url}");
    }
    if url.contains("/oauth/connect/") {
        let page = app.popup(url).await;
        assert_eq!(page.status(), StatusCode::OK, "{connector}");
        return;
    }
    let session = url::Url::parse(url).unwrap();
    let session = session
        .query_pairs()
        .find(|(name, _)| name == "session_token")
        .unwrap()
        .1;
    let key = format!("{account}-key");
    // The sample's user name, if it is the id of the account.
    let username = sample["credentials"]["username"].as_str();
    let username = username.map(|name| match account {
        "ada-work" => name.to_owned(),
        other => format!("{name}-{other}"),
    });
    let mut form = vec![
        ("session_token", &*session),
        ("integration", text(connector, "integration_key")),
    ];
    for field in [
        "apiKey",
        "username",
        "password",
        "client_id",
        "client_secret",
        "role_arn",
        "region",
        "privateKeyId",
        "privateKey",
    ] {
        let value: &str = match &username {
            Some(username) if field == "username" => username,
            _ => &key,
        };
        form.push((field, value));
    }
    let page = url::Url::parse(url).unwrap();
    let page = format!("{}/connect-ui/", page.origin().ascii_serialization());
    let answer = app.client.post(page).form(&form).send().await.unwrap();
    let (status, body) = (answer.status(), answer.text().await.unwrap());
    assert_eq!(status, StatusCode::OK, "{connector}: {body}");
}

async fn start(
    user: &User<'_>,
    path: &str,
    account: &str,
    parameters: &BTreeMap<String, String>,
) -> Value {
    let body = json!({ "login_hint": account, "parameters": parameters });
    let (status, started) = user.call(Method::POST, path, Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{path}: {started}");
    started
}

/// Connects one account of a connector, and reconnects another. Returns an error message.
async fn connect_twice(app: &TestApp, slug: &str, sample: &Value) -> Option<String> {
    let user = app.user(&format!("user-of-{slug}")).await;
    let connector = user.get(&format!("/{slug}")).await;
    assert_eq!(connector["identifies_account"], true, "{slug}");
    let given = parameters(&connector, sample, false);
    let started = start(&user, &format!("/{slug}/connect"), "ada-work", &given).await;
    authorize(app, &connector, sample, &started, "ada-work").await;
    let id = text(&started, "connection_id").to_owned();
    let named =
        |one: &Value| one["account"].is_object() || one["account_unknown_reason"].is_string();
    let first = wait_for(&user, &id, named).await;
    if first["account"].is_null() {
        return Some(format!("{slug}: {}", first["account_unknown_reason"]));
    }
    let expected = &sample["expected"]["id"];
    if first["account"]["id"] != *expected {
        return Some(format!(
            "{slug}: {} instead of {expected}",
            first["account"]
        ));
    }
    let vary = sample["vary"].as_object().unwrap();
    let is_typed = !vary.values().any(|kind| kind == "id");
    let given = if is_typed {
        parameters(&connector, sample, true)
    } else {
        given
    };
    let path = format!("/connections/{id}/reconnect");
    let started = start(&user, &path, "grace", &given).await;
    authorize(app, &connector, sample, &started, "grace").await;
    let second = wait_for(&user, &id, |one| {
        one["status"] != "connected" || one["attempt"]["outcome"] == "failed"
    })
    .await;
    (second["status_reason"] != "account_mismatch").then(|| format!("{slug}: {second:#}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_connector_detects_another_account() {
    let app = app_with_accounts().await;
    app.faults(json!({ "consent": "allow" })).await;
    let samples = samples();
    let catalog = Catalog::builtin();
    let connectable = catalog.iter().filter(|it| {
        it.provider.is_some()
            && it
                .account_rule()
                .is_some_and(AccountRule::identifies_account)
    });
    let runs = connectable.map(|it| connect_twice(&app, &it.slug, &samples[&it.slug]));
    let wrong: Vec<Option<String>> = stream::iter(runs).buffer_unordered(3).collect().await;
    assert_eq!(wrong.len(), 81);
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
