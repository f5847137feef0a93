//! Whose account a connection is: what Nango's connection says, and one request to the provider.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use url::Url;

use super::Result;
use super::core::{Core, NangoGateway};
use super::current_catalog::CurrentCatalog;
use crate::catalog::{AccountFields, AccountRule, scopes};
use crate::db;
use crate::domain::{
    Account, AccountDetails, AccountUnknownReason, AttemptId, Connection, NangoConnectionRef,
    UserId,
};
use crate::nango;
use crate::nango::proxy::ProxyCall;
use crate::nango::{Credentials, Refresh};
use crate::text::{displayable, displayable_id};

/// The longest id, name or address that is kept, in characters.
const MAX_TEXT_LENGTH: usize = 255;

/// The longest address of a picture that is kept, in bytes.
const MAX_URL_LENGTH: usize = 2000;

/// How long a grant waits for what Nango already knows of the account. Afterwards the look-up runs by itself.
const GRANT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long Nango's scripts have after a grant, in seconds.
const SCRIPT_SECONDS: f64 = 5.0;

/// What is known of the account after a look-up.
#[derive(Debug, Default)]
pub(crate) struct Identity {
    pub(crate) account: Option<Account>,
    /// The granted scopes, and those of the asked ones that were not; `None` if that is not known.
    pub(crate) scopes: Option<Vec<String>>,
    pub(crate) missing_scopes: Option<Vec<String>>,
    /// Why the look-up is not complete.
    pub(crate) failure: Option<LookupFailure>,
    /// In how many seconds a grant's account is looked up; `None` if everything is known.
    pub(crate) next_lookup: Option<f64>,
}

/// Why a look-up is not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LookupFailure {
    pub(crate) reason: AccountUnknownReason,
    /// `true` if the same look-up may succeed later.
    pub(crate) is_transient: bool,
}

impl LookupFailure {
    pub(crate) fn permanent(reason: AccountUnknownReason) -> Self {
        Self {
            reason,
            is_transient: false,
        }
    }

    pub(crate) fn transient(reason: AccountUnknownReason) -> Self {
        Self {
            reason,
            is_transient: true,
        }
    }

    fn of_nango(error: &nango::Error) -> Self {
        match error {
            nango::Error::Unauthorized { .. } => {
                Self::transient(AccountUnknownReason::NangoMisconfigured)
            }
            nango::Error::NotFound | nango::Error::InvalidCredentials { .. } => {
                Self::transient(AccountUnknownReason::ProviderUnavailable)
            }
            error if error.is_transient() => {
                Self::transient(AccountUnknownReason::ProviderUnavailable)
            }
            _ => Self::permanent(AccountUnknownReason::NangoMisconfigured),
        }
    }

    /// The failure of a provider's status; `None` for a success. `may_lack_scope` unless all scopes are known to be granted.
    fn of_status(status: StatusCode, may_lack_scope: bool) -> Option<Self> {
        if status.is_success() {
            return None;
        }
        Some(match status.as_u16() {
            401 | 403 if may_lack_scope => Self::permanent(AccountUnknownReason::MissingScope),
            408 | 425 | 429 | 500..=599 => {
                Self::transient(AccountUnknownReason::ProviderUnavailable)
            }
            _ => Self::permanent(AccountUnknownReason::Refused),
        })
    }
}

/// Identifies whose account a connection is.
#[derive(Debug)]
pub(crate) struct AccountIdentifier {
    core: Arc<Core>,
    catalog: Arc<CurrentCatalog>,
}

impl AccountIdentifier {
    pub(crate) fn new(core: Arc<Core>, catalog: Arc<CurrentCatalog>) -> Self {
        Self { core, catalog }
    }

    /// Returns the rule by which a connection's account is looked up.
    pub(crate) fn account_rule(&self, connection: &Connection) -> Option<AccountRule> {
        let catalog = self.catalog.current();
        let connector = catalog.get(&connection.connector.slug)?;
        let rule = connector.account_rule().cloned();
        Some(rule.unwrap_or_else(AccountRule::scopes_only))
    }

    /// Returns whose account a connection is, as far as a refreshed token's answer says.
    pub(crate) fn account_of(
        &self,
        connection: &Connection,
        found: &nango::Connection,
    ) -> Option<Account> {
        let rule = self.account_rule(connection)?;
        // A refresh replaces the token response: another alternative may count then.
        let fields = (!rule.ids_differ).then(|| rule.read(&document(found)))?;
        account(fields)
    }

