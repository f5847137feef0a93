//! What Nango holds that no row knows, and listings that break.

use chrono::TimeDelta;
use futures::future::join_all;
use nango_sandbox::Integration;
use patchbay::domain::UserId;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{eventually, text};
use crate::house::{AT_ONCE, House};

/// A connection of ours at Nango, of which the table has forgotten everything.
async fn orphan(house: &House) -> String {
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    // A webhook that came later would tell of it.
    eventually(async || {
        let hooks = house.control("webhooks", Method::GET, Value::Null).await;
        let mut hooks = hooks.as_array().unwrap().iter();
        hooks.all(|hook| hook["attempts"][0]["status"] == 204)
    })
    .await;
    sqlx::query("delete from user_connector_connection")
        .execute(&mut house.sql().await)
        .await
        .unwrap();
    text(&connected, "nango_connection_id").to_owned()
}

#[tokio::test]
async fn an_orphan_of_ours_is_deleted_after_an_hours_grace() {
    let house = House::new().await;
    orphan(&house).await;
    house.pass(TimeDelta::minutes(59));
    assert_eq!(house.sweep().await.orphans, 0);
    house.pass(TimeDelta::minutes(1));
    assert_eq!(house.sweep().await.orphans, 1);
    house.service().await.delete_due().await.unwrap();
    assert_eq!(house.nango_connections().await, [""; 0]);
}

#[tokio::test]
async fn what_an_erased_users_open_attempt_brings_about_is_deleted_at_once() {
    let house = House::new().await;
    house.faults(json!({ "consent": "allow" })).await;
    let begun = house.user("ada").await.connect("gmail").await;
    let ada = UserId::try_from("ada".to_owned()).unwrap();
    let erased = house.service().await.erase(&ada).await.unwrap();
    assert_eq!((erased.connections, erased.confirmed), (1, true));
    house.popup(text(&begun, "oauth_url")).await;
    eventually(async || house.nango_calls("DELETE", "/connections/").await > 0).await;
    house.until_nango_holds(&[]).await;
}

#[tokio::test]
async fn what_another_installation_or_a_stranger_has_at_nango_is_left_alone() {
    let house = House::new().await;
    let theirs = orphan(&house).await;
    house.import_with(json!({ "end_user_id": "ada" })).await;
    let before = house.nango_connections().await;
    assert!(before.len() == 2 && before.contains(&theirs));
    sqlx::query("update installation set id = gen_random_uuid()")
        .execute(&mut house.sql().await)
        .await
        .unwrap();
    let installed_later = house.service().await;
    house.pass(TimeDelta::hours(3));
    let stop = CancellationToken::new();
    let swept = installed_later.sweep(AT_ONCE, &stop).await.unwrap();
    let swept = swept.unwrap();
    assert_eq!((swept.listed, swept.orphans, swept.found), (2, 0, 0));
    installed_later.delete_due().await.unwrap();
    assert_eq!(house.nango_connections().await, before);
}

#[tokio::test]
async fn a_copy_of_the_database_deletes_nothing_of_the_originals() {
    let house = House::new().await;
    let theirs = orphan(&house).await;
    house.pass(TimeDelta::hours(3));
    let elsewhere = [("PUBLIC_URL", "https://staging.example.com")];
    let copy = house.service_with(&elsewhere).await;
    let swept = copy.sweep(AT_ONCE, &CancellationToken::new()).await;
    assert_eq!(swept.unwrap().unwrap().orphans, 0);
    copy.delete_due().await.unwrap();
    assert_eq!(house.nango_connections().await, [theirs]);
    assert_eq!(house.sweep().await.orphans, 1);
}

