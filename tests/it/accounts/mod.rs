//! Accounts of connections: the rules, their lookups, and their use by users and workflows.

mod answers;
mod catalog;
mod logos;
mod lookups;
mod rules;
mod scopes;

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::eventually::eventually;
use crate::test_app::{TestApp, User, WITH_ACCOUNTS};

/// The timeout for a connection to reach its expected state.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Starts a test app with account lookups.
async fn app_with_accounts() -> TestApp {
    // The clock stands still, so the minute of a rate limit would not end.
    TestApp::build(&[(WITH_ACCOUNTS, "1")], |nango| nango.rate_limit = u32::MAX).await
}

fn text<'a>(body: &'a Value, field: &str) -> &'a str {
    let found = body[field].as_str();
    found.unwrap_or_else(|| panic!("{field} in {body:#}"))
}

/// Waits until a connection satisfies `is_so`.
async fn wait_for(user: &User<'_>, id: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let holds = async || {
        last = user.connection(id).await;
        is_so(&last)
    };
    let result = tokio::time::timeout(WAIT_TIMEOUT, eventually(holds)).await;
    if result.is_err() {
        panic!("{id} did not become as it should be: {last:#}");
    }
    last
}

/// Makes postponed lookups due, as if time had passed.
async fn make_lookups_due(app: &TestApp) {
    let mut sql = app.sql().await;
    let due = "update account_lookup set due_at = now()";
    sqlx::query(due).execute(&mut sql).await.unwrap();
}

/// Reauthorizes a connection with a hint to this account.
async fn reconnect_as(user: &User<'_>, id: &str, account: &str) {
    let path = format!("/connections/{id}/reconnect");
    let body = json!({ "login_hint": account });
    let (_, started) = user.call(Method::POST, &path, Some(body)).await;
    user.app.popup(text(&started, "oauth_url")).await;
}
