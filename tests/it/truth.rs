//! How the truth is known when something goes wrong.

mod attempts;
mod checks;
mod errors;
mod filters;
mod keys;
mod newer_nango;
mod odd_lists;
mod orphans;
mod pruning;
mod replicas;
pub(crate) mod streams;
mod waits;

use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::house::{House, User};

/// Where the sandbox's provider tells whose account it is.
const ACCOUNTS: &str = r#"
[[connector]]
slug = "gmail"
account = { id = "/raw/account/id", name = "/raw/account/name" }
"#;

async fn house_that_knows_accounts() -> (House, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), ACCOUNTS).unwrap();
    let house = House::with(&[("CATALOG_FILE", file.path().to_str().unwrap())]).await;
    (house, file)
}

fn text<'a>(body: &'a Value, field: &str) -> &'a str {
    body[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} in {body:#}"))
}

/// Waits until something that nobody asks for has come about.
pub(crate) async fn eventually(mut is: impl AsyncFnMut() -> bool) {
    for _ in 0..250 {
        if is().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("not within five seconds");
}

async fn check(user: &User<'_>, id: &str) -> Value {
    let (status, body) = user
        .call(Method::POST, &format!("/connections/{id}/check"), None)
        .await;
    assert_eq!(status, StatusCode::OK, "{body}");
    body
}

#[tokio::test]
async fn with_all_webhooks_lost_a_waiting_user_sees_the_grant() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    house
        .faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let begun = ada.connect("gmail").await;
    let path = format!("/connections/{}?wait=25", text(&begun, "connection_id"));
    let (waited, page) = tokio::join!(ada.get(&path), house.popup(text(&begun, "oauth_url")));
    assert_eq!(page.status(), StatusCode::OK);
    assert_eq!(waited["status"], "connected");
    assert_eq!(waited["attempt"]["outcome"], "succeeded");
}

#[tokio::test]
async fn with_all_webhooks_lost_and_nobody_waiting_the_sweep_finds_the_grant() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    house
        .faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let begun = ada.connect("gmail").await;
    house.popup(text(&begun, "oauth_url")).await;
    assert_eq!(house.sweep().await.found, 1);
    let mut sql = house.sql().await;
    let status: String = sqlx::query_scalar("select status from user_connector_connection")
        .fetch_one(&mut sql)
        .await
        .unwrap();
    assert_eq!(status, "connected");
    assert_eq!(house.sweep().await.found, 0);
}

#[tokio::test]
async fn another_installations_connections_do_not_keep_the_sweep_from_ours() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    house
        .faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let begun = ada.connect("gmail").await;
    house.popup(text(&begun, "oauth_url")).await;
    // Newer than ours, and more than one sweep looks into.
    for _ in 0..201 {
        let tags =
            json!({ "patchbay_attempt": Uuid::new_v4(), "patchbay_installation": Uuid::nil() });
        house.import_with(tags).await;
    }
    assert_eq!(house.sweep().await.found, 1);
    assert_eq!(house.nango_connections().await.len(), 202);
}

#[tokio::test]
async fn what_nango_no_longer_holds_is_missing_until_it_does() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    let upstream = text(&connected, "nango_connection_id");
    house.pass(TimeDelta::minutes(5));
    assert_eq!(house.sweep().await.missing, 0);
    let path = format!("/connections/{upstream}?provider_config_key=gmail");
    assert_eq!(house.nango(Method::DELETE, &path).await.0, StatusCode::OK);
    assert_eq!(house.sweep().await.missing, 1);
    let missing = ada.connection(id).await;
    assert_eq!(
        (&missing["status"], &missing["status_reason"]),
        (&json!("error"), &json!("missing_upstream"))
    );
    assert_eq!(house.sweep().await.missing, 0);

    let again = ada.connected("gmail").await;
    assert_eq!(again["id"], connected["id"]);
    assert_ne!(
        again["nango_connection_id"],
        connected["nango_connection_id"]
    );
}

#[tokio::test]
async fn a_revoked_grant_is_dead_when_the_provider_refreshes_others() {
    let house = House::new().await;
    let (ada, bob) = (house.user("ada").await, house.user("bob").await);
    let (hers, his) = (ada.connected("gmail").await, bob.connected("gmail").await);
    let id = text(&hers, "id");
    house
        .control(
            "revoke",
            Method::POST,
            json!({ "connection_id": hers["nango_connection_id"] }),
        )
        .await;
    let dead = check(&ada, id).await;
    assert_eq!(
        (&dead["status"], &dead["status_reason"]),
        (&json!("error"), &json!("needs_reauthorization"))
    );
    assert_eq!(
        bob.connection(text(&his, "id")).await["status"],
        "connected"
    );

    let (status, begun) = ada
        .call(Method::POST, &format!("/connections/{id}/reconnect"), None)
        .await;
    assert_eq!(status, StatusCode::OK, "{begun}");
    house.popup(text(&begun, "oauth_url")).await;
    let repaired = ada.until(id, "connected").await;
    assert_eq!(repaired["nango_connection_id"], hers["nango_connection_id"]);
    assert_eq!(repaired["error_count"], 0);
}

