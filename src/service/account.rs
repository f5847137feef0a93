//! Identification of a connection's account, from the data at Nango and at most one request to the provider.

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
use crate::nango::proxy::ProxyCall;
use crate::nango::{self, Credentials, Priority, Refresh};
use crate::text::{displayable, displayable_id};

/// The maximum length of a stored id, name or email address, in characters.
const MAX_TEXT_LENGTH: usize = 255;

/// The maximum length of a stored picture URL, in bytes. A longer URL is not stored.
const MAX_URL_LENGTH: usize = 2000;

/// The timeout of the account look-up while a grant is applied. After it, the worker looks the account up.
const GRANT_TIMEOUT: Duration = Duration::from_secs(2);

/// The time after a grant in which Nango's scripts write their values, in seconds.
const SCRIPT_SECONDS: f64 = 5.0;

/// The result of an account look-up.
#[derive(Debug, Default)]
pub(crate) struct Identity {
    pub(crate) account: Option<Account>,
    /// The granted scopes; `None` if they are unknown.
    pub(crate) scopes: Option<Vec<String>>,
    /// The requested scopes that were not granted; `None` if they are unknown.
    pub(crate) missing_scopes: Option<Vec<String>>,
    /// The reason for which the look-up is incomplete; `None` if it is complete.
    pub(crate) failure: Option<LookupFailure>,
    /// The delay of the next look-up, in seconds; `None` if no further look-up is needed.
    pub(crate) next_lookup: Option<f64>,
}

/// The reason for which a look-up is incomplete.
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
        use AccountUnknownReason::{NangoMisconfigured, ProviderUnavailable};
        use nango::Error::{InvalidCredentials, NotFound, Unauthorized};
        match error {
            Unauthorized { .. } => Self::transient(NangoMisconfigured),
            NotFound | InvalidCredentials { .. } => Self::transient(ProviderUnavailable),
            error if error.is_transient() => Self::transient(ProviderUnavailable),
            _ => Self::permanent(NangoMisconfigured),
        }
    }

    /// Returns the failure for a provider's status; `None` for a success. `may_lack_scope` is `false` only if all
    /// scopes of the rule were granted.
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

/// The identifier of connections' accounts.
#[derive(Debug)]
pub(crate) struct AccountIdentifier {
    core: Arc<Core>,
    catalog: Arc<CurrentCatalog>,
}

impl AccountIdentifier {
    pub(crate) fn new(core: Arc<Core>, catalog: Arc<CurrentCatalog>) -> Self {
        Self { core, catalog }
    }

    /// Returns the rule by which a connection's account is looked up; `None` if the catalog lacks the connector.
    pub(crate) fn account_rule(&self, connection: &Connection) -> Option<AccountRule> {
        let catalog = self.catalog.current();
        let connector = catalog.get(&connection.connector.slug)?;
        let rule = connector.account_rule().cloned();
        Some(rule.unwrap_or_else(AccountRule::scopes_only))
    }

    /// Returns the account in the data that Nango stores after a refresh, without a request to the provider; `None` if
    /// the data does not identify the account reliably.
    pub(crate) fn account_of(
        &self,
        connection: &Connection,
        found: &nango::Connection,
    ) -> Option<Account> {
        let rule = self.account_rule(connection)?;
        // A refresh replaces the token response, so that another alternative of the id may apply.
        let fields = (!rule.ids_differ).then(|| rule.read(&document(found)))?;
        account(fields)
    }

    /// Returns the account in the data that Nango stores for a grant, within [`GRANT_TIMEOUT`]. If the connection's
    /// account is known, the provider is queried too: another account's credentials must not be used meanwhile.
    /// Otherwise, nothing is queried while Nango's rate limit is short, so that more users can connect.
    pub(crate) async fn identify_grant(
        &self,
        connection: &Connection,
        grant: &NangoConnectionRef,
        attempt: AttemptId,
    ) -> Identity {
        let is_renewed = connection.account.is_some() && connection.state.upstream().is_some();
        let mut found = None;
        if is_renewed || self.core.has_room(Priority::AccountLookup) {
            let lookup = self.look_up(connection, grant, Some(attempt), is_renewed);
            found = tokio::time::timeout(GRANT_TIMEOUT, lookup).await.ok();
        }
        let unavailable = LookupFailure::transient(AccountUnknownReason::ProviderUnavailable);
        let mut identity = found.unwrap_or_else(|| Identity {
            failure: Some(unavailable),
            ..Identity::default()
        });
        let is_transient = identity.failure.is_some_and(|failure| failure.is_transient);
        // Until Nango's scripts have run, a reauthorized connection has the values of the previous account.
        let is_stale = connection.state.upstream().is_some() && self.reads_scripts(connection);
        identity.next_lookup = match (is_stale, is_transient) {
            (true, _) => Some(SCRIPT_SECONDS),
            (false, true) => Some(0.0),
            (false, false) => None,
        };
        identity
    }

