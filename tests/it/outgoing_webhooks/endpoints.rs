//! Messages, their recipients, and the management of endpoints.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use patchbay::domain::MessageType;
use patchbay::webhooks::Error;
use reqwest::Method;
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use tokio::process::Command;

use super::receiver::Receiver;
use super::{add, address, app, deny, end_attempt, only, text, webhooks};
use crate::eventually::eventually;
use crate::process::Process;

#[tokio::test]
async fn message_follows_standard_webhooks_and_shows_connection() {
    let app = app().await;
    let hooks = webhooks(&app).await;
    let receiver = Receiver::start();
    let (_, secret) = hooks.add(&receiver.url(), &[], false).await.unwrap();
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    eventually(async || receiver.count() == 1).await;
    let one = &receiver.received()[0];
    let library = Webhook::new(text(&secret)).unwrap();
    library.verify(one.body.as_bytes(), &one.headers).unwrap();
    assert_eq!(one.headers["content-type"], "application/json");
    assert!(
        one.body
            .starts_with(r#"{"type":"connection.connected","timestamp":"#)
    );
    assert_eq!(one.json["timestamp"], connected["updated_at"]);
    let mut expected = connected.clone();
    let (data, shown) = (
        one.json["data"].as_object().unwrap(),
        expected.as_object_mut().unwrap(),
    );
    shown.insert("version".to_owned(), data["version"].clone());
    shown.insert("change".to_owned(), json!("connected"));
    shown.insert("reason".to_owned(), Value::Null);
    // The config is the product's own data, and only sent to endpoints that request it.
    shown.remove("config");
    assert_eq!(one.json["data"], expected);
    assert!(!one.id.contains('.'));
}

#[tokio::test]
async fn messages_state_event_and_reason() {
    let app = app().await;
    let hooks = webhooks(&app).await;
    let receiver = Receiver::start();
    add(&hooks, &receiver, &[]).await;
    let ada = app.user("ada").await;
    deny(&ada, "github").await;
    eventually(async || receiver.count() == 1).await;
    let gmail = ada.connected("gmail").await;
    let id = gmail["id"].as_str().unwrap();
    eventually(async || receiver.count() == 2).await;
    // A denied reconnect: the connection remains usable.
    app.faults(json!({ "consent": "deny" })).await;
    let path = format!("/connections/{id}/reconnect");
    let (_, started) = ada.call(Method::POST, &path, None).await;
    app.popup(started["oauth_url"].as_str().unwrap()).await;
    eventually(async || receiver.count() == 3).await;
    let stored = &app.nango_connections().await[0];
    let delete = format!("/connections/{stored}?provider_config_key=gmail");
    app.nango(Method::DELETE, &delete).await;
    app.sweep_until_missing().await;
    eventually(async || receiver.count() == 4).await;
    end_attempt(&ada, "gmail").await;
    eventually(async || receiver.count() == 5).await;
    let reported: Vec<String> = receiver
        .received()
        .iter()
        .map(|one| {
            let data = &one.json["data"];
            json!([
                one.message(),
                data["connector_slug"],
                data["status"],
                data["reason"],
                data["change"]
            ])
            .to_string()
        })
        .collect();
    assert_eq!(
        reported,
        [
            r#"["connection.attempt_failed","github","error","authorization_denied","attempt_failed"]"#,
            r#"["connection.connected","gmail","connected",null,"connected"]"#,
            r#"["connection.attempt_failed","gmail","connected","authorization_denied","attempt_failed"]"#,
            r#"["connection.needs_reauthorization","gmail","error","missing_upstream","missing_upstream"]"#,
            r#"["connection.disconnected","gmail","disconnected","user_disconnected","disconnected"]"#,
        ]
    );
}

#[tokio::test]
async fn endpoint_receives_only_subscribed_new_events() {
    let app = app().await;
    let hooks = webhooks(&app).await;
    let ada = app.user("ada").await;
    ada.connected("notion").await;
    let (some, all) = (Receiver::start(), Receiver::start());
    add(
        &hooks,
        &some,
        &[MessageType::Disconnected, MessageType::AttemptFailed],
    )
    .await;
    add(&hooks, &all, &[]).await;
    ada.connected("gmail").await;
    end_attempt(&ada, "gmail").await;
    deny(&ada, "github").await;
    eventually(async || some.count() == 2 && all.count() == 3).await;
    let reported = |receiver: &Receiver| -> BTreeSet<String> {
        let received = receiver.received();
        received
            .iter()
            .map(|one| one.message().to_owned())
            .collect()
    };
    assert_eq!(
        reported(&some),
        ["connection.attempt_failed", "connection.disconnected"]
            .map(str::to_owned)
            .into()
    );
    assert!(reported(&all).contains("connection.connected"));
    // An event has the same message id at all endpoints.
    let ids = |receiver: &Receiver| -> BTreeSet<String> {
        receiver.received().into_iter().map(|one| one.id).collect()
    };
    assert!(ids(&some).is_subset(&ids(&all)));
}

#[tokio::test]
async fn both_secrets_verify_during_rotation() {
    let app = app().await;
    let hooks = webhooks(&app).await;
    let receiver = Receiver::start();
    let (id, old) = hooks.add(&receiver.url(), &[], false).await.unwrap();
    let new = hooks.rotate(&id, TimeDelta::hours(24)).await.unwrap();
    assert_ne!(text(&old), text(&new));
    let ada = app.user("ada").await;
    ada.connected("gmail").await;
    eventually(async || receiver.count() == 1).await;
    app.advance(TimeDelta::hours(25));
    let ada = app.user("ada").await;
    end_attempt(&ada, "gmail").await;
    eventually(async || receiver.count() == 2).await;
    let received = receiver.received();
    let both = [&new, &old].map(|secret| received[0].signed_with(text(secret)));
    assert_eq!(received[0].signatures(), both);
    assert_eq!(
        received[1].signatures(),
        [received[1].signed_with(text(&new))]
    );
    for secret in [&old, &new] {
        let library = Webhook::new(text(secret)).unwrap();
        library
            .verify(received[0].body.as_bytes(), &received[0].headers)
            .unwrap();
    }
}

#[tokio::test]
async fn replay_sends_events_with_original_ids() {
    let app = app().await;
    let hooks = webhooks(&app).await;
    let ada = app.user("ada").await;
    // Events before the first endpoint have no stored message.
    ada.connected("asana").await;
    let other = Receiver::start();
    add(&hooks, &other, &[]).await;
    let gmail = ada.connected("gmail").await;
    app.advance(TimeDelta::minutes(10));
    let since = app.clock.now();
    end_attempt(&ada, "gmail").await;
    let notion = ada.connected("notion").await;
    let receiver = Receiver::start();
    let id = add(&hooks, &receiver, &[]).await;
    // All of these events happened before this endpoint was added.
    let everything = since - TimeDelta::days(1);
    assert_eq!(hooks.replay(&id, everything, None).await.unwrap(), 3);
    eventually(async || receiver.count() == 3).await;
    assert_eq!(hooks.replay(&id, since, None).await.unwrap(), 2);
    eventually(async || receiver.count() == 5).await;
    let of_gmail = gmail["id"].as_str().unwrap().parse().unwrap();
    let again = hooks.replay(&id, everything, Some(of_gmail)).await;
    assert_eq!(again.unwrap(), 2);
    eventually(async || receiver.count() == 7).await;
    let ids: BTreeSet<String> = receiver.received().into_iter().map(|one| one.id).collect();
    assert_eq!(ids.len(), 3);
    // The replayed message has its original content.
    let first = receiver
        .received()
        .into_iter()
        .find(|one| one.connection() == gmail["id"] && one.message() == "connection.connected");
    assert_eq!(first.unwrap().json["data"]["status"], "connected");
    let taken = receiver.accepted();
    let kinds: Vec<&str> = taken[gmail["id"].as_str().unwrap()]
        .iter()
        .map(|(_, reported)| reported.rsplit('.').next().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "connected",
            "disconnected",
            "disconnected",
            "connected",
            "disconnected"
        ]
    );
    assert_eq!(taken[notion["id"].as_str().unwrap()].len(), 2);
    // Event types that the endpoint does not receive are not replayed, either.
    let picky = Receiver::start();
    let picky_id = add(&hooks, &picky, &[MessageType::Recovered]).await;
    assert_eq!(hooks.replay(&picky_id, everything, None).await.unwrap(), 0);
    let unknown_endpoint = hooks.replay("whe_none", everything, None).await;
    assert!(matches!(unknown_endpoint, Err(Error::NotFound(_))));
}