#[tokio::test]
async fn an_outage_of_the_provider_marks_none_dead_and_recovery_is_told() {
    let house = House::new().await;
    let (ada, bob) = (house.user("ada").await, house.user("bob").await);
    let hers = ada.connected("gmail").await;
    bob.connected("gmail").await;
    let id = text(&hers, "id");
    house.faults(json!({ "refuse_refresh": true })).await;
    for _ in 0..3 {
        let doubtful = check(&ada, id).await;
        assert_eq!(doubtful["status"], "connected");
        assert!(doubtful["failing_since"].is_string());
        house.pass(TimeDelta::hours(2));
    }
    house.faults(json!({})).await;
    house.sweep().await;
    let recovered = ada.connection(id).await;
    assert_eq!(recovered["failing_since"], json!(null));
    let history = ada.get(&format!("/connections/{id}/history")).await;
    let kinds: Vec<&str> = history["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| text(event, "kind"))
        .collect();
    assert_eq!(
        kinds,
        [
            "recovered",
            "credentials_failing",
            "connected",
            "attempt_started"
        ]
    );
}

#[tokio::test]
async fn a_provider_that_refreshes_nobodys_for_a_day_has_revoked_them_all() {
    let house = House::new().await;
    let hers = house.user("ada").await.connected("gmail").await;
    house.user("bob").await.connected("gmail").await;
    let id = text(&hers, "id");
    house.faults(json!({ "refuse_refresh": true })).await;
    for hours in [0, 23, 1] {
        house.pass(TimeDelta::hours(hours));
        // Hers is good for twelve hours only.
        let ada = house.user("ada").await;
        let doubtful = ada.connection(id).await;
        assert_eq!(doubtful["status"], "connected");
        check(&ada, id).await;
    }
    let dead = house.user("ada").await.connection(id).await;
    assert_eq!(
        (&dead["status"], &dead["status_reason"]),
        (&json!("error"), &json!("needs_reauthorization"))
    );
}

#[tokio::test]
async fn a_reconnect_as_another_account_waits_for_the_users_word() {
    let (house, _file) = house_that_knows_accounts().await;
    let ada = house.user("ada").await;
    let work = ada.connected("gmail").await;
    assert_eq!(work["account"]["id"], "ada-work");
    let id = text(&work, "id");
    let reconnect = json!({ "login_hint": "grace" });
    let (_, begun) = ada
        .call(
            Method::POST,
            &format!("/connections/{id}/reconnect"),
            Some(reconnect),
        )
        .await;
    house.popup(text(&begun, "oauth_url")).await;
    let refused = ada.until(id, "error").await;
    assert_eq!(refused["status_reason"], "account_mismatch");
    assert_eq!(refused["account"]["id"], "ada-work");
    assert_eq!(refused["found_account"]["id"], "grace");
    assert_eq!(refused["attempt"]["error_code"], "account_mismatch");

    let path = format!("/connections/{id}/account");
    let (status, _) = ada
        .call(
            Method::POST,
            &path,
            Some(json!({ "account_id": "ada-work" })),
        )
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, taken) = ada
        .call(Method::POST, &path, Some(json!({ "account_id": "grace" })))
        .await;
    assert_eq!(status, StatusCode::OK, "{taken}");
    assert_eq!(
        (&taken["status"], &taken["account"]["id"]),
        (&json!("connected"), &json!("grace"))
    );

    let second = "/gmail/connect?instance_id=second";
    let (_, begun) = ada
        .call(Method::POST, second, Some(json!({ "login_hint": "grace" })))
        .await;
    house.popup(text(&begun, "oauth_url")).await;
    let twice = ada.until(text(&begun, "connection_id"), "connected").await;
    assert_eq!(twice["same_account_as"], json!([id]));
}

#[tokio::test]
async fn a_reconnect_of_what_nango_has_lost_waits_for_the_users_word_too() {
    let (house, _file) = house_that_knows_accounts().await;
    let ada = house.user("ada").await;
    let work = ada.connected("gmail").await;
    let (id, lost) = (text(&work, "id"), text(&work, "nango_connection_id"));
    let path = format!("/connections/{lost}?provider_config_key=gmail");
    house.nango(Method::DELETE, &path).await;
    let path = format!("/connections/{id}/reconnect");
    let other = json!({ "login_hint": "grace" });
    let (_, begun) = ada.call(Method::POST, &path, Some(other)).await;
    house.popup(text(&begun, "oauth_url")).await;
    let refused = ada.until(id, "error").await;
    assert_eq!(refused["status_reason"], "account_mismatch");
    assert_ne!(refused["nango_connection_id"], lost);
    assert_eq!(refused["account"]["id"], "ada-work");
    assert_eq!(refused["found_account"]["id"], "grace");
}

#[tokio::test]
async fn a_key_brings_the_first_answer_again() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let send = async |key: &str, path: &str| {
        let response = reqwest::Client::builder()
            .build()
            .unwrap()
            .post(format!("{}/api/v1/connectors{path}", house.url))
            .bearer_auth(&ada.token)
            .header("idempotency-key", key)
            .send()
            .await
            .unwrap();
        (response.status(), response.json::<Value>().await.unwrap())
    };
    let first = send("k1", "/gmail/connect").await;
    assert_eq!(first.0, StatusCode::OK);
    assert_eq!(send("k1", "/gmail/connect").await, first);
    let (status, other) = send("k1", "/github/connect").await;
    assert_eq!(
        (status, text(&other, "code")),
        (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused")
    );
    let second = send("k2", "/gmail/connect").await;
    assert_ne!(second.1["attempt_id"], first.1["attempt_id"]);
}
