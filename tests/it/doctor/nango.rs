//! Nango: whether it is there, what its key allows, and which integrations it has.

use patchbay::cli::doctor::Level;
use patchbay::clock::Clock;
use serde_json::json;
use uuid::Uuid;

use super::{failures, run_doctor, single_finding};
use crate::test_app::{TestApp, User};

#[tokio::test]
async fn nango_check_reports_each_problem() {
    let app = TestApp::with_system_clock().await;
    let report = run_doctor(&app, &[("NANGO_ENABLED", "false")], None).await;
    single_finding(
        &report,
        "nango",
        Level::Warn,
        "switched off",
        "NANGO_ENABLED=true",
    );
    let another = Uuid::new_v4().to_string();
    let report = run_doctor(&app, &[("NANGO_SECRET_KEY", &another)], None).await;
    single_finding(
        &report,
        "nango key",
        Level::Fail,
        "unknown_account",
        "NANGO_SECRET_KEY",
    );
    let nowhere = "http://127.0.0.1:9";
    let changes = [("NANGO_BASE_URL", nowhere), ("NANGO_PUBLIC_URL", nowhere)];
    let report = run_doctor(&app, &changes, None).await;
    let all = failures(&report);
    assert_eq!((all[0].0, all[0].1), ("nango", Level::Fail));
    assert!(all[0].3.contains("NANGO_BASE_URL"));
    // The running service leads callbacks to its own Nango.
    assert_eq!((all[1].0, all[1].1), ("callback", Level::Warn));
    assert_eq!(all.len(), 2);

    for (call, found) in [
        ("GET /integrations", "forbidden"),
        ("POST /connect/sessions?", "may not create connect sessions"),
        ("/sessions/reconnect", "may not create reconnect sessions"),
        ("DELETE /connections", "may not delete connections"),
        ("GET /connections?limit", "may not list connections"),
        ("/proxy/", "may not call providers through the proxy"),
    ] {
        app.faults(json!({ "only": call, "status": 403 })).await;
        let report = run_doctor(&app, &[], None).await;
        single_finding(&report, "nango scopes", Level::Fail, found, "the scope to");
    }
    app.faults(json!({ "only": "DELETE /connections", "status": 500 }))
        .await;
    let report = run_doctor(&app, &[], None).await;
    single_finding(
        &report,
        "nango scopes",
        Level::Warn,
        "is not known",
        "again",
    );
}

#[tokio::test]
async fn connector_check_reports_missing_and_wrong_integrations() {
    let app = TestApp::build(&[], |nango| {
        nango.clock = Clock::System;
        let missing = ["gmail", "notion"];
        nango
            .integrations
            .retain(|one| !missing.contains(&one.unique_key.as_str()));
        for one in &mut nango.integrations {
            if one.unique_key == "github" {
                "gitlab".clone_into(&mut one.provider);
            }
        }
    })
    .await;
    let report = run_doctor(&app, &[], None).await;
    let all = failures(&report);
    assert_eq!(all.len(), 2, "{all:#?}");
    let (check, level, found, _) = all[0];
    assert_eq!((check, level), ("connector", Level::Fail));
    assert!(found.starts_with("github: "), "{found}");
    assert!(found.contains("of the provider \"gitlab\""), "{found}");
    let (check, level, found, mend) = all[1];
    assert_eq!((check, level), ("connector", Level::Warn));
    assert!(found.contains("no integration for 2 of "), "{found}");
    assert!(found.ends_with("not set up: gmail, notion"), "{found}");
    assert!(mend.contains("switch the others off"), "{mend}");

    let bare = TestApp::build(&[], |nango| {
        nango.clock = Clock::System;
        nango.integrations.clear();
    })
    .await;
    let report = run_doctor(&bare, &[], None).await;
    let all = failures(&report);
    let last = all.last().unwrap();
    assert_eq!((last.0, last.1), ("connectors", Level::Fail));
}

#[tokio::test]
async fn nango_check_detects_key_without_credentials_scope() {
    // What the sandbox's own Nango has no keys for: scopes. A Nango in front of it withholds.
    let app = TestApp::with_system_clock().await;
    let ada: User<'_> = app.user("ada").await;
    ada.connected("gmail").await;
    let nango = format!("http://{}", app.sandbox.address());
    let front = front::without_credentials_scope(&nango).await;
    let report = run_doctor(&app, &[("NANGO_BASE_URL", &front)], None).await;
    let all = failures(&report);
    assert_eq!(
        (all[0].0, all[0].1),
        ("nango scopes", Level::Fail),
        "{report}"
    );
    assert!(all[0].2.contains("read connections' credentials"));
}

/// A Nango in front of another, whose keys do not show credentials.
mod front {
    use axum::Router;
    use axum::extract::Request;
    use axum::response::{IntoResponse, Response};
    use serde_json::{Value, json};

    pub(super) async fn without_credentials_scope(nango: &str) -> String {
        let nango = nango.to_owned();
        let pass = move |request: Request| forward(nango.clone(), request);
        crate::test_server::serve(Router::new().fallback(pass))
            .await
            .as_str()
            .trim_end_matches('/')
            .to_owned()
    }

    async fn forward(nango: String, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let mut headers = parts.headers;
        headers.remove("host");
        let url = format!("{nango}{}", parts.uri);
        let client = crate::test_app::client();
        let answer = client
            .request(parts.method, url)
            .headers(headers)
            .body(body)
            .send();
        let answer = answer.await.unwrap();
        let status = answer.status();
        let mut body: Value = answer.json().await.unwrap_or(Value::Null);
        if body["credentials"].is_object() {
            body["credentials"] = json!({});
        }
        (status, axum::Json(body)).into_response()
    }
}
