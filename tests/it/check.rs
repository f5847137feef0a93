//! The setup's checklist: all green against the sandbox; then each thing is broken in turn.

use axum::Router;
use axum::routing::get;
use chrono::TimeDelta;
use patchbay::check::{self, Level, Report};
use patchbay::clock::Clock;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use url::Url;
use uuid::Uuid;

use crate::house::{House, JWT_SECRET, User};
use crate::postgres;
use crate::process::Process;
use crate::server::serve;

/// Checks what the house is set up with, but for these variables.
async fn checked(house: &House, changes: &[(&'static str, &str)], token: Option<&str>) -> Report {
    let settings = house.settings(changes);
    let lookup = |name: &str| {
        let found = settings.iter().rev().find(|(key, _)| *key == name);
        found.map(|(_, value)| value.clone())
    };
    check::run(&lookup, token, &Clock::System).await
}

/// The lines that are not as they should be: the check, how bad it is, what was found and what mends it.
fn wrong(report: &Report) -> Vec<(&str, Level, &str, &str)> {
    let lines = report.lines.iter().filter(|line| line.level != Level::Ok);
    lines
        .map(|line| {
            let mend = line.mend.as_deref().expect("what is wrong can be mended");
            (line.check, line.level, line.found.as_str(), mend)
        })
        .collect()
}

/// Fails unless this is the only thing that is wrong.
fn only(report: &Report, check: &str, level: Level, found: &str, mend: &str) {
    let all = wrong(report);
    let [one] = all.as_slice() else {
        panic!("not one thing is wrong but {all:#?}");
    };
    assert_eq!((one.0, one.1), (check, level), "{one:?}");
    assert!(one.2.contains(found), "{one:?}");
    assert!(one.3.contains(mend), "{one:?}");
    assert_eq!(report.passes(), level != Level::Fail);
}

#[tokio::test]
async fn against_the_sandbox_all_is_well_and_nothing_is_changed() {
    let house = House::now().await;
    let ada = house.user("ada").await;
    ada.connected("gmail").await;
    let before = ada.get("/connections").await;
    let report = checked(&house, &[], Some(&ada.token)).await;
    assert_eq!(wrong(&report), [], "{report}");
    let checks: Vec<&str> = report.lines.iter().map(|line| line.check).collect();
    assert_eq!(
        checks,
        [
            "configuration",
            "database",
            "migrations",
            "database clock",
            "pooler",
            "nango",
            "nango key",
            "nango scopes",
            "connectors",
            "nango clock",
            "public url",
            "cors",
            "reachable",
            "webhooks",
            "callback",
            "tokens",
            "token alg",
            "token iss",
            "token aud",
            "token exp",
            "token iat",
            "token user",
            "token",
        ],
        "{report}"
    );
    let last = report.lines.last().unwrap();
    assert_eq!(last.found, "it is good: its bearer is the user ada");
    assert_eq!(ada.get("/connections").await, before);
    let sessions = house.control("requests", Method::GET, Value::Null).await;
    let made = |call: &&Value| {
        call["method"] != "GET" && call["status"].as_u64().is_some_and(|status| status < 300)
    };
    // One session, of the user's own connect.
    assert_eq!(sessions.as_array().unwrap().iter().filter(made).count(), 1);
}

#[tokio::test]
async fn the_program_prints_a_table_or_json_and_ends_accordingly() {
    let house = House::now().await;
    let settings = house.settings(&[]);
    let settings: Vec<(&str, &str)> = settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let mut table = Process::start(&["check"], &settings);
    assert!(table.ended().await.success(), "{}", table.said());
    let said = table.said();
    assert!(said.contains("ok    database        PostgreSQL "), "{said}");
    assert!(said.ends_with(" ok, 0 to know, 0 to mend\n"), "{said}");
    assert!(!said.contains(&house.secret_key) && !said.contains(&house.signing_key));

    let mut broken = settings.clone();
    broken.push(("NANGO_SECRET_KEY", &house.signing_key));
    let mut json = Process::start(&["check", "--json"], &broken);
    assert_eq!(json.ended().await.code(), Some(1));
    let report: Value = serde_json::from_str(&json.said()).unwrap();
    let lines = report["lines"].as_array().unwrap();
    let line = lines.iter().find(|line| line["check"] == "nango key");
    assert_eq!(line.unwrap()["level"], "fail");
    assert!(line.unwrap()["mend"].is_string());
}

#[tokio::test]
async fn what_is_not_set_is_told_and_the_database_is_looked_at_all_the_same() {
    let house = House::now().await;
    let report = checked(&house, &[("PUBLIC_URL", ""), ("PORT", "x")], None).await;
    let all = wrong(&report);
    assert_eq!(all.len(), 2, "{all:#?}");
    assert!(all[0].2.starts_with("PORT cannot be read"));
    assert!(all[1].2.starts_with("PUBLIC_URL is missing"));
    assert!(report.lines.iter().any(|line| line.check == "migrations"));
}

#[tokio::test]
async fn what_is_wrong_with_the_database_is_told() {
    let house = House::now().await;
    let gone = "postgres://nobody@127.0.0.1:9/nowhere";
    let report = checked(&house, &[("DATABASE_URL", gone)], None).await;
    only(
        &report,
        "database",
        Level::Fail,
        "cannot be reached",
        "start the database",
    );

    let settings = house.settings(&[]);
    let url = settings.iter().find(|(name, _)| *name == "DATABASE_URL");
    let mut elsewhere: Url = url.unwrap().1.parse().unwrap();
    elsewhere.set_path("no_such_database");
    let report = checked(&house, &[("DATABASE_URL", elsewhere.as_str())], None).await;
    only(
        &report,
        "database",
        Level::Fail,
        "refuses",
        "correct user, password and database",
    );

    let empty = postgres::database().await;
    let report = checked(&house, &[("DATABASE_URL", empty.url())], None).await;
    only(
        &report,
        "migrations",
        Level::Warn,
        "not applied yet",
        "the next start",
    );

    let before = postgres::database().await;
    let mut sql = PgConnection::connect(before.url()).await.unwrap();
    let schema = include_str!("../data/predecessor/schema.sql");
    sqlx::raw_sql(schema).execute(&mut sql).await.unwrap();
    let report = checked(&house, &[("DATABASE_URL", before.url())], None).await;
    only(
        &report,
        "migrations",
        Level::Warn,
        "those of the service before",
        "`patchbay migrate` or the next start takes them over",
    );

    let mut pooled: Url = url.unwrap().1.parse().unwrap();
    pooled.query_pairs_mut().append_pair("pgbouncer", "true");
    let report = checked(&house, &[("DATABASE_URL", pooled.as_str())], None).await;
    only(
        &report,
        "pooler",
        Level::Warn,
        "transaction mode",
        "session mode",
    );
}

#[tokio::test]
async fn migrations_of_a_newer_version_are_told_where_they_matter() {
    let house = House::now().await;
    for (migration, level, found, mend) in [
        ("9001, 'of tomorrow'", None, "", ""),
        (
            "9002, 'contract it'",
            Some(Level::Fail),
            "has removed",
            "run that version",
        ),
    ] {
        let insert = format!(
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
             values ({migration}, true, '', 0)"
        );
        let mut sql = house.sql().await;
        sqlx::raw_sql(AssertSqlSafe(insert))
            .execute(&mut sql)
            .await
            .unwrap();
        let report = checked(&house, &[], None).await;
        match level {
            Some(level) => only(&report, "migrations", level, found, mend),
            None => assert_eq!(wrong(&report), []),
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_nango_is_told() {
    let house = House::now().await;
    let report = checked(&house, &[("NANGO_ENABLED", "false")], None).await;
    only(
        &report,
        "nango",
        Level::Warn,
        "switched off",
        "NANGO_ENABLED=true",
    );
    let another = Uuid::new_v4().to_string();
    let report = checked(&house, &[("NANGO_SECRET_KEY", &another)], None).await;
    only(
        &report,
        "nango key",
        Level::Fail,
        "unknown_account",
        "NANGO_SECRET_KEY",
    );
    let report = checked(&house, &[("NANGO_BASE_URL", "http://127.0.0.1:9")], None).await;
    let all = wrong(&report);
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
    ] {
        house.faults(json!({ "only": call, "status": 403 })).await;
        let report = checked(&house, &[], None).await;
        only(&report, "nango scopes", Level::Fail, found, "the scope to");
    }
    house
        .faults(json!({ "only": "DELETE /connections", "status": 500 }))
        .await;
    let report = checked(&house, &[], None).await;
    only(
        &report,
        "nango scopes",
        Level::Warn,
        "is not known",
        "again",
    );
}

#[tokio::test]
async fn connectors_without_their_integration_are_told_one_by_one() {
    let house = House::build(&[], |nango| {
        nango.clock = Clock::System;
        nango.integrations.retain(|one| one.unique_key != "gmail");
        for one in &mut nango.integrations {
            if one.unique_key == "github" {
                "gitlab".clone_into(&mut one.provider);
            }
        }
    })
    .await;
    let report = checked(&house, &[], None).await;
    let all = wrong(&report);
    assert_eq!(all.len(), 2, "{all:#?}");
    let of = |slug: &str| *all.iter().find(|line| line.2.starts_with(slug)).unwrap();
    let (check, level, found, mend) = of("gmail");
    assert_eq!((check, level), ("connector", Level::Warn));
    assert_eq!(found, "gmail: Nango has no integration \"gmail\"");
    assert!(mend.contains("add \"gmail\" of the provider"), "{mend}");
    let (check, level, found, _) = of("github");
    assert_eq!((check, level), ("connector", Level::Fail));
    assert!(found.contains("of the provider \"gitlab\""), "{found}");

    let bare = House::build(&[], |nango| {
        nango.clock = Clock::System;
        nango.integrations.clear();
    })
    .await;
    let report = checked(&bare, &[], None).await;
    let all = wrong(&report);
    let last = all.last().unwrap();
    assert_eq!((last.0, last.1), ("connectors", Level::Fail));
}

#[tokio::test]
async fn what_is_wrong_with_the_public_address_is_told() {
    let house = House::now().await;
    let gone = "http://127.0.0.1:9";
    let report = checked(&house, &[("PUBLIC_URL", gone)], None).await;
    only(
        &report,
        "reachable",
        Level::Fail,
        "/healthz",
        "start the service",
    );
    let other = serve(Router::new().route("/healthz", get(async || "hello"))).await;
    let report = checked(&house, &[("PUBLIC_URL", other.as_str())], None).await;
    only(
        &report,
        "reachable",
        Level::Fail,
        "not as this service does",
        "correct PUBLIC_URL",
    );
    let deaf = serve(Router::new().route("/healthz", get(async || "ok\n"))).await;
    let report = checked(&house, &[("PUBLIC_URL", deaf.as_str())], None).await;
    let all = wrong(&report);
    assert_eq!((all[0].0, all[0].1), ("webhooks", Level::Fail));
    assert_eq!((all[1].0, all[1].1), ("callback", Level::Warn));

    let changes = [("PUBLIC_URL", "http://connect.invalid")];
    let report = checked(&house, &changes, None).await;
    let (check, level, found, mend) = wrong(&report)[0];
    assert_eq!((check, level), ("public url", Level::Fail));
    assert!(found.contains("not https") && mend.contains("certificate"));
    // A Nango that is elsewhere cannot call this machine's own address.
    let changes = [("NANGO_BASE_URL", "http://nango.invalid")];
    let report = checked(&house, &changes, None).await;
    let all = wrong(&report);
    let local = all.iter().find(|line| line.0 == "public url").unwrap();
    assert!(local.2.contains("which Nango cannot reach"), "{local:?}");

    let report = checked(&house, &[("CORS_ALLOWED_ORIGINS", "")], None).await;
    only(
        &report,
        "cors",
        Level::Warn,
        "no origin",
        "CORS_ALLOWED_ORIGINS",
    );
    let open = [(
        "CORS_ALLOWED_ORIGINS",
        "http://localhost:5173, http://app.example.com",
    )];
    let report = checked(&house, &open, None).await;
    only(
        &report,
        "cors",
        Level::Warn,
        "http://app.example.com is not https",
        "https",
    );
}

#[tokio::test]
async fn what_is_wrong_with_the_signing_key_is_told() {
    let house = House::now().await;
    let report = checked(&house, &[("NANGO_WEBHOOK_SIGNING_KEY", "another")], None).await;
    only(
        &report,
        "webhooks",
        Level::Fail,
        "takes no webhook",
        "the same NANGO_WEBHOOK_SIGNING_KEY",
    );
    let same = house.secret_key.clone();
    let report = checked(&house, &[("NANGO_WEBHOOK_SIGNING_KEY", &same)], None).await;
    let all = wrong(&report);
    assert_eq!((all[0].0, all[0].1), ("webhook key", Level::Fail));
    assert!(all[0].3.contains("Environment settings, Webhooks"));
}

#[tokio::test]
async fn what_is_wrong_with_the_way_tokens_are_verified_is_told() {
    let house = House::now().await;
    let keys = serve(Router::new().route(
        "/jwks",
        get(async || r#"{"keys":[{"kty":"RSA","n":"AQAB"},{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#),
    )
    .route("/none", get(async || r#"{"keys":[]}"#)))
    .await;
    let with = |path: &str, others: &[(&'static str, &'static str)]| {
        let mut changes = vec![("AUTH_JWKS_URL", format!("{keys}{path}"))];
        changes.extend(
            others
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned())),
        );
        changes
    };
    let named = [
        ("AUTH_ISSUER", "https://id.example.com/"),
        ("AUTH_AUDIENCE", "patchbay"),
    ];
    for (changes, expected) in [
        (with("jwks", &named), None),
        (
            with("none", &named),
            Some(("jwks", Level::Fail, "has no key", "JWKS")),
        ),
        (
            with("gone", &named),
            Some(("jwks", Level::Fail, "404", "AUTH_JWKS_URL")),
        ),
        (
            with("jwks", &named[1..]),
            Some(("issuer", Level::Warn, "any issuer", "AUTH_ISSUER")),
        ),
        (
            with("jwks", &named[..1]),
            Some(("audience", Level::Warn, "another service", "AUTH_AUDIENCE")),
        ),
    ] {
        let changes: Vec<(&'static str, &str)> = changes
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let report = checked(&house, &changes, None).await;
        match expected {
            Some((check, level, found, mend)) => only(&report, check, level, found, mend),
            None => {
                assert_eq!(wrong(&report), []);
                let found = &report
                    .lines
                    .iter()
                    .find(|line| line.check == "jwks")
                    .unwrap()
                    .found;
                assert_eq!(found, "1 usable keys are published");
            }
        }
    }
}

/// A token with these claims besides, signed with this secret.
fn token(claims: &Value, secret: &str) -> String {
    let mut all = json!({ "sub": "ada", "exp": 4_000_000_000_u64 });
    all.as_object_mut()
        .unwrap()
        .extend(claims.as_object().unwrap().clone());
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &all, &key).unwrap()
}

#[tokio::test]
async fn a_token_is_explained_claim_by_claim() {
    let house = House::now().await;
    let changes = [
        ("AUTH_ISSUER", "https://id.example.com/"),
        ("AUTH_AUDIENCE", "patchbay"),
    ];
    let good = json!({ "iss": "https://id.example.com/", "aud": ["other", "patchbay"] });
    let with = |claims: Value| {
        let mut all = good.clone();
        all.as_object_mut()
            .unwrap()
            .extend(claims.as_object().unwrap().clone());
        token(&all, JWT_SECRET)
    };
    let report = checked(&house, &changes, Some(&with(json!({})))).await;
    assert_eq!(wrong(&report), [], "{report}");
    for (bad, lines) in [
        (
            with(json!({ "iss": "https://other.example.com/" })),
            &["token iss", "token"][..],
        ),
        (with(json!({ "aud": "other" })), &["token aud", "token"]),
        (
            with(json!({ "exp": 1_000_000_000 })),
            &["token exp", "token"],
        ),
        (with(json!({ "exp": null })), &["token exp", "token"]),
        (
            with(json!({ "nbf": 3_999_999_999_u64 })),
            &["token nbf", "token"],
        ),
        (with(json!({ "sub": 7 })), &["token"]),
        (
            token(&good, "another secret that has more than 32 bytes"),
            &["token"],
        ),
        ("not.a.token".to_owned(), &["token"]),
    ] {
        let report = checked(&house, &changes, Some(&bad)).await;
        let told: Vec<&str> = wrong(&report).iter().map(|line| line.0).collect();
        assert_eq!(told, lines, "{report}");
        assert!(!report.passes());
        assert!(!report.to_string().contains(&bad), "it is a secret");
    }
    let report = checked(&house, &changes, Some("pbk_sandbox_0123456789abcdef")).await;
    only(
        &report,
        "token",
        Level::Warn,
        "a service key",
        "patchbay keys list",
    );
}

#[tokio::test]
async fn clocks_that_differ_are_told() {
    let house = House::now().await;
    let settings = house.settings(&[]);
    let lookup = |name: &str| {
        let found = settings.iter().rev().find(|(key, _)| *key == name);
        found.map(|(_, value)| value.clone())
    };
    let late = Clock::manual(Clock::System.now() - TimeDelta::minutes(5));
    let report = check::run(&lookup, None, &late).await;
    let told: Vec<(&str, Level)> = wrong(&report).iter().map(|it| (it.0, it.1)).collect();
    assert_eq!(
        told,
        [
            ("database clock", Level::Warn),
            ("nango clock", Level::Warn)
        ]
    );
    assert!(wrong(&report)[0].2.contains("differs by 300 s"), "{report}");
}

#[tokio::test]
async fn a_key_that_sees_no_credentials_is_told() {
    // What the sandbox's own Nango has no keys for: scopes. A Nango in front of it withholds.
    let house = House::now().await;
    let ada: User<'_> = house.user("ada").await;
    ada.connected("gmail").await;
    let nango = format!("http://{}", house.sandbox.address());
    let front = front::withholding(&nango).await;
    let report = checked(&house, &[("NANGO_BASE_URL", &front)], None).await;
    let all = wrong(&report);
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

    pub(super) async fn withholding(nango: &str) -> String {
        let nango = nango.to_owned();
        let pass = move |request: Request| pass(nango.clone(), request);
        crate::server::serve(Router::new().fallback(pass))
            .await
            .as_str()
            .trim_end_matches('/')
            .to_owned()
    }

    async fn pass(nango: String, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let mut headers = parts.headers;
        headers.remove("host");
        let url = format!("{nango}{}", parts.uri);
        let client = crate::house::client();
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
