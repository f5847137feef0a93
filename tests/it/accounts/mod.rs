//! Whose account a connection is: the rules, their look-ups, and what users and workflows see of them.

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

/// How long a connection may take to become as it should be.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// A test app whose accounts are looked up.
async fn app_with_accounts() -> TestApp {
    // Time stands still: a rate limit's minute would not end.
    TestApp::build(&[(WITH_ACCOUNTS, "1")], |nango| nango.rate_limit = u32::MAX).await
}

fn text<'a>(body: &'a Value, field: &str) -> &'a str {
    let found = body[field].as_str();
    found.unwrap_or_else(|| panic!("{field} in {body:#}"))
}

/// Waits until a connection is as it should be.
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

/// Makes the look-ups that wait for their next try due, as time does.
async fn make_lookups_due(app: &TestApp) {
    let mut sql = app.sql().await;
    let due = "update account_lookup set due_at = now()";
    sqlx::query(due).execute(&mut sql).await.unwrap();
}

/// Authorizes a connection again, as the account that the provider is hinted at.
async fn reconnect_as(user: &User<'_>, id: &str, account: &str) {
    let path = format!("/connections/{id}/reconnect");
    let body = json!({ "login_hint": account });
    let (_, started) = user.call(Method::POST, &path, Some(body)).await;
    user.app.popup(text(&started, "oauth_url")).await;
}
