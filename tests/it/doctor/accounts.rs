//! The doctor's checks of accounts: scopes that integrations do not request, and connections with unknown accounts.

use patchbay::cli::doctor::Level;
use serde_json::json;

use super::{failures, run_doctor};
use crate::eventually::eventually;
use crate::test_app::{TestApp, WITH_ACCOUNTS};

#[tokio::test]
async fn account_check_reports_scopes_and_unknown_accounts() {
    let app = TestApp::with(&[(WITH_ACCOUNTS, "1")]).await;
    for (key, scopes) in [("gitlab", "openid,write_repository"), ("linear", "read")] {
        let client = json!({
            "credentials": { "type": "OAUTH2", "client_id": "id", "client_secret": "s", "scopes": scopes },
        });
        let url = format!("http://{}/integrations/{key}", app.sandbox.address());
        let request = app.client.patch(url).bearer_auth(&app.secret_key);
        let answer = request.json(&client).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{key}");
    }
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow", "account_lookup_status": 503 }))
        .await;
    let started = ada.connect("github").await;
    app.popup(started["oauth_url"].as_str().unwrap()).await;
    let id = started["connection_id"].as_str().unwrap();
    eventually(async || ada.connection(id).await["account_unknown_reason"].is_string()).await;

    let report = run_doctor(&app, &[], None).await;
    let all = failures(&report);
    let found: Vec<_> = all.iter().filter(|it| it.0 == "accounts").collect();
    let [unknown, scopes] = found[..] else {
        panic!("{report}");
    };
    assert_eq!((unknown.1, scopes.1), (Level::Warn, Level::Warn));
    assert_eq!(
        unknown.2,
        "github: the account of 1 connection is not known (provider_unavailable)"
    );
    assert!(scopes.2.contains("gitlab"), "{scopes:?}");
    assert!(
        scopes.3.contains("read_user or api or read_api"),
        "{scopes:?}"
    );
}