    /// Returns what Nango already knows of a grant's account, within a bounded time. Only where the connection is known to
    /// be one account's, the provider is asked as well: another account's credentials must not be used meanwhile.
    pub(crate) async fn identify_grant(
        &self,
        connection: &Connection,
        grant: &NangoConnectionRef,
        attempt: AttemptId,
    ) -> Identity {
        let is_renewed = connection.account.is_some() && connection.state.upstream().is_some();
        let lookup = self.look_up(connection, grant, Some(attempt), is_renewed);
        let late = LookupFailure::transient(AccountUnknownReason::ProviderUnavailable);
        let result = tokio::time::timeout(GRANT_TIMEOUT, lookup).await;
        let mut identity = result.unwrap_or_else(|_elapsed| Identity {
            failure: Some(late),
            ..Identity::default()
        });
        let fails = identity.failure.is_some_and(|failure| failure.is_transient);
        // Until Nango's scripts have run, a renewed connection has the values of the account before.
        let is_stale = connection.state.upstream().is_some() && self.reads_scripts(connection);
        identity.next_lookup = match (is_stale, fails) {
            (true, _) => Some(SCRIPT_SECONDS),
            (false, true) => Some(0.0),
            (false, false) => None,
        };
        identity
    }

    /// Returns whether Nango may write a connection's id after the grant.
    fn reads_scripts(&self, connection: &Connection) -> bool {
        let rule = self.account_rule(connection);
        rule.is_some_and(|rule| rule.id_source.as_deref() == Some("connection_config"))
    }

    /// Looks up whose account a connection at Nango is, and what was granted. `attempt` is the granted one.
    pub(crate) async fn look_up(
        &self,
        connection: &Connection,
        upstream: &NangoConnectionRef,
        attempt: Option<AttemptId>,
        with_request: bool,
    ) -> Identity {
        let failed = |failure| Identity {
            failure: Some(failure),
            ..Identity::default()
        };
        let rule = self.account_rule(connection);
        let Some(rule) = rule.filter(|rule| rule.identifies_account() || rule.has_scopes()) else {
            return failed(LookupFailure::permanent(AccountUnknownReason::NotOffered));
        };
        let Ok(gateway) = self.core.nango_gateway() else {
            return failed(LookupFailure::transient(
                AccountUnknownReason::NangoMisconfigured,
            ));
        };
        let (nango_id, key) = (upstream.id.as_str(), upstream.integration.key.as_str());
        let found = match gateway
            .nango
            .connection(nango_id, key, Refresh::WhenDue)
            .await
        {
            Ok(found) => found,
            Err(error) => return failed(LookupFailure::of_nango(&error)),
        };
        let document = document(&found);
        let granted = rule.granted_scopes(&document);
        let missing_scopes = match &granted {
            Some(granted) => {
                let asked = self
                    .asked_scopes(gateway, &connection.user_id, key, attempt)
                    .await;
                asked.map(|asked| scopes::missing(&asked, granted))
            }
            None => None,
        };
        let (fields, failure) = self
            .read_account(gateway, (nango_id, key), &rule, document, with_request)
            .await;
        let withheld = matches!(found.credentials, Credentials::Withheld);
        let account = account(fields);
        let failure = failure.or_else(|| {
            let reason = match (&account, withheld) {
                (Some(_), _) => return None,
                (None, _) if !rule.identifies_account() => AccountUnknownReason::NotOffered,
                (None, true) => AccountUnknownReason::NangoMisconfigured,
                (None, false) => AccountUnknownReason::NotInAnswer,
            };
            Some(LookupFailure::permanent(reason))
        });
        Identity {
            account,
            scopes: granted,
            missing_scopes,
            failure,
            next_lookup: None,
        }
    }

