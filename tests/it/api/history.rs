//! The history of a connection: the actor, the account's name at that time, and the old and new label of a rename.

use serde_json::{Value, json};

use super::text;
use crate::reliability::app_with_accounts;
use crate::test_app::{TestApp, User};

async fn newest(user: &User<'_>, id: &str) -> Value {
    let history = user.get(&format!("/connections/{id}/history")).await;
    history["events"][0].clone()
}

#[tokio::test]
async fn rename_says_from_and_to() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let id = text(&ada.connected("gmail").await, "id");
    ada.send_patch(&id, json!({ "label": "Work" })).await;
    let named = newest(&ada, &id).await;
    assert_eq!(
        (&named["kind"], &named["actor"], &named["rename"]),
        (
            &json!("updated"),
            &json!("user"),
            &json!({ "from": null, "to": "Work" })
        )
    );
    // A later rename within a minute joins the event, which keeps the first old label and the last new one.
    ada.send_patch(&id, json!({ "label": "Job" })).await;
    ada.send_patch(&id, json!({ "config": { "a": 1 } })).await;
    assert_eq!(
        newest(&ada, &id).await["rename"],
        json!({ "from": null, "to": "Job" })
    );
    app.advance(chrono::TimeDelta::minutes(2));
    ada.send_patch(&id, json!({ "config": { "a": 2 } })).await;
    assert_eq!(newest(&ada, &id).await["rename"], json!(null));
    // A rename that joins a change of the config.
    ada.send_patch(&id, json!({ "label": null })).await;
    assert_eq!(
        newest(&ada, &id).await["rename"],
        json!({ "from": "Job", "to": null })
    );
}

#[tokio::test]
async fn events_have_actor_and_account_name_of_their_time() {
    let (app, _file) = app_with_accounts(&[]).await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    let account = text(&connected["account"], "name");
    ada.disconnect("gmail", "").await;
    let history = ada.get(&format!("/connections/{id}/history")).await;
    let reported: Vec<(&Value, &Value, &Value)> = history["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (&event["kind"], &event["actor"], &event["account"]))
        .collect();
    let account = json!(account);
    assert_eq!(
        reported,
        [
            (&json!("disconnected"), &json!("user"), &account),
            (&json!("connected"), &json!("user"), &account),
            (&json!("attempt_started"), &json!("user"), &json!(null)),
        ]
    );
}

#[tokio::test]
async fn service_and_system_are_told_from_the_user() {
    let key = "pbk_workflow_0123456789abcdef0123456789abcdef";
    let app = TestApp::with(&[("SERVICE_API_KEYS", &format!("workflow={key}"))]).await;
    let ada = app.user("ada").await;
    let started: Value = app
        .client
        .post(format!("{}/api/v1/connectors/gmail/connect", app.url))
        .bearer_auth(key)
        .header("patchbay-user", "ada")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let id = text(&started, "connection_id");
    assert_eq!(newest(&ada, &id).await["actor"], "service");
    app.advance(chrono::TimeDelta::minutes(31));
    app.service().await.expiry.run().await.unwrap();
    ada.wait_until(&id, "error").await;
    let expired = newest(&ada, &id).await;
    assert_eq!(
        (&expired["kind"], &expired["actor"]),
        (&json!("attempt_failed"), &json!("system"))
    );
}
