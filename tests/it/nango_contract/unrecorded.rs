//! Behavior of a real Nango server without a recording: its address policy, required parameters, disabled settings, and
//! webhooks of newer versions.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::scenario::{Scenario, location};
use crate::eventually::eventually_value;

/// Starts a sandbox whose Zendesk and ActiveCampaign integrations each require a parameter.
async fn with_parameters() -> Scenario {
    let world = Scenario::without_integrations(&[], |config| {
        config.integrations = vec![
            super::scenario::integration("zendesk", "zendesk", "Zendesk", "OAUTH2"),
            super::scenario::integration("smartsheet", "smartsheet", "Smartsheet", "OAUTH2"),
            super::scenario::integration("crm", "active-campaign", "ActiveCampaign", "API_KEY"),
        ];
    })
    .await;
    world.faults(json!({ "consent": "allow" })).await;
    world
}

/// Sends an invalid body. Returns the only issue in the response.
async fn issue(scenario: &Scenario, method: Method, path: &str, body: &Value) -> Value {
    let url = format!("{}{path}", scenario.sandbox.url());
    let request = scenario
        .http
        .request(method, url)
        .bearer_auth(Scenario::KEY);
    let response = request.json(body).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{body}");
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["error"]["code"], "invalid_body", "{answer}");
    answer["error"]["errors"][0].clone()
}

fn session(url: &str) -> Value {
    json!({ "tags": { "end_user_id": "ada" }, "webhook_url_override": url })
}

#[tokio::test]
async fn private_webhook_url_is_refused() {
    let mut scenario = Scenario::new(&[]).await;
    let id = scenario
        .connect("github", "first", json!({ "tags": {} }))
        .await;
    scenario
        .faults(json!({ "refuse_private_webhook_urls": true }))
        .await;
    let reconnect = "/connect/sessions/reconnect";
    let connection = format!("/connections/{id}?provider_config_key=github");
    for url in [
        "http://localhost:8000/hook",
        "http://127.1/hook",
        "http://[::1]/hook",
        "http://[::ffff:127.0.0.1]/hook",
        "http://10.1.2.3/hook",
        "http://172.16.0.1/hook",
        "http://192.168.0.1/hook",
        "http://169.254.169.254/hook",
        "http://[fe80::1]/hook",
        "http://[fd00::1]/hook",
        "http://0.0.0.0/hook",
        "http://metadata.google.internal/hook",
        "ftp://app.example.com/hook",
    ] {
        let expected = json!({
            "code": "custom",
            "message": "This webhook URL is not allowed.",
            "path": ["webhook_url_override"],
        });
        let body = session(url);
        let found = issue(&scenario, Method::POST, "/connect/sessions", &body).await;
        assert_eq!(found, expected, "{url}");
        let mut body = body;
        body["connection_id"] = id.as_str().into();
        body["integration_id"] = "github".into();
        let found = issue(&scenario, Method::POST, reconnect, &body).await;
        assert_eq!(found, expected, "{url}");
        let body = json!({ "webhook_url_override": url });
        let found = issue(&scenario, Method::PATCH, &connection, &body).await;
        assert_eq!(found, expected, "{url}");
    }
    scenario
        .session(session("https://app.example.com/hook"))
        .await;
}

#[tokio::test]
async fn webhook_url_at_nangos_own_domain_is_refused() {
    let scenario = Scenario::new(&[]).await;
    for url in ["https://nango.dev/hook", "https://api.nango.dev./hook"] {
        let found = issue(&scenario, Method::POST, "/connect/sessions", &session(url)).await;
        let message = "Webhook URLs cannot point to Nango's domain (nango.dev).";
        assert_eq!(found["message"], message, "{url}");
        assert_eq!(found["code"], "custom");
    }
}

