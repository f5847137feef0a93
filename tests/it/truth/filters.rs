//! A Nango whose list of connections takes no account of its filters.

use chrono::TimeDelta;
use nango_sandbox::Integration;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{eventually, text};
use crate::house::{AT_ONCE, House, User};

/// A user's connection to Gmail with the faults that come after it.
async fn connected(user: &User<'_>) -> (String, Value) {
    let gmail = user.connected("gmail").await;
    (text(&gmail, "nango_connection_id").to_owned(), gmail)
}

async fn ignore_filters(house: &House, others: Value) {
    let mut faults = json!({ "consent": "allow", "ignore_filters": true });
    for (name, value) in others.as_object().unwrap() {
        faults[name] = value.clone();
    }
    house.faults(faults).await;
}

#[tokio::test]
async fn erasure_deletes_nothing_of_others() {
    let house = House::new().await;
    let (ada, bob) = (house.user("ada").await, house.user("bob").await);
    let (_, hers) = connected(&ada).await;
    let (his, of_bob) = connected(&bob).await;
    // Of another product in the same environment, and of another installation of this one.
    house.import_with(json!({})).await;
    house
        .import_with(json!({ "end_user_id": "ada", "patchbay_installation": uuid::Uuid::new_v4() }))
        .await;
    // A grant of hers that no row knows goes, too.
    let unheard = json!({ "consent": "allow", "drop_webhooks": true });
    house.faults(unheard).await;
    let begun = ada.connect("github").await;
    house.popup(text(&begun, "oauth_url")).await;
    assert_eq!(house.nango_connections().await.len(), 5);
    ignore_filters(&house, json!({})).await;
    let user = "ada".to_owned().try_into().unwrap();
    let erased = house.service().await.erase(&user).await.unwrap();
    assert_eq!((erased.connections, erased.confirmed), (2, true));
    house.faults(json!({})).await;
    let left = house.nango_connections().await;
    assert_eq!(left.len(), 3);
    assert!(left.contains(&his) && !left.contains(&text(&hers, "nango_connection_id").to_owned()));
    assert_eq!(
        bob.connection(text(&of_bob, "id")).await["status"],
        "connected"
    );
    let queued: i64 = sqlx::query_scalar("select count(*) from upstream_deletion")
        .fetch_one(&mut house.sql().await)
        .await
        .unwrap();
    assert_eq!(queued, 0);
}

#[tokio::test]
async fn erasure_leaves_what_another_users_row_uses() {
    let house = House::new().await;
    let (ada, bob) = (house.user("ada").await, house.user("bob").await);
    ada.connected("gmail").await;
    let (his, _) = connected(&bob).await;
    // Nango has the connection of his row under her name.
    let tags = json!({ "tags": { "end_user_id": "ada", "patchbay_installation": installation(&house).await } });
    let url = format!(
        "http://{}/connections/{his}?provider_config_key=gmail",
        house.sandbox.address()
    );
    let patched = house.client.patch(url).bearer_auth(&house.secret_key);
    assert_eq!(patched.json(&tags).send().await.unwrap().status(), 200);
    let user = "ada".to_owned().try_into().unwrap();
    house.service().await.erase(&user).await.unwrap();
    house.until_nango_holds(&[&his]).await;
}

async fn installation(house: &House) -> String {
    sqlx::query_scalar("select id::text from installation")
        .fetch_one(&mut house.sql().await)
        .await
        .unwrap()
}