    /// Reads the account from a document, and from the answer of the rule's request where that adds something.
    async fn read_account(
        &self,
        gateway: &NangoGateway,
        at: (&str, &str),
        rule: &AccountRule,
        mut document: Value,
        with_request: bool,
    ) -> (AccountFields, Option<LookupFailure>) {
        let fields = rule.read(&document);
        if !rule.needs_request(&fields) {
            // Nango's scripts write some values a moment after the grant.
            let waits =
                fields.id.is_none() && rule.id_source.as_deref() == Some("connection_config");
            let failure = LookupFailure::transient(AccountUnknownReason::MissingConfig);
            return (fields, waits.then_some(failure));
        }
        if !with_request {
            let failure = LookupFailure::transient(AccountUnknownReason::ProviderUnavailable);
            return (fields, Some(failure));
        }
        match request_account(gateway, at, rule, &document).await {
            Ok(response) => {
                document["response"] = response;
                let read = rule.read(&document);
                let failure = LookupFailure::transient(AccountUnknownReason::NotInAnswer);
                let lacks_id = rule.identifies_account() && read.id.is_none();
                (read, lacks_id.then_some(failure))
            }
            Err(failure) => (fields, Some(failure)),
        }
    }

    /// Returns the scopes that an authorization asked for; `None` if they are not known.
    async fn asked_scopes(
        &self,
        gateway: &NangoGateway,
        user: &UserId,
        key: &str,
        attempt: Option<AttemptId>,
    ) -> Option<Vec<String>> {
        if let Some(attempt) = attempt
            && let Some(scopes) = self.attempt_scopes(user, attempt).await.ok()?
        {
            return Some(scopes);
        }
        gateway.integrations.scopes(key).await
    }

    async fn attempt_scopes(
        &self,
        user: &UserId,
        attempt: AttemptId,
    ) -> Result<Option<Vec<String>>> {
        let mut tx = self.core.begin_single().await?;
        let scopes = db::attempt_scopes(&mut tx, user, attempt).await?;
        tx.commit().await?;
        Ok(scopes)
    }
}

