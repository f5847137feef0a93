//! The public address, whose pages may call, and webhooks.

use axum::Router;
use axum::routing::get;
use patchbay::cli::doctor::Level;

use super::{checked, only, wrong};
use crate::house::House;
use crate::server::serve;

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
    let report = checked(
        &house,
        &[("NANGO_WEBHOOK_SIGNING_KEY", "another signing key")],
        None,
    )
    .await;
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