/// After a restore, connections repeat versions that were reported before.
#[tokio::test]
async fn message_ids_do_not_repeat_after_a_restore() {
    let app = app().await;
    let hooks = webhooks(&app).await;
    let receiver = Receiver::start();
    add(&hooks, &receiver, &[]).await;
    let ada = app.user("ada").await;
    let mut versions = Vec::new();
    for expected in [2, 4] {
        ada.connected("gmail").await;
        end_attempt(&ada, "gmail").await;
        eventually(async || receiver.count() == expected).await;
        let received = receiver.received();
        let of_half = received[expected - 2..].iter();
        versions.push(
            of_half
                .map(|one| one.json["data"]["version"].clone())
                .collect::<Vec<_>>(),
        );
        sqlx::raw_sql(
            "delete from connection_event; update user_connector_connection set version = 1; \
             alter table connection_event alter column position restart; \
             alter table webhook_delivery alter column id restart",
        )
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    }
    // The first half started with a connection that did not exist yet.
    assert!(
        versions[1]
            .iter()
            .any(|version| versions[0].contains(version)),
        "{versions:?}"
    );
    let ids: BTreeSet<String> = receiver.received().into_iter().map(|one| one.id).collect();
    assert_eq!(ids.len(), 4, "{ids:?}");
}