    /// Returns whether Nango's scripts write the account's id, possibly after the grant.
    fn reads_scripts(&self, connection: &Connection) -> bool {
        let rule = self.account_rule(connection);
        rule.is_some_and(|rule| rule.id_source.as_deref() == Some("connection_config"))
    }

    /// Looks up the account and the granted scopes of a connection at Nango. `attempt` is the attempt that was granted.
    /// `with_request` allows the rule's request to the provider.
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
                let requested = self
                    .requested_scopes(gateway, &connection.user_id, key, attempt)
                    .await;
                requested.map(|requested| scopes::missing(&requested, granted))
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

    /// Reads the account from a document. Sends the rule's request if its response may add values. `at` is Nango's id
    /// and integration key of the connection.
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
            // Nango's scripts write some values shortly after the grant.
            let is_pending =
                fields.id.is_none() && rule.id_source.as_deref() == Some("connection_config");
            let failure = LookupFailure::transient(AccountUnknownReason::MissingConfig);
            return (fields, is_pending.then_some(failure));
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

    /// Returns the scopes that an attempt or else its integration requested; `None` if they are unknown.
    async fn requested_scopes(
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
        Ok(db::attempt_scopes(&self.core.database, user, attempt).await?)
    }
}

/// Sends a rule's request through Nango's proxy. Returns the JSON response, which must not be stored or logged.
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
    let (status, response) = gateway
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
    // The page of a proxy or of a maintenance, or an error with a success status. A retry may succeed.
    let failure = LookupFailure::transient(AccountUnknownReason::NotInAnswer);
    response
        .filter(|response| !is_error(response))
        .ok_or(failure)
}

/// Returns whether a response with a success status reports an error, as some APIs do.
fn is_error(response: &Value) -> bool {
    let is_set = |value: &Value| match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_i64() != Some(0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => !fields.is_empty() && response["error"]["code"] != "ok",
    };
    response["ok"] == false
        || response["success"] == false
        || response["status"] == "error"
        || is_set(&response["error"])
        || is_set(&response["errors"])
}

/// Returns the document that a rule reads for a connection at Nango, without the response to the rule's request.
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

/// Returns the claims of an id_token; `None` if it is malformed. The signature is not verified, because the token comes
/// from the provider's token endpoint over TLS (OpenID Connect Core, 3.1.3.7).
fn claims(token: &str) -> Option<Value> {
    let body = token.split('.').nth(1)?.trim_end_matches('=');
    let body = URL_SAFE_NO_PAD.decode(body).ok()?;
    serde_json::from_slice(&body).ok()
}

/// Returns the account with sanitized texts; `None` if the id is missing.
fn account(fields: AccountFields) -> Option<Account> {
    let sanitized = |text: Option<String>| {
        let text: String = displayable(&text?).take(MAX_TEXT_LENGTH).collect();
        Some(text).filter(|text| !text.trim().is_empty())
    };
    let id = displayable_id(&fields.id?);
    // The parser encodes what a URL cannot contain.
    let picture = |url: String| {
        let parsed = Url::parse(&url).ok()?;
        let is_stored = parsed.scheme() == "https" && parsed.as_str().len() <= MAX_URL_LENGTH;
        is_stored.then(|| parsed.into())
    };
    Some(Account {
        id: id.chars().take(MAX_TEXT_LENGTH).collect(),
        name: sanitized(fields.name),
        details: AccountDetails {
            email: sanitized(fields.email),
            avatar_url: fields.avatar.and_then(picture),
            workspace_id: sanitized(fields.workspace_id),
            workspace_name: sanitized(fields.workspace),
        },
    })
}

#[cfg(test)]
mod tests;
