//! Disconnecting, in Patchbay and at Nango.

use chrono::{DateTime, TimeDelta, Utc};
use insta::assert_snapshot;
use nango_sandbox::Integration;
use serde_json::{Value, json};

use super::{events, text};
use crate::eventually::eventually_value;
use crate::test_app::{TestApp, User};

/// Connects an account of a connector.
async fn connected(user: &User<'_>, connector: &str, instance: &str) -> Value {
    user.app.faults(json!({ "consent": "allow" })).await;
    let path = format!("/{connector}/connect?instance_id={instance}");
    let started = user.send_post(&path, json!({})).await.json();
    user.app.popup(&text(&started, "oauth_url")).await;
    user.wait_until(&text(&started, "connection_id"), "connected")
        .await
}

#[tokio::test]
async fn disconnect_requires_id_when_ambiguous() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let home = connected(&ada, "gmail", "").await;
    let work = connected(&ada, "gmail", "work").await;
    let third = connected(&ada, "gmail", "third").await;
    let before = ada.get("/connections").await;

    let refused = ada.send_delete("/gmail/disconnect").await;
    assert_snapshot!(refused, @r#"
    409 Conflict
    {
      "candidates": [
        "[id]",
        "[id]",
        "[id]"
      ],
      "code": "ambiguous_connection",
      "detail": "there are several connections of this connector: name one by connection_id",
      "request_id": "[id]",
      "status": 409,
      "title": "Several connections match",
      "type": "urn:patchbay:problem:ambiguous_connection"
    }
    "#);
    assert_eq!(
        refused.json()["candidates"],
        json!([third["id"], work["id"], home["id"]])
    );
    let nope = ada.send_delete("/gmail/disconnect?instance_id=nope").await;
    nope.is_problem(404, "connection_not_found");
    let elsewhere = format!("/github/disconnect?connection_id={}", text(&home, "id"));
    ada.send_delete(&elsewhere)
        .await
        .is_problem(404, "connection_not_found");
    let bad = ada
        .send_delete("/gmail/disconnect?connection_id=nope")
        .await;
    bad.is_problem(400, "invalid_request");
    let unknown = ada.send_delete("/nothing/disconnect").await;
    unknown.is_problem(404, "connector_not_found");
    assert_eq!(ada.get("/connections").await, before);
    assert_eq!(app.nango_connections().await.len(), 3);
}

#[tokio::test]
async fn disconnect_ends_only_the_named_connection() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let home = connected(&ada, "gmail", "").await;
    let work = connected(&ada, "gmail", "work").await;
    let third = connected(&ada, "gmail", "third").await;
    let by_instance = ada
        .send_delete("/gmail/disconnect?instance_id=work")
        .await
        .json();
    assert_eq!(by_instance["connection_id"], work["id"]);
    let by_id = format!("/gmail/disconnect?connection_id={}", text(&third, "id"));
    assert_eq!(
        ada.send_delete(&by_id).await.json()["connection_id"],
        third["id"]
    );
    app.wait_for_nango_connections(&[&text(&home, "nango_connection_id")])
        .await;
    // The only connection left needs no instance. An empty instance means the first account.
    let last = ada
        .send_delete("/gmail/disconnect?instance_id=")
        .await
        .json();
    assert_eq!(
        (&last["connection_id"], &last["upstream_deleted"]),
        (&home["id"], &json!(true))
    );
    assert_eq!(app.nango_connections().await, [""; 0]);
    // All are disconnected, so none can be selected without an id.
    let refused = ada.send_delete("/gmail/disconnect").await;
    refused.is_problem(409, "ambiguous_connection");
}

#[tokio::test]
async fn disconnect_is_idempotent() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let id = text(&connected(&ada, "gmail", "").await, "id");
    let first = ada.send_delete("/gmail/disconnect").await.json();
    let before = (ada.connection(&id).await, events(&app, &id).await);
    app.advance(chrono::TimeDelta::seconds(9));
    for path in [
        "/gmail/disconnect".to_owned(),
        format!("/gmail/disconnect?connection_id={id}"),
    ] {
        assert_eq!(ada.send_delete(&path).await.json(), first);
    }
    assert_eq!((ada.connection(&id).await, events(&app, &id).await), before);
}

