//! The contract with the unmodified frontend of the original API: its routes, fields and headers.

use reqwest::Method;
use serde_json::{Value, json};

use super::{TestResponse, text};
use crate::test_app::{ORIGIN, TestApp};

fn fields(value: &Value) -> Vec<&str> {
    let fields = value.as_object().unwrap().keys();
    let mut fields: Vec<&str> = fields.map(String::as_str).collect();
    fields.sort_unstable();
    fields
}

#[tokio::test]
async fn list_has_whole_catalog_in_original_shape() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let all = ada.get("/list").await;
    let connectors = all["connectors"].as_array().unwrap();
    assert_eq!(fields(&all), ["connectors", "total_count"]);
    assert_eq!(
        (&all["total_count"], connectors.len()),
        (&ada.get("").await["total_count"], 99)
    );
    let gmail = connectors.iter().find(|one| one["slug"] == "gmail");
    let gmail = gmail.unwrap();
    assert_eq!(
        fields(gmail),
        [
            "category",
            "created_at",
            "description",
            "id",
            "is_platform",
            "latest_version",
            "name",
            "nango_enabled",
            "nango_provider_key",
            "owner_id",
            "slug",
            "status"
        ]
    );
    assert_eq!(gmail["id"], ada.get("/gmail").await["id"]);
    assert_eq!(
        (
            &gmail["status"],
            &gmail["nango_enabled"],
            &gmail["nango_provider_key"]
        ),
        (&json!("stable"), &json!(true), &json!("gmail"))
    );
    assert!(gmail["created_at"].is_string(), "{gmail}");
}

#[tokio::test]
async fn list_filters_by_status_and_category() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let count = async |query: &str| ada.get(&format!("/list{query}")).await["total_count"].clone();
    let gmail = ada.get("/gmail").await;
    let category: String =
        url::form_urlencoded::byte_serialize(text(&gmail, "category").as_bytes()).collect();
    let whole = ada.get("").await;
    let expected = whole["categories"].as_array().unwrap().iter();
    let expected = expected.filter(|one| one["name"] == gmail["category"]);
    let expected: Vec<&Value> = expected.map(|one| &one["count"]).collect();
    assert_eq!(
        [&count(&format!("?category={category}")).await],
        expected[..]
    );
    assert_eq!(count("?status_filter=stable").await, 99);
    assert_eq!(count("?status_filter=&category=").await, 99);
    assert_eq!(count("?status_filter=beta").await, 0);
    assert_eq!(count("?category=nothing").await, 0);
    app.client
        .get(format!("{}/api/v1/connectors/list", app.url))
        .send()
        .await
        .map(|answer| assert_eq!(answer.status(), 401))
        .unwrap();
}

#[tokio::test]
async fn answers_have_fields_of_original_api() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    assert_eq!(connected["last_synced_at"], connected["connected_at"]);
    let id = text(&connected, "id");
    let callback = ada.get(&format!("/callback?connection_id={id}")).await;
    for (field, value) in [
        ("success", &json!(true)),
        ("connection_id", &connected["id"]),
        ("nango_connection_id", &connected["nango_connection_id"]),
        ("connector_id", &connected["connector_id"]),
        ("connector_slug", &json!("gmail")),
        ("status", &json!("connected")),
        ("message", &json!("Gmail is connected")),
    ] {
        assert_eq!(&callback[field], value, "{field}");
    }
    let (status, ended) = ada
        .disconnect("gmail", &format!("?connection_id={id}"))
        .await;
    assert_eq!((status.as_u16(), &ended["success"]), (200, &json!(true)));
    assert!(ended["message"].is_string());
    let refused = ada.send_get("/nothing").await;
    assert!(refused.is_problem(404, "connector_not_found")["detail"].is_string());
}

#[tokio::test]
async fn connections_are_unpaged_unless_limit_or_cursor_is_given() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let id = text(&ada.connect("gmail").await, "connection_id");
    // The maximum number of connections of a user, each with the largest config.
    sqlx::query(
        "insert into user_connector_connection \
           (id, user_id, connector_id, instance_id, status, status_reason, disconnected_at, config, created_at, updated_at) \
         select gen_random_uuid(), user_id, connector_id, 'old ' || n, 'disconnected', 'user_disconnected', now(), \
           jsonb_build_object('a', repeat('x', 4000)), now(), now() \
         from user_connector_connection, generate_series(1, 499) n where id::text = $1",
    )
    .bind(&id)
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    let all = ada.get("/connections").await;
    assert_eq!(
        (
            all["connections"].as_array().unwrap().len(),
            &all["total_count"],
            &all["next_cursor"]
        ),
        (500, &json!(500), &json!(null))
    );
    let page = ada.get("/connections?limit=500").await;
    let large = page["connections"].as_array().unwrap().len();
    assert!((1..500).contains(&large), "a page is bounded: {large}");
    let rest = text(&page, "next_cursor");
    let next = ada.get(&format!("/connections?cursor={rest}")).await;
    assert!(next["connections"].as_array().unwrap().len() <= 100);
}

#[tokio::test]
async fn cors_allows_headers_that_products_add() {
    let path = "/api/v1/connectors/connections";
    let preflight = async |app: &TestApp, header: &str| {
        let request = app
            .client
            .request(Method::OPTIONS, format!("{}{path}", app.url))
            .header("origin", ORIGIN)
            .header("access-control-request-method", "GET")
            .header("access-control-request-headers", header);
        let answer = TestResponse::to(request).await;
        let allowed = answer.header("access-control-allow-headers").unwrap_or("");
        allowed.split(',').any(|allowed| allowed.trim() == header)
    };
    let app = TestApp::new().await;
    for header in [
        "authorization",
        "x-csrf-token",
        "x-requested-with",
        "sentry-trace",
        "baggage",
        "traceparent",
        "tracestate",
    ] {
        assert!(preflight(&app, header).await, "{header}");
    }
    assert!(!preflight(&app, "x-tenant").await);
    let app = TestApp::with(&[("CORS_ALLOWED_HEADERS", "X-Tenant, x-csrf-token")]).await;
    assert!(preflight(&app, "x-tenant").await);
    assert!(preflight(&app, "x-csrf-token").await);
    assert!(preflight(&app, "authorization").await);
    assert!(!preflight(&app, "baggage").await);
}