#[tokio::test]
async fn erased_connections_queue_is_removed_when_it_is_claimed() {
    let app = app().await;
    let hooks = webhooks(&app).await;
    let receiver = Receiver::start();
    let id = add(&hooks, &receiver, &[]).await;
    sqlx::query(
        "insert into webhook_queue (user_id, connection_id, endpoint_id, next_attempt_at) \
         values ('gone', gen_random_uuid(), $1, $2)",
    )
    .bind(&id)
    .bind(app.clock.now())
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    let mut sql = app.sql().await;
    eventually(async || {
        let left: i64 = sqlx::query_scalar("select count(*) from webhook_queue")
            .fetch_one(&mut sql)
            .await
            .unwrap();
        left == 0
    })
    .await;
    assert_eq!(receiver.count(), 0);
}

#[tokio::test]
async fn webhooks_command_manages_endpoints() {
    let app = app().await;
    let receiver = Receiver::start();
    let settings = app.settings(&[]);
    let patchbay = async |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_patchbay"))
            .arg("webhooks")
            .args(arguments)
            .env_clear()
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .output()
            .await
            .unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.success(), said[0].clone(), said[1].clone())
    };
    let url = receiver.url();
    let (ok, said, reported) =
        patchbay(&["add", url.as_str(), "--event", "connection.disconnected"]).await;
    assert!(ok, "{reported}");
    let (id, secret) = said.trim().split_once('\n').unwrap();
    assert!(secret.starts_with("whsec_"));
    receiver.verify_with(&secret.to_owned().into());
    let (_, list, _) = patchbay(&["list"]).await;
    assert_eq!(
        list,
        format!("{id}  {url}  connection.disconnected  on  0 waiting\n")
    );
    assert!(!list.contains(secret));
    let (ok, said, _) = patchbay(&["test", id]).await;
    assert!(ok);
    assert_eq!(said, "the endpoint returned 204\n");
    assert_eq!(receiver.received()[0].message(), "patchbay.test");

    patchbay(&["disable", id]).await;
    let ada = app.user("ada").await;
    ada.connected("gmail").await;
    end_attempt(&ada, "gmail").await;
    let (_, list, _) = patchbay(&["list"]).await;
    assert!(list.contains("switched off by hand  1 waiting"), "{list}");
    patchbay(&["enable", id]).await;
    // The command uses the system's clock, which is ahead of the test app's by now.
    app.advance(TimeDelta::minutes(1));
    eventually(async || receiver.received().len() == 2).await;
    let (ok, _, _) = patchbay(&["replay", id, "--since", "2020-01-01"]).await;
    assert!(ok);
    app.advance(TimeDelta::minutes(1));
    eventually(async || receiver.received().len() == 3).await;
    let (_, shown, _) = patchbay(&["deliveries", id, "--limit", "1"]).await;
    assert!(shown.contains("connection.disconnected"), "{shown}");
    assert_eq!(shown.lines().count(), 1);
    let (_, failed, _) = patchbay(&["deliveries", "--failed"]).await;
    assert_eq!(failed, "");
    let (_, rotated, _) = patchbay(&["rotate", id, "--grace-hours", "0"]).await;
    assert_ne!(rotated.trim(), secret);
    let (ok, _, said) = patchbay(&["test", id]).await;
    assert!(!ok && said.contains("the endpoint returned 401"), "{said}");
    let (ok, _, _) = patchbay(&["remove", id]).await;
    assert!(ok);
    let (ok, _, said) = patchbay(&["remove", id]).await;
    assert!(!ok && said.contains("there is no endpoint"), "{said}");
    let (ok, _, said) = patchbay(&["add", "https://10.0.0.1/"]).await;
    assert!(!ok && said.contains("WEBHOOK_ALLOWED_NETWORKS"), "{said}");
}

#[tokio::test]
async fn endpoint_without_scheme_is_rejected_with_an_example() {
    let mut process = Process::start(&["webhooks", "add", "hooks.example.com"], &[]);
    assert_eq!(process.ended().await.code(), Some(2));
    let output = process.output();
    assert!(output.contains("such as https://"), "{output}");
}