#[tokio::test]
async fn a_listing_that_breaks_on_its_second_page_changes_nothing() {
    let house = House::new().await;
    let (ada, bob) = (house.user("ada").await, house.user("bob").await);
    let (hers, his) = (ada.connected("gmail").await, bob.connected("gmail").await);
    house.pass(TimeDelta::minutes(5));
    // Newer connections, of somebody else, fill the first page.
    for _ in 0..20 {
        join_all((0..50).map(|_| house.import_with(json!({})))).await;
    }
    let gone = text(&hers, "nango_connection_id");
    let path = format!("/connections/{gone}?provider_config_key=gmail");
    house.nango(Method::DELETE, &path).await;

    let faults = json!({ "status": 500, "only": "page=1" });
    house.faults(faults).await;
    let stop = CancellationToken::new();
    let broken = house.service().await.sweep(AT_ONCE, &stop).await;
    assert!(broken.is_err(), "{broken:?}");
    for (user, connection) in [(&ada, &hers), (&bob, &his)] {
        let now = user.connection(text(connection, "id")).await;
        assert_eq!(now["status"], "connected");
    }

    house.faults(json!({})).await;
    let swept = house.sweep().await;
    assert_eq!((swept.listed, swept.missing, swept.orphans), (1001, 1, 0));
    assert_eq!(
        ada.connection(text(&hers, "id")).await["status_reason"],
        "missing_upstream"
    );
    assert_eq!(
        bob.connection(text(&his, "id")).await["status"],
        "connected"
    );
}

#[tokio::test]
async fn one_connection_that_nango_cannot_answer_for_does_not_end_the_sweep() {
    let house = House::new().await;
    let (ada, bob) = (house.user("ada").await, house.user("bob").await);
    let revoked = ada.connected("github").await;
    bob.connected("github").await;
    let unanswered = ada.connected("gmail").await;
    house.faults(json!({ "drop_webhooks": true })).await;
    for (connection, key) in [(&revoked, "github"), (&unanswered, "gmail")] {
        let nango_id = text(connection, "nango_connection_id");
        let body = json!({ "connection_id": nango_id });
        house.control("revoke", Method::POST, body).await;
        let path = format!("/connections/{nango_id}?provider_config_key={key}&force_refresh=true");
        assert_ne!(house.nango(Method::GET, &path).await.0, StatusCode::OK);
    }
    house.pass(TimeDelta::minutes(5));
    let faults = json!({ "status": 500, "only": "provider_config_key=gmail" });
    house.faults(faults).await;
    assert_eq!(house.sweep().await.checked, 1);
    let status = async |connection| ada.connection(text(connection, "id")).await["status"].clone();
    assert_eq!(status(&revoked).await, "error");
    assert_eq!(status(&unanswered).await, "connected");
}

#[tokio::test]
async fn a_connection_of_an_integration_that_was_exchanged_is_not_missing_and_is_deleted_where_it_is()
 {
    let house = House::build(&[], |nango| {
        let gmail = (nango.integrations.iter()).find(|one| one.unique_key == "gmail");
        let production = Integration {
            unique_key: "gmail-production".to_owned(),
            ..gmail.unwrap().clone()
        };
        nango.integrations.push(production);
    })
    .await;
    let connected = house.user("ada").await.connected("gmail").await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let changed = "[[connector]]\nslug = \"gmail\"\nintegration_key = \"gmail-production\"\n";
    std::fs::write(file.path(), changed).unwrap();
    let catalog = file.path().to_str().unwrap();
    let restarted = house.replica(&[("CATALOG_FILE", catalog)]).await;
    let ada = house.user("ada").await;
    let ada = ada.at(&restarted);
    let id = text(&connected, "id");
    let check = format!("/connections/{id}/check");
    let (status, told) = ada.call(Method::POST, &check, None).await;
    assert_eq!(
        (status, text(&told, "code")),
        (StatusCode::BAD_GATEWAY, "nango_error")
    );
    assert_eq!(ada.connection(id).await["status"], "connected");
    let (_, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(ended["upstream_deleted"], true);
    assert_eq!(house.nango_connections().await, [""; 0]);
}
