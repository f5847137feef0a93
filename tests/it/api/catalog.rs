//! The catalog's endpoints, with Nango's integrations and the operator's file.

use std::path::PathBuf;
use std::process::Output;

use insta::assert_snapshot;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::process::Command;
use uuid::Uuid;

use super::text;
use crate::eventually::eventually_value;
use crate::test_app::TestApp;

fn slugs(body: &Value) -> Vec<String> {
    let connectors = body["connectors"].as_array().unwrap();
    connectors.iter().map(|one| text(one, "slug")).collect()
}

#[tokio::test]
async fn catalog_pagination_has_no_gaps_or_duplicates() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let whole = ada.get("").await;
    let all = slugs(&whole);
    assert_eq!(all.len(), 99);
    assert_eq!(
        (&whole["total_count"], &whole["next_cursor"]),
        (&json!(99), &json!(null))
    );

    // 99 is three full pages of 33, the last of which has no successor.
    for limit in [1, 10, 33, 98, 99, 200] {
        let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = ada.get(&format!("?limit={limit}{cursor}")).await;
            seen.extend(slugs(&page));
            pages += 1;
            assert_eq!(page["total_count"], 99);
            assert_eq!(page["categories"], whole["categories"]);
            match page["next_cursor"].as_str() {
                Some(next) => {
                    assert!(uuid::Uuid::try_parse(next).is_ok(), "{next} is an id");
                    cursor = format!("&cursor={next}");
                }
                None => break,
            }
        }
        assert_eq!((&seen, pages), (&all, 99_usize.div_ceil(limit)), "{limit}");
    }
}

#[tokio::test]
async fn catalog_supports_search_and_filters() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    assert_eq!(slugs(&ada.get("?search=GMail").await), ["gmail"]);
    assert_eq!(
        slugs(
            &ada.get("?search=google&category=calendar%20%26%20scheduling")
                .await
        ),
        ["google-calendar"]
    );
    let none = ada.get("?search=nothing-has-this-name").await;
    assert_eq!((slugs(&none).len(), &none["total_count"]), (0, &json!(0)));
    let whole = ada.get("").await;
    assert_eq!(none["categories"], whole["categories"]);
    assert_eq!(slugs(&ada.get("?unknown=x&page=7").await).len(), 99);

    let refused = ada.send_get("?search=google&cursor=github").await;
    assert_snapshot!(refused, @r#"
    400 Bad Request
    {
      "code": "invalid_request",
      "detail": "cursor does not belong to this list",
      "request_id": "[id]",
      "status": 400,
      "title": "The request is not valid",
      "type": "urn:patchbay:problem:invalid_request"
    }
    "#);
    for query in [
        "limit=0",
        "limit=201",
        "limit=-1",
        "limit=many",
        "cursor=nope",
        "limit=1&limit=2",
    ] {
        let answer = ada.send_get(&format!("?{query}")).await;
        answer.is_problem(400, "invalid_request");
    }
}

#[tokio::test]
async fn connector_is_found_by_slug_and_by_id() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let gmail = ada.send_get("/gmail").await;
    assert_snapshot!(gmail, @r#"
    200 OK
    {
      "account_kind": null,
      "auth_mode": "OAUTH2",
      "available": true,
      "category": "Communication",
      "configured": true,
      "enabled": true,
      "id": "2ca8a1b8-0995-578b-b87c-dc39f677e722",
      "identifies_account": false,
      "integration_key": "gmail",
      "listed": true,
      "logo_url": "http://127.0.0.1/api/v1/connectors/gmail/logo",
      "name": "Gmail",
      "parameters": [],
      "provider": "google-mail",
      "slug": "gmail",
      "unavailable_reason": null
    }
    "#);
    let by_id = ada
        .send_get(&format!("/{}", text(&gmail.json(), "id")))
        .await;
    assert_eq!(by_id.json(), gmail.json());
    assert_snapshot!(ada.send_get("/no-such-thing").await, @r#"
    404 Not Found
    {
      "code": "connector_not_found",
      "detail": "there is no connector \"no-such-thing\"",
      "request_id": "[id]",
      "status": 404,
      "title": "There is no such connector",
      "type": "urn:patchbay:problem:connector_not_found"
    }
    "#);
    for other in [&Uuid::new_v4().to_string(), "GMAIL", "%00", "..%2F"] {
        let answer = ada.send_get(&format!("/{other}")).await;
        answer.is_problem(404, "connector_not_found");
    }
    ada.send_get("/%FF")
        .await
        .is_problem(400, "invalid_request");
}

#[tokio::test]
async fn connector_is_unconfigured_until_nango_has_integration() {
    let app = TestApp::build(&[], |nango| {
        nango.integrations.retain(|one| one.unique_key != "github");
    })
    .await;
    let ada = app.user("ada").await;
    assert_eq!(ada.get("/github").await["configured"], false);
    assert_eq!(ada.get("/gmail").await["configured"], true);
    let refused = ada.send_post("/github/connect", json!({})).await;
    assert_snapshot!(refused, @r#"
    409 Conflict
    {
      "code": "connector_not_configured",
      "detail": "GitHub is not set up yet: Nango has no integration \"github\"",
      "request_id": "[id]",
      "status": 409,
      "title": "The connector is not set up",
      "type": "urn:patchbay:problem:connector_not_configured"
    }
    "#);
    assert_eq!(ada.count().await, 0);

    let added = app
        .client
        .post(format!("http://{}/integrations", app.sandbox.address()))
        .bearer_auth(&app.secret_key)
        .json(&json!({
            "provider": "mock-oauth2", "unique_key": "github",
            "credentials": { "type": "OAUTH2", "client_id": "id", "client_secret": "secret" },
        }))
        .send()
        .await
        .unwrap();
    assert_eq!(added.status(), StatusCode::OK);
    let connect = async || ada.call(Method::POST, "/github/connect", None).await.0;
    let status = eventually_value(connect, |status| *status != StatusCode::CONFLICT).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(ada.get("/github").await["configured"], true);
}

#[tokio::test]
async fn catalog_answers_with_one_nango_call_when_nango_hangs() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "latency_ms": 60_000 })).await;
    let before = app.nango_calls("GET", "/integrations").await;
    let gets = futures::future::join_all((0..6).map(|_| ada.get("/gmail"))).await;
    assert!(gets.iter().all(|one| one["configured"].is_null()));
    // All requests share one call.
    let calls = app.nango_calls("GET", "/integrations").await - before;
    assert_eq!(calls, 1);
}

