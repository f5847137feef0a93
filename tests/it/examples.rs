//! The examples, run as their readers would.

use std::path::PathBuf;
use std::process::Stdio;

use reqwest::Method;
use serde_json::json;
use tokio::process::Command;

use crate::house::House;

const KEY: &str = "pbk_example_0123456789abcdef0123456789abcdef";

/// How the example in Rust is started, and that in Python.
fn examples() -> [Vec<String>; 2] {
    let built: PathBuf = std::env::current_exe()
        .unwrap()
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples/workflow");
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/workflow.py");
    [
        vec![built.to_str().unwrap().to_owned()],
        vec!["python3".to_owned(), python.to_owned()],
    ]
}

async fn run(house: &House, example: &[String], account: Option<&str>) -> (Option<i32>, String) {
    let mut command = Command::new(&example[0]);
    command
        .args(&example[1..])
        .env("PATCHBAY_URL", &house.url)
        .env("PATCHBAY_KEY", KEY)
        .env("PATCHBAY_USER", "ada")
        .env(
            "PROVIDER_API",
            format!("http://{}/provider/userinfo", house.sandbox.address()),
        )
        .stdin(Stdio::null());
    if let Some(account) = account {
        command.env("ACCOUNT", account);
    }
    let output = command.output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn a_workflow_picks_an_account_uses_its_token_and_says_when_it_is_dead() {
    let house = House::with(&[("SERVICE_API_KEYS", &format!("example={KEY}"))]).await;
    let (ada, bob) = (house.user("ada").await, house.user("bob").await);
    for example in examples() {
        let (code, said) = run(&house, &example, None).await;
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("ada has not connected gmail"), "{said}");
    }

    let first = ada.connected("gmail").await;
    bob.connected("gmail").await;
    for example in examples() {
        let (code, said) = run(&house, &example, None).await;
        assert_eq!(code, Some(0), "{said}");
        assert!(
            said.contains("gmail answers ada") && said.contains("Ada Lovelace"),
            "{said}"
        );
    }

    let (_, begun) = ada
        .call(Method::POST, "/gmail/connect?instance_id=second", None)
        .await;
    house.popup(begun["oauth_url"].as_str().unwrap()).await;
    ada.until(begun["connection_id"].as_str().unwrap(), "connected")
        .await;
    for example in examples() {
        let (code, said) = run(&house, &example, None).await;
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("several accounts"), "{said}");
        assert_eq!(run(&house, &example, Some("second")).await.0, Some(0));
    }

    // The provider ends the token early: the workflow says so, and is given another.
    house
        .control(
            "expire",
            Method::POST,
            json!({ "connection_id": first["nango_connection_id"] }),
        )
        .await;
    ada.disconnect("gmail", "?instance_id=second").await;
    for example in examples() {
        assert_eq!(run(&house, &example, None).await.0, Some(0));
    }

    house
        .control(
            "revoke",
            Method::POST,
            json!({ "connection_id": first["nango_connection_id"] }),
        )
        .await;
    let (_, dead) = ada
        .call(
            Method::POST,
            &format!("/connections/{}/check", first["id"].as_str().unwrap()),
            None,
        )
        .await;
    assert_eq!(dead["status_reason"], "needs_reauthorization");
    for example in examples() {
        let (code, said) = run(&house, &example, None).await;
        assert_eq!(code, Some(2), "{said}");
        assert!(
            said.contains("needs_reauthorization") && said.contains("/reconnect"),
            "{said}"
        );
    }
}