#[tokio::test]
async fn grants_and_denials_are_those_of_their_attempt() {
    let house = House::new().await;
    let (ada, bob) = (house.user("ada").await, house.user("bob").await);
    let (his, _) = connected(&bob).await;
    // A webhook of any grant would make an orphan of ours be deleted without its grace.
    let (orphan, _) = connected(&house.user("cem").await).await;
    sqlx::query("delete from user_connector_connection where user_id = 'cem'")
        .execute(&mut house.sql().await)
        .await
        .unwrap();
    ignore_filters(&house, json!({ "consent": "deny" })).await;
    let begun = ada.connect("gmail").await;
    house.popup(text(&begun, "oauth_url")).await;
    let id = text(&begun, "connection_id");
    assert_eq!(
        ada.until(id, "error").await["status_reason"],
        "authorization_denied"
    );
    ignore_filters(&house, json!({})).await;
    let begun = ada.connect("gmail").await;
    house.popup(text(&begun, "oauth_url")).await;
    let hers = ada.until(id, "connected").await["nango_connection_id"].clone();
    house.service().await.delete_due().await.unwrap();
    house.faults(json!({})).await;
    let held = house.nango_connections().await;
    assert_eq!(held, [hers.as_str().unwrap(), &orphan, &his]);
}

#[tokio::test]
async fn connection_that_is_gone_is_missing_though_others_are_listed() {
    let house = House::new().await;
    let (ada, bob) = (house.user("ada").await, house.user("bob").await);
    let (held, gmail) = connected(&ada).await;
    let (_, his) = connected(&bob).await;
    let path = format!("/connections/{held}?provider_config_key=gmail");
    house.nango(Method::DELETE, &path).await;
    ignore_filters(&house, json!({})).await;
    house.pass(TimeDelta::minutes(2));
    assert_eq!(house.sweep().await.missing, 1);
    let gone = ada.connection(text(&gmail, "id")).await;
    assert_eq!(gone["status_reason"], "missing_upstream");
    let his = bob.connection(text(&his, "id")).await;
    assert_eq!(his["status"], "connected");
}

#[tokio::test]
async fn deletion_asks_for_no_connection_but_its_own() {
    let house = House::build(&[], |nango| {
        let gmail = (nango.integrations.iter()).find(|one| one.unique_key == "gmail");
        let production = Integration {
            unique_key: "gmail-production".to_owned(),
            ..gmail.unwrap().clone()
        };
        nango.integrations.push(production);
    })
    .await;
    let (ada, bob) = (house.user("ada").await, house.user("bob").await);
    let (held, _) = connected(&ada).await;
    bob.connected("github").await;
    // An import under her connection's id, of somebody else's, in another integration.
    let body = json!({
        "provider_config_key": "gmail-production", "connection_id": held,
        "credentials": { "type": "OAUTH2", "access_token": "imported" },
        "tags": { "patchbay_installation": uuid::Uuid::new_v4() },
    });
    house.import(body).await;
    let path = format!("/connections/{held}?provider_config_key=gmail");
    house.nango(Method::DELETE, &path).await;
    ignore_filters(&house, json!({})).await;
    let before = house.nango_calls("DELETE", "/connections/").await;
    let (_, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(ended["upstream_deleted"], true);
    eventually(async || house.nango_calls("DELETE", "/connections/").await > before).await;
    assert_eq!(
        house.nango_calls("DELETE", "/connections/").await,
        before + 1
    );
    house.faults(json!({})).await;
    assert_eq!(house.nango_connections().await.len(), 2);
}

#[tokio::test]
async fn sweep_ends_when_pages_do_not() {
    let house = House::new().await;
    let (_, gmail) = connected(&house.user("ada").await).await;
    for _ in 0..20 {
        futures::future::join_all((0..50).map(|_| house.import_with(json!({})))).await;
    }
    house.pass(TimeDelta::minutes(5));
    house.faults(json!({ "list_ignores_page": true })).await;
    let service = house.service().await;
    let stop = CancellationToken::new();
    let swept = tokio::time::timeout(crate::house::PROMPTLY, service.sweep(AT_ONCE, &stop));
    assert!(swept.await.expect("it comes to its end").is_err());
    let ada = house.user("ada").await;
    let kept = ada.connection(text(&gmail, "id")).await;
    assert_eq!(kept["status"], "connected");
}