#[tokio::test]
async fn webhook_to_private_address_is_dropped() {
    let mut scenario = Scenario::new(&[]).await;
    scenario
        .faults(json!({ "consent": "allow", "refuse_private_webhook_urls": true }))
        .await;
    // The environment's own URL is a loopback address.
    let token = scenario.session(json!({ "tags": {} })).await;
    let query = scenario.authorize(&token, "github").await;
    assert_eq!(scenario.callback(&query).await.status(), 200);
    let webhooks = async || scenario.call(Method::GET, "/sandbox/webhooks", None).await;
    let all = eventually_value(webhooks, |all| !all[0]["attempts"][0].is_null()).await;
    assert!(all[0]["attempts"][0]["status"].is_null(), "{all}");
    assert_eq!(all[0]["attempts"].as_array().unwrap().len(), 1, "{all}");
    assert!(scenario.hooks.try_recv().is_err());
}

#[tokio::test]
async fn oauth_without_required_parameter_fails_without_webhook() {
    let mut scenario = with_parameters().await;
    let token = scenario.session(json!({ "tags": {} })).await;
    let url = format!("{}/oauth/connect/zendesk", scenario.sandbox.url());
    let request = scenario.http.get(&url);
    let request = request.query(&[("connect_session_token", &token)]);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(
        response.headers()["content-type"],
        "text/html; charset=utf-8"
    );
    let page = response.text().await.unwrap();
    let message = "Missing Connection Config param(s) in Auth request to interpolate url \
         https://${connectionConfig.subdomain}.zendesk.com/oauth/authorizations/new. \
         Provided Connection Config: {}";
    assert!(page.contains(message), "{page}");
    assert!(scenario.hooks.try_recv().is_err());
}

#[tokio::test]
async fn oauth_takes_parameters_from_url_and_session() {
    let scenario = with_parameters().await;
    let preset = |config: Value| {
        let defaults = json!({ "zendesk": { "connection_config": config } });
        json!({ "tags": {}, "integrations_config_defaults": defaults })
    };
    for (body, given, stored) in [
        (json!({ "tags": {} }), "acme", "acme"),
        (preset(json!({ "subdomain": "preset" })), "", "preset"),
        (preset(json!({ "subdomain": "preset" })), "acme", "preset"),
    ] {
        let token = scenario.session(body).await;
        let mut query = vec![("connect_session_token", &*token)];
        query.extend((!given.is_empty()).then_some(("params[subdomain]", given)));
        let url = format!("{}/oauth/connect/zendesk", scenario.sandbox.url());
        let request = scenario.http.get(url).query(&query);
        let provider = location(&request.send().await.unwrap());
        let back = location(&scenario.http.get(provider).send().await.unwrap());
        assert_eq!(scenario.http.get(back).send().await.unwrap().status(), 200);
        assert_eq!(newest_config(&scenario).await["subdomain"], stored);
    }
}

/// Returns the configuration of the newest connection.
async fn newest_config(scenario: &Scenario) -> Value {
    let list = scenario.call(Method::GET, "/connections", None).await;
    let newest = &list["connections"][0];
    let text = |name: &str| newest[name].as_str().unwrap().to_owned();
    let (id, key) = (text("connection_id"), text("provider_config_key"));
    let path = format!("/connections/{id}?provider_config_key={key}");
    scenario.call(Method::GET, &path, None).await["connection_config"].clone()
}

#[tokio::test]
async fn token_exchange_fails_without_required_parameter() {
    let scenario = with_parameters().await;
    let token = scenario.session(json!({ "tags": {} })).await;
    let query = scenario.authorize(&token, "smartsheet").await;
    assert_eq!(scenario.callback(&query).await.status(), 400);
    let list = scenario.call(Method::GET, "/connections", None).await;
    assert_eq!(list["connections"], json!([]));
}

