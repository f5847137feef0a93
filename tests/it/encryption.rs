//! Encryption of secrets in the database, rotation of its keys, and deletion of secrets that are no longer needed.

use chrono::TimeDelta;
use patchbay::cli::doctor::Level;
use patchbay::webhooks::{PostError, Webhooks};
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::doctor::{failures, run_doctor, single_finding};
use crate::outgoing_webhooks;
use crate::test_app::{ENCRYPTION_KEY, Replica, TestApp, User, read};

const KEY: &str = "ENCRYPTION_KEY";

/// Another key, in the hexadecimal form.
const OTHER: &str = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";

/// Connects with an Idempotency-Key. Returns the status and response.
async fn connect(user: &User<'_>, key: &str) -> (StatusCode, Value) {
    let request = user.request(Method::POST, "/gmail/connect");
    let response = request.header("idempotency-key", key).send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

/// Returns all rows of a table as text.
async fn stored(app: &TestApp, table: &str) -> String {
    let rows = format!("select coalesce(string_agg(t::text, ' '), '') from {table} t");
    sqlx::query_scalar(sqlx::AssertSqlSafe(rows))
        .fetch_one(&mut app.sql().await)
        .await
        .unwrap()
}

/// Returns the session's token in a response's link.
fn session(answer: &Value) -> String {
    let link = url::Url::parse(answer["oauth_url"].as_str().unwrap()).unwrap();
    let mut pairs = link.query_pairs();
    let token = pairs.find(|(name, _)| name == "connect_session_token");
    token.unwrap().1.into_owned()
}

/// Returns the endpoints of a test app, opened with other encryption keys.
async fn webhooks_with(app: &TestApp, keys: &str) -> Webhooks {
    let config = read(&app.settings(&[(KEY, keys)]));
    let database = patchbay::db::Database::connect(&config.database);
    Webhooks::new(
        database.await.unwrap(),
        app.clock.clone(),
        &config.webhook_networks,
        config.encryption,
    )
    .unwrap()
}

#[tokio::test]
async fn dump_holds_no_secret_of_an_endpoint_or_a_session() {
    let app = TestApp::new().await;
    let hooks = outgoing_webhooks::webhooks(&app).await;
    let url = "https://hooks.example.com/".parse().unwrap();
    let (id, secret) = hooks.add(&url, &[], false).await.unwrap();
    let rotated = hooks.rotate(&id, TimeDelta::hours(1)).await.unwrap();
    let ada = app.user("ada").await;
    let (status, started) = connect(&ada, "k").await;
    assert_eq!(status, StatusCode::OK, "{started}");
    let endpoints = stored(&app, "webhook_endpoint").await;
    for secret in [&secret, &rotated] {
        let secret = secret.expose_secret();
        let bare = secret.strip_prefix("whsec_").unwrap();
        assert!(!endpoints.contains(bare), "{endpoints}");
    }
    let answers = stored(&app, "idempotency_key").await;
    assert!(answers.contains("enc1:"), "{answers}");
    for shown in [session(&started), "oauth_url".to_owned()] {
        assert!(!answers.contains(&shown), "{answers}");
    }
    // Both are unchanged.
    assert_eq!(connect(&ada, "k").await, (StatusCode::OK, started));
    assert_eq!(connect(&ada, "other").await.0, StatusCode::OK);
}

#[tokio::test]
async fn values_are_bound_to_their_row() {
    let app = TestApp::new().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    connect(&ada, "k").await;
    connect(&bob, "k").await;
    let swap = "update idempotency_key set answer = (select answer from idempotency_key where user_id = 'ada') \
                where user_id = 'bob'";
    sqlx::query(swap)
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    let (status, refused) = connect(&bob, "k").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{refused}");
    assert_eq!(connect(&ada, "k").await.0, StatusCode::OK);
}

#[tokio::test]
async fn without_a_key_values_are_stored_as_they_are() {
    let app = TestApp::with(&[(KEY, "")]).await;
    let hooks = outgoing_webhooks::webhooks(&app).await;
    let url = "https://hooks.example.com/".parse().unwrap();
    let (_, secret) = hooks.add(&url, &[], false).await.unwrap();
    let ada = app.user("ada").await;
    let (_, started) = connect(&ada, "k").await;
    let endpoints = stored(&app, "webhook_endpoint").await;
    assert!(endpoints.contains(secret.expose_secret()));
    assert!(
        stored(&app, "idempotency_key")
            .await
            .contains(&session(&started))
    );
    // A key that is added later encrypts existing values.
    let encrypted = app.replica(&[(KEY, OTHER)]).await;
    assert_eq!(
        connect(&ada.at(&encrypted), "k").await,
        (StatusCode::OK, started)
    );
    assert_eq!(
        webhooks_with(&app, OTHER).await.reencrypt().await.unwrap(),
        1
    );
    let endpoints = stored(&app, "webhook_endpoint").await;
    assert!(!endpoints.contains(secret.expose_secret()), "{endpoints}");
}

/// Returns for each replica whether it repeats the stored response to the same key.
async fn answered(ada: &User<'_>, replicas: &[Replica], key: &str) -> Vec<bool> {
    let mut answered = Vec::new();
    for replica in replicas {
        let (status, _) = connect(&ada.at(replica), key).await;
        assert!(status == StatusCode::OK || status == StatusCode::INTERNAL_SERVER_ERROR);
        answered.push(status == StatusCode::OK);
    }
    answered
}

#[tokio::test]
async fn keys_are_rotated_while_replicas_run_side_by_side() {
    let app = TestApp::new().await;
    let both = [
        format!("{ENCRYPTION_KEY},{OTHER}"),
        format!("{OTHER}, {ENCRYPTION_KEY}"),
    ];
    let mut replicas = Vec::new();
    for keys in [ENCRYPTION_KEY, &both[0], &both[1], OTHER] {
        replicas.push(app.replica(&[(KEY, keys)]).await);
    }
    let ada = app.user("ada").await;
    for (n, reads) in [
        (0, [true, true, true, false]),
        (1, [true, true, true, false]),
        (2, [false, true, true, true]),
        (3, [false, true, true, true]),
    ] {
        let key = format!("of replica {n}");
        assert_eq!(connect(&ada.at(&replicas[n]), &key).await.0, StatusCode::OK);
        assert_eq!(answered(&ada, &replicas, &key).await, reads, "{key}");
    }
}

#[tokio::test]
async fn endpoint_secrets_follow_the_first_key_and_sign_meanwhile() {
    let app = TestApp::with(&[("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8")]).await;
    let hooks = outgoing_webhooks::webhooks(&app).await;
    let url = "http://127.0.0.1:9/".parse().unwrap();
    let (id, _) = hooks.add(&url, &[], false).await.unwrap();
    let both = format!("{OTHER},{ENCRYPTION_KEY}");
    let during = webhooks_with(&app, &both).await;
    let after = webhooks_with(&app, OTHER).await;
    let reported = |sent: Result<u16, PostError>| sent.unwrap_err().to_string();
    // No server listens on this port; a connection error shows that the message was signed.
    for able in [&hooks, &during] {
        let reported = reported(able.test(&id).await.unwrap());
        assert!(!reported.contains("ENCRYPTION_KEY"), "{reported}");
    }
    let missing = reported(after.test(&id).await.unwrap());
    assert!(
        missing.starts_with("the message was not sent: ")
            && missing.contains("ENCRYPTION_KEY does not hold"),
        "{missing}"
    );
    assert_eq!(after.reencrypt().await.unwrap(), 0);
    assert_eq!(after.secrets_at_rest().await.unwrap().unreadable.len(), 1);

    assert_eq!(during.secrets_at_rest().await.unwrap().of_another_key, 1);
    assert_eq!(during.reencrypt().await.unwrap(), 1);
    assert_eq!(during.reencrypt().await.unwrap(), 0);
    let reported = reported(after.test(&id).await.unwrap());
    assert!(!reported.contains("ENCRYPTION_KEY"), "{reported}");
}

#[tokio::test]
async fn old_secret_is_removed_when_it_signs_no_more() {
    let app = TestApp::new().await;
    let hooks = outgoing_webhooks::webhooks(&app).await;
    let url = "https://hooks.example.com/".parse().unwrap();
    let (id, _) = hooks.add(&url, &[], false).await.unwrap();
    hooks.rotate(&id, TimeDelta::hours(1)).await.unwrap();
    let old = "select count(*) from webhook_endpoint where old_secret is not null";
    let mut sql = app.sql().await;
    for (wait, left) in [(TimeDelta::minutes(59), 1_i64), (TimeDelta::minutes(1), 0)] {
        app.advance(wait);
        hooks.reencrypt().await.unwrap();
        let kept: i64 = sqlx::query_scalar(old).fetch_one(&mut sql).await.unwrap();
        assert_eq!(kept, left);
    }
}

#[tokio::test]
async fn answer_is_deleted_when_its_session_expires() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let (_, first) = connect(&ada, "k").await;
    app.advance(TimeDelta::minutes(29));
    assert_eq!(connect(&ada, "k").await.1, first);
    app.advance(TimeDelta::minutes(2));
    // The link is no longer usable, so the same request creates another, whether or not the response was deleted.
    let (status, second) = connect(&ada, "k").await;
    assert_eq!(status, StatusCode::OK, "{second}");
    assert_ne!(second["oauth_url"], first["oauth_url"]);
    assert_eq!(connect(&ada, "k").await.1, second);
    app.advance(TimeDelta::minutes(31));
    app.service()
        .await
        .retention
        .delete_expired_keys()
        .await
        .unwrap();
    assert_eq!(stored(&app, "idempotency_key").await, "");
    // A response without a session is stored for a day.
    app.faults(json!({ "consent": "allow" })).await;
    ada.connected("gmail").await;
    assert_eq!(connect(&ada, "other").await.1["already_connected"], true);
    app.advance(TimeDelta::hours(2));
    app.service()
        .await
        .retention
        .delete_expired_keys()
        .await
        .unwrap();
    assert_ne!(stored(&app, "idempotency_key").await, "");
}

#[tokio::test]
async fn check_says_how_secrets_are_stored() {
    let app = TestApp::with_system_clock().await;
    let hooks = outgoing_webhooks::webhooks(&app).await;
    let url = "https://hooks.example.com/".parse().unwrap();
    let report = run_doctor(&app, &[], None).await;
    assert_eq!(failures(&report), []);
    let without = [(KEY, "")];
    let report = run_doctor(&app, &without, None).await;
    let remediation = "openssl rand -base64 32";
    single_finding(
        &report,
        "encryption",
        Level::Warn,
        "are not encrypted",
        remediation,
    );
    hooks.add(&url, &[], false).await.unwrap();
    let both = format!("{OTHER},{ENCRYPTION_KEY}");
    let report = run_doctor(&app, &[(KEY, &both)], None).await;
    single_finding(
        &report,
        "encryption",
        Level::Warn,
        "1 are encrypted with the second key",
        "within a minute",
    );
    for keys in ["", OTHER] {
        let report = run_doctor(&app, &[(KEY, keys)], None).await;
        let remediation = "as the second one";
        single_finding(
            &report,
            "encryption",
            Level::Fail,
            "ENCRYPTION_KEY does not hold",
            remediation,
        );
    }
}