/// Sends a rule's request through Nango's proxy. The answer is neither stored nor logged: it may hold secrets.
async fn request_account(
    gateway: &NangoGateway,
    (nango_id, key): (&str, &str),
    rule: &AccountRule,
    document: &Value,
) -> Result<Value, LookupFailure> {
    let misconfigured = LookupFailure::permanent(AccountUnknownReason::NangoMisconfigured);
    let request = rule
        .request(document)
        .map_err(|_pointer| LookupFailure::transient(AccountUnknownReason::MissingConfig))?;
    let mut headers = HeaderMap::new();
    for (name, value) in &rule.headers {
        let name = HeaderName::try_from(name.as_str()).map_err(|_invalid| misconfigured)?;
        let value = HeaderValue::try_from(value.as_str()).map_err(|_invalid| misconfigured)?;
        headers.insert(name, value);
    }
    let body = rule.body.as_ref().map(|body| match body {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    if body.is_some() {
        let json = HeaderValue::from_static("application/json");
        headers.entry(CONTENT_TYPE).or_insert(json);
    }
    let method = rule.method.parse().unwrap_or(Method::GET);
    let target = (request.path.as_str(), request.query.as_deref());
    let mut call = ProxyCall::new(method, target, &headers)
        .map_err(|_unsafe_path| LookupFailure::permanent(AccountUnknownReason::MissingConfig))?;
    if let Some(body) = body {
        call = call.with_body(body.into());
    }
    if let Some(base_url) = &request.base_url {
        call = call.with_base_url(base_url).ok_or(misconfigured)?;
    }
    let (status, answer) = gateway
        .nango
        .proxy_json(nango_id, key, call)
        .await
        .map_err(|error| LookupFailure::of_nango(&error))?;
    let granted = rule.granted_scopes(document);
    let may_lack_scope = match &granted {
        Some(granted) => !rule.scopes_not_in(granted).is_empty(),
        None => !rule.scopes.is_empty(),
    };
    if let Some(failure) = LookupFailure::of_status(status, may_lack_scope) {
        return Err(failure);
    }
    // A page of a proxy or of maintenance, or an error with a success status: the next answer may be another.
    let failure = LookupFailure::transient(AccountUnknownReason::NotInAnswer);
    answer.filter(|answer| !is_error(answer)).ok_or(failure)
}

/// Returns whether an answer with a success status reports an error, as some APIs do.
fn is_error(answer: &Value) -> bool {
    let is_set = |value: &Value| match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_i64() != Some(0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => !fields.is_empty() && answer["error"]["code"] != "ok",
    };
    answer["ok"] == false
        || answer["success"] == false
        || answer["status"] == "error"
        || is_set(&answer["error"])
        || is_set(&answer["errors"])
}

/// What a rule reads of a connection at Nango, without the answer of its request.
fn document(connection: &nango::Connection) -> Value {
    let parsed = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
    let mut credentials = Value::Null;
    let raw: Value = match &connection.credentials {
        Credentials::OAuth2 { raw, .. } => parsed(raw.expose_secret()),
        Credentials::Other { raw, .. } => parsed(raw.expose_secret())["raw"].take(),
        Credentials::Basic { username, .. } => {
            credentials = json!({ "username": username.expose_secret() });
            Value::Null
        }
        _ => Value::Null,
    };
    json!({
        "connection_config": connection.connection_config,
        "metadata": connection.metadata,
        "credentials": credentials,
        "id_token": raw.get("id_token").and_then(Value::as_str).and_then(claims),
        "raw": raw,
    })
}

/// Returns the claims of an id_token. It comes from the provider's token endpoint over TLS, so its signature says nothing
/// more (OpenID Connect Core, 3.1.3.7).
fn claims(token: &str) -> Option<Value> {
    let body = token.split('.').nth(1)?.trim_end_matches('=');
    let body = URL_SAFE_NO_PAD.decode(body).ok()?;
    serde_json::from_slice(&body).ok()
}

/// Returns the account, its texts made fit to be shown; `None` without an id.
fn account(fields: AccountFields) -> Option<Account> {
    let shown = |text: Option<String>| {
        let text: String = displayable(&text?).take(MAX_TEXT_LENGTH).collect();
        Some(text).filter(|text| !text.trim().is_empty())
    };
    let id = displayable_id(&fields.id?);
    let is_picture = |url: &String| {
        let parsed = Url::parse(url);
        url.len() <= MAX_URL_LENGTH && parsed.is_ok_and(|url| url.scheme() == "https")
    };
    Some(Account {
        id: id.chars().take(MAX_TEXT_LENGTH).collect(),
        name: shown(fields.name),
        details: AccountDetails {
            email: shown(fields.email),
            avatar_url: fields.avatar.filter(is_picture),
            workspace_id: shown(fields.workspace_id),
            workspace_name: shown(fields.workspace),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_name_has_no_direction_of_its_own_and_ids_stay_apart() {
        let account = |id: &str, name: &str| {
            let fields = AccountFields {
                id: Some(id.to_owned()),
                name: Some(name.to_owned()),
                ..AccountFields::default()
            };
            account(fields).expect("the account is in the response")
        };
        let plain = account("ada", "Ada");
        let turned = account("a\u{202e}da", "\u{202e}Ada\u{2069}\n");
        assert_eq!(turned.name.as_deref(), Some("Ada "));
        assert_ne!(turned.id, plain.id);
        assert_eq!(turned.id, "a\\u{202e}da");
        assert_eq!(account("ada", "\u{202e}").name, None);
        assert_eq!(account(&"x".repeat(300), "n").id.len(), 255);
    }

    #[test]
    fn picture_has_to_be_https() {
        let picture = |url: &str| {
            let fields = AccountFields {
                id: Some("1".to_owned()),
                avatar: Some(url.to_owned()),
                ..AccountFields::default()
            };
            account(fields).and_then(|account| account.details.avatar_url)
        };
        assert!(picture("https://img.example.com/a.png").is_some());
        for url in [
            "http://img.example.com/a.png",
            "javascript:alert(1)",
            "/a.png",
            "data:image/png;base64,AA",
        ] {
            assert_eq!(picture(url), None);
        }
    }

    #[test]
    fn error_with_success_status_is_recognized() {
        for error in [
            json!({ "ok": false, "user": { "id": 1 } }),
            json!({ "success": false }),
            json!({ "id": "unauthorized", "error": "not allowed" }),
            json!({ "data": null, "errors": [{ "message": "rate limited" }] }),
            json!({ "status": "error", "code": "INVALID_TOKEN" }),
            json!({ "error": { "code": "access_token_invalid" } }),
        ] {
            assert!(is_error(&error), "{error}");
        }
        for answer in [
            json!({ "ok": true, "error": null, "errors": [] }),
            json!({ "data": {}, "error": { "code": "ok", "message": "" } }),
            json!({ "status": "active", "error": false }),
            json!([{ "id": 1 }]),
            json!("text"),
        ] {
            assert!(!is_error(&answer), "{answer}");
        }
    }

    #[test]
    fn claims_of_broken_id_token_are_none() {
        for token in ["", "a.b", "a.!!.c", "a.e30", "e30"] {
            assert!(
                claims(token).is_none_or(|claims| claims == json!({})),
                "{token}"
            );
        }
    }
}