#[tokio::test]
async fn unavailable_connectors_are_listed_but_rejected() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let all = ada.get("").await;
    let unavailable: Vec<&Value> = all["connectors"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["available"] == false)
        .collect();
    assert_eq!(unavailable.len(), 15);
    for connector in &unavailable {
        let name = text(connector, "name");
        let reason = text(connector, "unavailable_reason");
        assert_eq!(reason, "Not available yet", "{name}");
        let slug = text(connector, "slug");
        let answer = ada.send_post(&format!("/{slug}/connect"), json!({})).await;
        let body = answer.is_problem(409, "connector_unavailable");
        assert_eq!(body["detail"], reason);
        let answer = ada.send_delete(&format!("/{slug}/disconnect")).await;
        answer.is_problem(404, "connection_not_found");
    }
    assert_snapshot!(ada.send_post("/cohere/connect", json!({})).await, @r#"
    409 Conflict
    {
      "code": "connector_unavailable",
      "detail": "Not available yet",
      "request_id": "[id]",
      "status": 409,
      "title": "The connector cannot be connected",
      "type": "urn:patchbay:problem:connector_unavailable"
    }
    "#);
    assert_eq!(ada.count().await, 0);
}

/// A catalog file of a test, which is removed when the value is dropped.
struct CatalogFile(PathBuf);

impl CatalogFile {
    fn new(text: &str) -> Self {
        let name = format!("catalog-{}.toml", Uuid::new_v4());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for CatalogFile {
    fn drop(&mut self) {
        // A file left behind in `target` is harmless.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn catalog_file_disables_and_adds_connectors() {
    let file = CatalogFile::new(
        "[[connector]]\nslug = \"gmail\"\nenabled = false\n\n\
         [[connector]]\nslug = \"intranet\"\nname = \"Our intranet\"\ncategory = \"Ours\"\n\
         provider = \"github\"\nintegration_key = \"intranet-key\"\nauth_mode = \"OAUTH2\"\n",
    );
    let app = TestApp::with(&[("CATALOG_FILE", file.path())]).await;
    let ada = app.user("ada").await;
    assert_eq!(ada.get("").await["total_count"], 100);
    let gmail = ada.get("/gmail").await;
    assert_eq!(
        (&gmail["enabled"], &gmail["available"]),
        (&json!(false), &json!(false))
    );
    assert_eq!(gmail["unavailable_reason"], "The operator has disabled it");
    assert_snapshot!(ada.send_post("/gmail/connect", json!({})).await, @r#"
    409 Conflict
    {
      "code": "connector_unavailable",
      "detail": "Gmail is switched off",
      "request_id": "[id]",
      "status": 409,
      "title": "The connector cannot be connected",
      "type": "urn:patchbay:problem:connector_unavailable"
    }
    "#);
    assert_eq!(ada.get("/intranet").await["configured"], false);
    let refused = ada.send_post("/intranet/connect", json!({})).await;
    refused.is_problem(409, "connector_not_configured");
    assert_eq!(ada.count().await, 0);
}

#[tokio::test]
async fn disabled_connector_can_be_listed_and_disconnected() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let file = CatalogFile::new("[[connector]]\nslug = \"gmail\"\nenabled = false\n");
    let replica = app.replica(&[("CATALOG_FILE", file.path())]).await;
    let ada = ada.at(&replica);
    assert_eq!(ada.connection(&text(&connected, "id")).await, connected);
    let (status, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(
        (status, &ended["upstream_deleted"]),
        (StatusCode::OK, &json!(true))
    );
    assert_eq!(app.nango_connections().await, [""; 0]);
}

#[tokio::test]
async fn invalid_catalog_file_prevents_start_and_lists_all_errors() {
    let file = CatalogFile::new(
        "[[connector]]\nslug = \"gmail\"\nenabled = \"no\"\n\n\
         [[connector]]\nslug = \"Not A Slug\"\n\n\
         [[connector]]\nslug = \"new-one\"\nname = \"New\"\n",
    );
    let Output { status, stderr, .. } = Command::new(env!("CARGO_BIN_EXE_patchbay"))
        .env_clear()
        .envs([
            ("PUBLIC_URL", "http://localhost"),
            ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none"),
            ("NANGO_ENABLED", "false"),
            ("AUTH_JWT_SECRET", crate::test_app::JWT_SECRET),
            ("CATALOG_FILE", file.path()),
            ("PORT", "0"),
            ("HOST", "127.0.0.1"),
        ])
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert_eq!(status.code(), Some(1));
    let reported = String::from_utf8(stderr)
        .unwrap()
        .replace(file.path(), "FILE");
    assert_snapshot!(reported, @r#"
    patchbay: FILE:3:11: enabled must be true or false
    FILE:6:8: slug "Not A Slug" must be 1 to 63 of a-z, 0-9 and '-', the first not '-'
    FILE:9:8: the new connector "new-one" lacks category, provider, auth_mode
    "#);
}