#[tokio::test]
async fn connect_page_asks_for_required_parameters() {
    let scenario = with_parameters().await;
    let page = async |body: Value| {
        let answer = scenario.call(Method::POST, "/connect/sessions", Some(body));
        let data = answer.await["data"].clone();
        let link = data["connect_link"].as_str().unwrap().to_owned();
        let page = scenario.http.get(link).send().await.unwrap();
        let token = data["token"].as_str().unwrap().to_owned();
        (page.text().await.unwrap(), token)
    };
    let (zendesk, _) = page(json!({ "tags": {}, "allowed_integrations": ["zendesk"] })).await;
    let form = r#"<form method="get" action="/oauth/connect/zendesk""#;
    for part in [form, r#"name="params[subdomain]""#] {
        assert!(zendesk.contains(part), "{zendesk}");
    }
    let (preset, _) = page(json!({
        "tags": {},
        "allowed_integrations": ["zendesk"],
        "integrations_config_defaults": { "zendesk": { "connection_config": { "subdomain": "acme" } } },
    }))
    .await;
    assert!(!preset.contains("params["), "{preset}");

    let (crm, token) = page(json!({ "tags": {}, "allowed_integrations": ["crm"] })).await;
    assert!(crm.contains(r#"name="params[hostname]""#), "{crm}");
    let submit = async |form: &[(&str, &str)]| {
        let url = format!("{}/connect-ui/", scenario.sandbox.url());
        let request = scenario.http.post(url).form(form);
        request.send().await.unwrap().status()
    };
    let mut form = vec![
        ("session_token", &*token),
        ("integration", "crm"),
        ("apiKey", "a key"),
    ];
    assert_eq!(submit(&form).await, StatusCode::BAD_REQUEST);
    form.push(("params[hostname]", "acme.example.com"));
    assert_eq!(submit(&form).await, StatusCode::OK);
    let config = newest_config(&scenario).await;
    assert_eq!(config, json!({ "hostname": "acme.example.com" }));
}

#[tokio::test]
async fn disabled_webhook_events_are_not_sent() {
    let mut scenario = Scenario::new(&[]).await;
    let off = |consent: &str| json!({ "consent": consent, "webhook_events_off": true });
    scenario.faults(off("allow")).await;
    let mut body = json!({ "tags": {} });
    body["webhook_url_override"] = "http://localhost:4101/attempt".into();
    for consent in ["allow", "deny"] {
        scenario.faults(off(consent)).await;
        let token = scenario.session(body.clone()).await;
        let query = scenario.authorize(&token, "github").await;
        scenario.callback(&query).await;
    }
    let id = scenario.learn_newest("first").await;
    let expire = json!({ "connection_id": id });
    scenario
        .call(Method::POST, "/sandbox/expire", Some(expire))
        .await;
    scenario
        .faults(json!({ "refuse_refresh": true, "webhook_events_off": true }))
        .await;
    let path = format!("/connections/{id}?provider_config_key=github");
    let url = format!("{}{path}", scenario.sandbox.url());
    assert_eq!(scenario.get(&url).await.status(), 400);
    let all = scenario.call(Method::GET, "/sandbox/webhooks", None).await;
    assert_eq!(all, json!([]));
}

#[tokio::test]
async fn secret_key_may_sign_webhooks_until_it_is_rotated() {
    let mut scenario = Scenario::without_integrations(&[], |config| {
        config.webhook_signing_key = Scenario::KEY.into();
    })
    .await;
    scenario.create_integration("github", "GitHub").await;
    for _ in 0..2 {
        scenario
            .connect("github", "newest", json!({ "tags": {} }))
            .await;
    }
    let hook = scenario.next_hook().await;
    let is_signed_by = |key: &str, hook: &super::webhook_receiver::ReceivedWebhook| {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key.as_bytes());
        let hmac = hex::decode(&hook.headers["x-nango-hmac-sha256"]).unwrap();
        aws_lc_rs::hmac::verify(&key, hook.body.as_bytes(), &hmac).is_ok()
    };
    assert!(is_signed_by(Scenario::KEY, &hook));
    scenario.next_hook().await;
    let path = "/environment/webhook-signing-key/rotate";
    let rotated = scenario.call(Method::POST, path, None).await;
    scenario
        .connect("github", "newest", json!({ "tags": {} }))
        .await;
    let hook = scenario.next_hook().await;
    assert!(!is_signed_by(Scenario::KEY, &hook));
    let key = rotated["data"]["webhook_signing_key"].as_str().unwrap();
    assert!(is_signed_by(key, &hook));
}

#[tokio::test]
async fn expired_token_without_refresh_token_is_returned() {
    let scenario = Scenario::new(&[]).await;
    let body = json!({
        "provider_config_key": "github",
        "connection_id": "imported",
        "credentials": {
            "type": "OAUTH2", "access_token": "over", "expires_at": "2026-01-01T00:00:00.000Z",
        },
    });
    scenario
        .call(Method::POST, "/connections", Some(body))
        .await;
    for query in ["", "&force_refresh=true"] {
        let path = format!("/connections/imported?provider_config_key=github{query}");
        let found = scenario.call(Method::GET, &path, None).await;
        assert_eq!(
            found["credentials"]["expires_at"],
            "2026-01-01T00:00:00.000Z"
        );
        assert_eq!(found["credentials"]["access_token"], "over");
    }
}

#[tokio::test]
async fn connections_get_increasing_ids_and_times() {
    let mut scenario = Scenario::new(&[]).await;
    for _ in 0..3 {
        scenario
            .connect("github", "newest", json!({ "tags": {} }))
            .await;
    }
    let list = scenario.call(Method::GET, "/connections", None).await;
    let list = list["connections"].as_array().unwrap();
    let ids: Vec<_> = list.iter().map(|it| it["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [3, 2, 1]);
    let times: Vec<_> = list
        .iter()
        .map(|it| chrono::DateTime::parse_from_rfc3339(it["created"].as_str().unwrap()).unwrap())
        .collect();
    assert!(times[0] > times[1] && times[1] > times[2], "{times:?}");
}

#[tokio::test]
async fn deletion_sends_webhook_when_enabled() {
    let mut scenario = Scenario::new(&[]).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let body = json!({ "tags": { "end_user_id": "ada" } });
        ids.push(scenario.connect("github", "newest", body).await);
        scenario.next_hook().await;
    }
    let delete = async |id: &str| {
        let path = format!("/connections/{id}?provider_config_key=github");
        scenario.call(Method::DELETE, &path, None).await
    };
    delete(&ids[0]).await;
    scenario.faults(json!({ "deletion_webhooks": true })).await;
    delete(&ids[1]).await;
    let hook = scenario.next_hook().await;
    let hook: Value = serde_json::from_str(&hook.body).unwrap();
    assert_eq!(
        hook,
        json!({
            "authMode": "OAUTH2", "connectionId": ids[1], "environment": "dev", "from": "nango",
            "operation": "deletion", "provider": "mock-oauth2", "providerConfigKey": "github",
            "success": true, "tags": { "end_user_id": "ada" }, "type": "auth",
        })
    );
}

#[tokio::test]
async fn deleted_integration_takes_its_connections_along() {
    let mut scenario = Scenario::new(&[]).await;
    scenario
        .connect("github", "newest", json!({ "tags": {} }))
        .await;
    scenario.next_hook().await;
    scenario.faults(json!({ "deletion_webhooks": true })).await;
    scenario
        .call(Method::DELETE, "/integrations/github", None)
        .await;
    let list = scenario.call(Method::GET, "/connections", None).await;
    assert_eq!(list["connections"], json!([]));
    let url = format!("{}/integrations/github", scenario.sandbox.url());
    let again = scenario
        .http
        .delete(url)
        .bearer_auth(Scenario::KEY)
        .send()
        .await;
    assert_eq!(again.unwrap().status(), StatusCode::NOT_FOUND);
    assert!(scenario.hooks.try_recv().is_err());
}

#[tokio::test]
async fn recovered_refresh_sends_webhook() {
    let mut scenario = Scenario::new(&[]).await;
    let body = json!({ "tags": { "end_user_id": "ada" } });
    let id = scenario.connect("github", "newest", body).await;
    scenario.next_hook().await;
    let path = format!("/connections/{id}?provider_config_key=github&force_refresh=true");
    let url = format!("{}{path}", scenario.sandbox.url());
    for (refuse, status) in [(false, 200), (true, 400), (false, 200), (false, 200)] {
        let faults = json!({ "refuse_refresh": refuse, "recovery_webhooks": true });
        scenario.faults(faults).await;
        assert_eq!(scenario.get(&url).await.status(), status);
    }
    for success in [false, true] {
        let hook = scenario.next_hook().await;
        let hook: Value = serde_json::from_str(&hook.body).unwrap();
        assert_eq!(hook["operation"], "refresh", "{hook}");
        assert_eq!(hook["success"], success, "{hook}");
        assert_eq!(hook["tags"]["end_user_id"], "ada", "{hook}");
    }
    assert!(scenario.hooks.try_recv().is_err());
}