#[tokio::test]
async fn disconnect_cancels_pending_connection() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let ended = ada.send_delete("/gmail/disconnect").await.json();
    assert_eq!(
        (&ended["status"], &ended["upstream_deleted"]),
        (&json!("disconnected"), &json!(true))
    );
    let row = ada.connection(&text(&started, "connection_id")).await;
    assert_eq!(row["attempt"]["outcome"], "superseded");
}

#[tokio::test]
async fn deletion_is_retried_when_nango_fails() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let before = connected(&ada, "gmail", "").await;
    let (id, stored) = (text(&before, "id"), text(&before, "nango_connection_id"));
    app.faults(json!({ "refuse_delete": true })).await;
    assert_snapshot!(ada.send_delete("/gmail/disconnect").await, @r#"
    200 OK
    {
      "connection_id": "[id]",
      "message": "Gmail is disconnected here; Nango is asked to delete its part until it confirms",
      "status": "disconnected",
      "success": true,
      "upstream_deleted": false
    }
    "#);
    let row = ada.connection(&id).await;
    assert_eq!(
        (&row["status"], &row["nango_connection_id"]),
        (&json!("disconnected"), &json!(null))
    );
    assert_eq!(app.nango_connections().await, [stored]);
    // A repeated request returns the same while Nango still rejects the deletion.
    assert_eq!(
        ada.send_delete("/gmail/disconnect").await.json()["upstream_deleted"],
        false
    );

    app.faults(json!({ "consent": "allow" })).await;
    app.advance(chrono::TimeDelta::minutes(10));
    app.wait_for_nango_connections(&[]).await;
    let confirmed = ada.send_delete("/gmail/disconnect").await.json();
    assert_eq!(confirmed["upstream_deleted"], true);
    assert_eq!(events(&app, &id).await.last().unwrap(), "disconnected");
}

#[tokio::test]
async fn new_connection_survives_deletion_of_previous_one() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    connected(&ada, "gmail", "").await;
    app.faults(json!({ "refuse_delete": true, "consent": "allow" }))
        .await;
    ada.send_delete("/gmail/disconnect").await;
    let again = connected(&ada, "gmail", "").await;
    app.advance(chrono::TimeDelta::minutes(10));
    app.wait_for_nango_connections(&[&text(&again, "nango_connection_id")])
        .await;
    assert_eq!(
        ada.connection(&text(&again, "id")).await["status"],
        "connected"
    );
}

#[tokio::test]
async fn disconnect_confirms_when_already_deleted_at_nango() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let before = connected(&ada, "gmail", "").await;
    let path = format!(
        "/connections/{}?provider_config_key=gmail",
        text(&before, "nango_connection_id")
    );
    app.nango(reqwest::Method::DELETE, &path).await;
    let ended = ada.send_delete("/gmail/disconnect").await.json();
    assert_eq!(ended["upstream_deleted"], true);
}

#[tokio::test]
async fn disconnect_waits_for_deletion_by_other_replica() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    connected(&ada, "gmail", "").await;
    app.faults(json!({ "refuse_delete": true })).await;
    let refused = ada.send_delete("/gmail/disconnect").await.json();
    assert_eq!(refused["upstream_deleted"], false);
    app.faults(json!({})).await;
    // The lease of another replica, which expires soon.
    let leased = "update upstream_deletion set leased_until = clock_timestamp() + interval '0.3 s'";
    sqlx::query(leased)
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    let again = ada.send_delete("/gmail/disconnect").await.json();
    assert_eq!(again["upstream_deleted"], true);
}

#[tokio::test]
async fn disconnect_is_unconfirmed_when_nango_poll_fails() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let unheard = json!({ "consent": "allow", "drop_webhooks": true });
    app.faults(unheard).await;
    let started = ada.connect("gmail").await;
    app.popup(&text(&started, "oauth_url")).await;
    let blind = json!({ "status": 500, "only": "GET /connections" });
    app.faults(blind).await;
    for _ in 0..2 {
        let ended = ada.send_delete("/gmail/disconnect").await.json();
        assert_eq!(
            (&ended["status"], &ended["upstream_deleted"]),
            (&json!("disconnected"), &json!(false))
        );
    }
    app.faults(json!({})).await;
    assert_eq!(app.nango_connections().await.len(), 1);
    let confirmed = ada.send_delete("/gmail/disconnect").await.json();
    assert_eq!(confirmed["upstream_deleted"], true);
    assert_eq!(app.nango_connections().await, [""; 0]);
}

