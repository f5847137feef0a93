//! Accounts of connections: the rules, their lookups, and their use by users and workflows.

mod answers;
mod catalog;
mod logos;
mod lookups;
mod rules;
mod scopes;

use reqwest::Method;
use serde_json::{Value, json};

use crate::eventually::eventually_value;
use crate::test_app::{TestApp, User, WITH_ACCOUNTS};

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
    eventually_value(async || user.connection(id).await, is_so).await
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
