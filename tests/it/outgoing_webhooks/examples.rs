//! The examples of outgoing webhooks in the OpenAPI document, recorded by a receiver.

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::receiver::{Received, Receiver};
use super::{ALLOWED, add, deny, end_attempt, webhooks};
use crate::api::openapi::examples::{Normalizer, compare};
use crate::eventually::eventually;
use crate::test_app::TestApp;

#[tokio::test]
async fn examples_of_webhooks_are_real_messages() {
    let app = TestApp::with(&ALLOWED).await;
    let hooks = webhooks(&app).await;
    let receiver = Receiver::start();
    let endpoint = add(&hooks, &receiver, &[]).await;
    let ada = app.user("ada").await;
    let gmail = ada.connected("gmail").await;
    eventually(async || receiver.count() == 1).await;
    let check = format!("/connections/{}/check", gmail["id"].as_str().unwrap());
    app.faults(json!({ "refuse_refresh": true })).await;
    ada.call(Method::POST, &check, None).await;
    app.faults(json!({})).await;
    ada.call(Method::POST, &check, None).await;
    eventually(async || receiver.count() == 2).await;
    let stored = &app.nango_connections().await[0];
    let delete = format!("/connections/{stored}?provider_config_key=gmail");
    app.nango(Method::DELETE, &delete).await;
    assert_eq!(app.sweep_until_missing().await, 1);
    eventually(async || receiver.count() == 3).await;
    end_attempt(&ada, "gmail").await;
    eventually(async || receiver.count() == 4).await;
    deny(&ada, "github").await;
    eventually(async || receiver.count() == 5).await;
    assert_eq!(hooks.test(&endpoint).await.unwrap(), Ok(204));
    let mut normalizer = Normalizer::new(&app);
    let mut examples = Map::new();
    for Received { body, json, .. } in receiver.received() {
        // Parsing keeps one of two fields of the same name.
        assert_eq!(json.to_string().len(), body.len(), "{body}");
        let mut example = json.clone();
        normalizer.normalize(&mut example);
        if example["data"]["endpoint"] == endpoint {
            example["data"]["endpoint"] = json!("whe_0123456789ab");
        }
        examples.insert(json["type"].as_str().unwrap().to_owned(), example);
    }
    compare("webhook_examples.json", &Value::Object(examples));
}