/// A connector that the operator adds.
const ACME: &str = r#"
[[connector]]
slug = "acme"
name = "Acme"
category = "In house"
provider = "github"
auth_mode = "OAUTH2"
"#;

#[tokio::test]
async fn removed_connector_can_be_listed_and_disconnected() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), ACME).unwrap();
    let app = TestApp::build(&[], |nango| {
        nango.integrations.push(Integration {
            unique_key: "acme".to_owned(),
            provider: "github".to_owned(),
            display_name: "Acme".to_owned(),
            auth_mode: "OAUTH2".to_owned(),
        });
    })
    .await;
    let catalog_file = file.path().to_str().unwrap();
    let having = app.replica(&[("CATALOG_FILE", catalog_file)]).await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    // On a replica without the connector.
    let started = bob.at(&having).connect("acme").await;
    let ended = bob.send_delete("/acme/disconnect").await.json();
    assert_eq!(ended["connection_id"], started["connection_id"]);

    let stored = connected(&ada.at(&having), "acme", "").await;
    let (id, connector) = (text(&stored, "id"), text(&stored, "connector_id"));
    let left = app.replica(&[("CATALOG", "listed")]).await;
    let ada = ada.at(&left);
    let refused = ada.send_post("/acme/connect", json!({})).await;
    refused.is_problem(404, "connector_not_found");
    // Few other connections, and very many.
    for others in [0, 200] {
        sqlx::query(
            "insert into user_connector_connection \
               (id, user_id, connector_id, instance_id, status, status_reason, disconnected_at, created_at, updated_at) \
             select gen_random_uuid(), user_id, connector_id, 'old ' || n, 'disconnected', 'user_disconnected', now(), now(), now() \
             from user_connector_connection, generate_series(1, $2) n where id::text = $1",
        )
        .bind(&id)
        .bind(others)
        .execute(&mut app.sql().await)
        .await
        .unwrap();
        for reference in ["acme", &connector, &connector.to_uppercase()] {
            let query = format!("status=connected&connector_id={reference}");
            let page = ada.get(&format!("/connections?{query}")).await;
            assert_eq!(page["total_count"], 1, "{query}");
            assert_eq!(page["connections"][0]["id"], id, "{query}");
        }
        let none = ada.get("/connections?connector_id=nothing").await;
        assert_eq!(none["total_count"], 0);
    }
    let path = format!("/acme/disconnect?connection_id={id}");
    let ended = ada.send_delete(&path).await.json();
    assert_eq!(ended["connection_id"], id);
    app.wait_for_nango_connections(&[]).await;
}

#[tokio::test]
async fn unconfirmed_deletion_is_retried_with_backoff() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    ada.connected("gmail").await;
    app.faults(json!({ "refuse_delete": true })).await;
    let (_, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(ended["upstream_deleted"], false);
    let service = app.service().await;
    for attempt in 1..=12 {
        let failed = async || -> Option<DateTime<Utc>> {
            sqlx::query_scalar(
                "select next_attempt_at from upstream_deletion where attempts = $1 and leased_until is null",
            )
            .bind(attempt)
            .fetch_optional(&mut app.sql().await)
            .await
            .unwrap()
        };
        let next = eventually_value(failed, Option::is_some).await.unwrap();
        let pause = TimeDelta::seconds(600.min(1 << (attempt - 1)));
        assert_eq!(next - app.clock.now(), pause, "attempt {attempt}");
        app.advance(pause);
        service.deletions.delete_due().await.unwrap();
    }
}

#[tokio::test]
async fn repeated_disconnects_cost_a_bounded_number_of_calls() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    connected(&ada, "gmail", "").await;
    let first = ada.send_delete("/gmail/disconnect").await.json();
    assert_eq!(first["upstream_deleted"], true);
    let before = app.nango_calls("GET", "/connections").await;
    let mut last = Value::Null;
    for _ in 0..60 {
        last = ada.send_delete("/gmail/disconnect").await.json();
        assert_eq!(last["success"], true, "{last}");
    }
    // Nango was not queried again, so a late grant may be left.
    assert_eq!(last["upstream_deleted"], false);
    let calls = app.nango_calls("GET", "/connections").await - before;
    assert!(calls < 50, "{calls}");
    let bob = app.user("bob").await;
    connected(&bob, "gmail", "").await;
    let other = bob.send_delete("/gmail/disconnect").await.json();
    assert_eq!(other["upstream_deleted"], true);
}