#[tokio::test]
async fn removed_endpoint_drops_pending_messages() {
    let app = app().await;
    let hooks = webhooks(&app).await;
    let (id, _) = hooks
        .add(&address("http://127.0.0.1:9/nobody"), &[], false)
        .await
        .unwrap();
    app.user("ada").await.connected("gmail").await;
    assert_eq!(only(&hooks).await.waiting, 1);
    hooks.remove(&id).await.unwrap();
    let left: (i64, i64) = sqlx::query_as(
        "select (select count(*) from webhook_queue), (select count(*) from webhook_delivery)",
    )
    .fetch_one(&mut app.sql().await)
    .await
    .unwrap();
    assert_eq!(left, (0, 0));
}

#[tokio::test]
async fn messages_are_stored_for_endpoints_that_exist_only() {
    let app = app().await;
    let hooks = webhooks(&app).await;
    let ada = app.user("ada").await;
    let mut sql = app.sql().await;
    let mut stored = async || -> Vec<String> {
        let kinds = "select kind from connection_event where webhook is not null order by id";
        sqlx::query_scalar(kinds).fetch_all(&mut sql).await.unwrap()
    };
    let gmail = ada.connected("gmail").await;
    assert_eq!(stored().await, [""; 0]);
    let picky = [MessageType::Disconnected];
    let (id, _) = hooks
        .add(&address("http://127.0.0.1:9/"), &picky, false)
        .await
        .unwrap();
    ada.connected("notion").await;
    assert_eq!(stored().await, [""; 0]);
    // Messages for a disabled endpoint are stored, too.
    hooks.disable(&id).await.unwrap();
    end_attempt(&ada, "gmail").await;
    assert_eq!(stored().await, ["disconnected"]);
    hooks.remove(&id).await.unwrap();
    let path = format!("/connections/{}/history", gmail["id"].as_str().unwrap());
    let history = ada.get(&path).await;
    assert_eq!(history["events"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn config_is_sent_to_endpoints_that_ask_for_it() {
    let app = app().await;
    let hooks = webhooks(&app).await;
    let (with, without) = (Receiver::start(), Receiver::start());
    add(&hooks, &without, &[]).await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    let connect = async |connector: &str| {
        let body = json!({ "config": { "team": "blue", "ratio": 1.50 } });
        let path = format!("/{connector}/connect?instance_id=second");
        let (_, started) = ada.call(Method::POST, &path, Some(body)).await;
        app.popup(started["oauth_url"].as_str().unwrap()).await;
        ada.wait_until(started["connection_id"].as_str().unwrap(), "connected")
            .await
    };
    connect("gmail").await;
    eventually(async || without.count() == 1).await;
    let (id, secret) = hooks.add(&with.url(), &[], true).await.unwrap();
    with.verify_with(&secret);
    let shown = connect("notion").await["config"].clone();
    assert_eq!(shown["instance_id"], "second");
    eventually(async || without.count() == 2 && with.count() == 1).await;
    assert_eq!(with.received()[0].json["data"]["config"], shown);
    assert!(
        without
            .received()
            .iter()
            .all(|one| one.json["data"].get("config").is_none())
    );
    // Replayed messages are unchanged.
    let everything = app.clock.now() - TimeDelta::days(1);
    assert_eq!(hooks.replay(&id, everything, None).await.unwrap(), 2);
    eventually(async || with.count() == 3).await;
    let configs: Vec<bool> = with.received()[1..]
        .iter()
        .map(|one| one.json["data"]["config"] == shown)
        .collect();
    assert_eq!(configs.iter().filter(|config| **config).count(), 1);
    let listed = hooks.list().await.unwrap();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|one| one.with_config == (one.id == id)));
}

#[tokio::test]
async fn disabled_endpoint_is_listed_as_json_and_counted() {
    let app = app().await;
    let hooks = webhooks(&app).await;
    let receiver = Receiver::start();
    let id = add(&hooks, &receiver, &[]).await;
    receiver.answers(|_| reqwest::StatusCode::GONE);
    app.user("ada").await.connected("gmail").await;
    eventually(async || only(&hooks).await.off.is_some()).await;
    let output = Command::new(env!("CARGO_BIN_EXE_patchbay"))
        .args(["webhooks", "list", "--json"])
        .env_clear()
        .envs(app.settings(&[]))
        .output()
        .await
        .unwrap();
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let one = &listed[0];
    assert_eq!(one["id"], json!(id));
    assert_eq!(one["state"], "disabled");
    assert_eq!(one["disabled_reason"], "the endpoint returned 410 Gone");
    assert!(one["disabled_at"].is_string());
    let service = app.service().await;
    let mut metrics = String::new();
    prometheus_client::encoding::text::encode(&mut metrics, &service.statistics.metrics().await)
        .unwrap();
    assert!(
        metrics.contains("patchbay_webhook_endpoints{state=\"disabled\"} 1"),
        "{metrics}"
    );
}
