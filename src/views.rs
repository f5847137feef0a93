//! The representation of a connection in the API and in webhooks.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use url::Url;
use utoipa::ToSchema;

use crate::domain::{
    Account, AccountUnknownReason, Attempt, AttemptId, AttemptKind, Connection, ConnectionId,
    ConnectorId, EventKind, MessageType, Outcome, Reason, Status,
};

/// The maximum number of other connections to the same account in a response. Without a limit, the list of a user whose
/// connections are all to one account would grow with the square of their number.
pub(crate) const MAX_SAME_ACCOUNT: i64 = 20;

/// A connection with its newest attempt.
#[derive(Clone, Debug)]
pub struct ConnectionView {
    /// The connection.
    pub connection: Connection,
    /// The newest attempt.
    pub attempt: Option<Attempt>,
    /// The user's other connections to the same account, at most `MAX_SAME_ACCOUNT`.
    pub same_account_as: Vec<ConnectionId>,
}

/// The account of a connection that is not disconnected.
#[derive(Clone, Debug)]
pub(crate) struct AccountRef {
    pub(crate) connection: ConnectionId,
    pub(crate) connector: ConnectorId,
    pub(crate) account_id: String,
}

impl ConnectionView {
    /// Combines a connection and its newest attempt with all known accounts of its user.
    pub(crate) fn new(
        connection: Connection,
        attempt: Option<Attempt>,
        accounts: &[AccountRef],
    ) -> Self {
        let same = |other: &&AccountRef| {
            other.connection != connection.id
                && other.connector == connection.connector.id
                && connection
                    .account
                    .as_ref()
                    .is_some_and(|account| account.id == other.account_id)
        };
        let same_account_as = accounts
            .iter()
            .filter(same)
            .map(|other| other.connection)
            .take(MAX_SAME_ACCOUNT as usize)
            .collect();
        Self {
            connection,
            attempt,
            same_account_as,
        }
    }
}

impl ConnectionView {
    /// Serializes as [`ConnectionBody`], without the config.
    pub(crate) fn serialize_without_config<S: Serializer>(
        details: &Self,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let body = ConnectionBody {
            config: None,
            ..ConnectionBody::of(details)
        };
        body.serialize(serializer)
    }

    /// Returns the config in the form of the API.
    pub(crate) fn config(&self) -> serde_json::Result<Value> {
        serde_json::to_value(ConfigBody::of(&self.connection))
    }
}

/// Serializes as [`ConnectionBody`].
impl Serialize for ConnectionView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ConnectionBody::of(self).serialize(serializer)
    }
}

/// A user's connection to one account of a connector.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Connection)]
pub struct ConnectionBody<'a> {
    /// The id. It stays the same across reconnects and disconnects.
    #[schema(value_type = Uuid)]
    id: ConnectionId,
    user_id: &'a str,
    #[schema(value_type = Uuid)]
    connector_id: ConnectorId,
    connector_slug: &'a str,
    connector_name: &'a str,
    /// Distinguishes several accounts of one connector; empty for the first account.
    instance_id: &'a str,
    /// The user's name for the connection.
    label: Option<&'a str>,
    /// Nango's id of the connection; null if Nango stores none.
    nango_connection_id: Option<&'a str>,
    status: Status,
    /// Why the connection is not connected; null if it is.
    status_reason: Option<Reason>,
    /// When the connection last became connected.
    #[serde(serialize_with = "time_if_any")]
    connected_at: Option<DateTime<Utc>>,
    /// When the user last disconnected it.
    #[serde(serialize_with = "time_if_any")]
    disconnected_at: Option<DateTime<Utc>>,
    /// When it became connected or a workflow used it, whichever was last.
    #[serde(serialize_with = "time_if_any")]
    last_synced_at: Option<DateTime<Utc>>,
    /// When Nango was last queried about it.
    #[serde(serialize_with = "time_if_any")]
    last_checked_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Config, required = true)]
    config: Option<ConfigBody<'a>>,
    /// The account at the provider; null if the provider does not report it.
    account: Option<&'a Account>,
    /// Why the account is unknown; null if it is known, and until the first lookup has ended.
    account_unknown_reason: Option<AccountUnknownReason>,
    /// The scopes that the provider granted; null if the provider does not report them.
    scopes: Option<&'a [String]>,
    /// The requested scopes that the provider did not grant; null if that is unknown. A reconnect requests them again.
    missing_scopes: Option<&'a [String]>,
    /// With `account_mismatch`: the account that the reconnect returned.
    pending_account: Option<&'a Account>,
    /// The user's other connections to the same account, at most 20.
    #[schema(value_type = Vec<Uuid>)]
    same_account_as: &'a [ConnectionId],
    /// Since when the credentials cannot be refreshed, while the failure may be transient.
    #[serde(serialize_with = "time_if_any")]
    failing_since: Option<DateTime<Utc>>,
    /// A human-readable reason why the connection or its credentials fail. A failed attempt has its own `error_message`.
    last_error: Option<&'a str>,
    /// The number of consecutive failures.
    error_count: i32,
    #[serde(serialize_with = "time")]
    created_at: DateTime<Utc>,
    #[serde(serialize_with = "time")]
    updated_at: DateTime<Utc>,
    /// Grows by one with each event of the connection. Of two copies, the one with the higher version is newer.
    version: i64,
    /// The newest attempt to authorize the connection.
    attempt: Option<AttemptBody<'a>>,
}

/// An attempt to authorize a connection.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Attempt)]
pub struct AttemptBody<'a> {
    #[schema(value_type = Uuid)]
    id: AttemptId,
    kind: AttemptKind,
    /// How the attempt ended; null while it is in progress.
    outcome: Option<Outcome>,
    /// Why the attempt did not succeed.
    error_code: Option<Reason>,
    /// A human-readable reason why the attempt did not succeed.
    error_message: Option<&'a str>,
    /// `true` if the browser that started the attempt also completed it; `false` if it may have been another person's browser;
    /// null if that is unknown (`CONNECT_BINDING`).
    same_browser: Option<bool>,
    /// When the authorization link expires.
    #[serde(serialize_with = "time")]
    expires_at: DateTime<Utc>,
    #[serde(serialize_with = "time")]
    created_at: DateTime<Utc>,
    /// When the attempt ended; null while it is in progress.
    #[serde(serialize_with = "time_if_any")]
    ended_at: Option<DateTime<Utc>>,
}

/// Data that the product stores with a connection.
#[derive(ToSchema)]
#[schema(value_type = Object)]
#[expect(dead_code, reason = "names the schema in the OpenAPI document")]
pub(crate) struct Config(Map<String, Value>);

/// A connection's config, with its instance where clients of the original service expect it.
#[derive(Debug)]
struct ConfigBody<'a> {
    config: &'a Map<String, Value>,
    instance_id: &'a str,
}

impl<'a> ConfigBody<'a> {
    fn of(connection: &'a Connection) -> Self {
        Self {
            config: &connection.config,
            instance_id: &connection.instance_id,
        }
    }
}

impl Serialize for ConfigBody<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const INSTANCE: &str = "instance_id";
        let instance = Some(self.instance_id).filter(|id| !id.is_empty());
        let kept = self.config.iter();
        let kept = kept.filter(|(key, _)| instance.is_none() || *key != INSTANCE);
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in kept {
            map.serialize_entry(key, value)?;
        }
        if let Some(id) = instance {
            map.serialize_entry(INSTANCE, id)?;
        }
        map.end()
    }
}

/// Serializes a time like chrono (RFC 3339), but as one string: `serde_json` escapes each written part separately, and a
/// list has a hundred times.
fn time<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

fn time_if_any<S: Serializer>(
    at: &Option<DateTime<Utc>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => time(at, serializer),
        None => serializer.serialize_none(),
    }
}

impl<'a> AttemptBody<'a> {
    fn of(attempt: &'a Attempt) -> Self {
        Self {
            id: attempt.id,
            kind: attempt.kind,
            outcome: attempt.outcome,
            error_code: attempt.error.as_ref().map(|failure| failure.reason),
            error_message: attempt.error.as_ref().map(|failure| &*failure.message),
            same_browser: attempt.returned.filter(|_| attempt.is_grant_applied()),
            expires_at: attempt.expires_at,
            created_at: attempt.created_at,
            ended_at: attempt.ended_at,
        }
    }
}

impl<'a> ConnectionBody<'a> {
    fn of(details: &'a ConnectionView) -> Self {
        let connection = &details.connection;
        Self {
            id: connection.id,
            user_id: connection.user_id.as_str(),
            connector_id: connection.connector.id,
            connector_slug: &connection.connector.slug,
            connector_name: &connection.connector.name,
            instance_id: &connection.instance_id,
            label: connection.label.as_deref(),
            nango_connection_id: connection.state.upstream().map(|upstream| &*upstream.id),
            status: connection.state.status(),
            status_reason: connection.state.reason(),
            connected_at: connection.connected_at,
            disconnected_at: connection.disconnected_at,
            last_synced_at: connection.last_synced_at,
            last_checked_at: connection.last_checked_at,
            config: Some(ConfigBody::of(connection)),
            account: connection.account.as_ref(),
            account_unknown_reason: connection.account_unknown_reason,
            scopes: connection.scopes.as_deref(),
            missing_scopes: connection.missing_scopes.as_deref(),
            pending_account: connection.pending_account.as_ref(),
            same_account_as: &details.same_account_as,
            failing_since: connection.failing_since,
            last_error: connection.last_error.as_deref(),
            error_count: connection.error_count,
            created_at: connection.created_at,
            updated_at: connection.updated_at,
            version: connection.version,
            attempt: details.attempt.as_ref().map(AttemptBody::of),
        }
    }
}

/// A webhook's body, in the form of the Standard Webhooks specification.
#[derive(Debug, Serialize)]
pub(crate) struct Message {
    /// The connection's config, where an endpoint asks for it; it is stored beside the body.
    #[serde(skip)]
    pub(crate) config: Option<Value>,
    #[serde(rename = "type")]
    pub(crate) kind: MessageType,
    /// When the event happened, independent of when the message is delivered.
    pub(crate) timestamp: DateTime<Utc>,
    pub(crate) data: MessageData,
}

/// The connection as the API returned it then, without its config, and the change. The connection's version orders messages.
#[derive(Debug, Serialize)]
pub(crate) struct MessageData {
    #[serde(flatten, serialize_with = "ConnectionView::serialize_without_config")]
    pub(crate) connection: ConnectionView,
    /// The change's name in the history.
    pub(crate) change: EventKind,
    /// Why it does not work, or why the attempt failed.
    pub(crate) reason: Option<Reason>,
}

/// The outcome of a connect or reconnect.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[schema(as = ConnectResponse)]
#[expect(
    missing_docs,
    reason = "a doc comment becomes the description in the OpenAPI document"
)]
pub struct ConnectAnswer {
    /// The URL to open in the popup; null if the account is already connected.
    pub oauth_url: Option<String>,
    #[schema(value_type = Uuid)]
    pub connection_id: ConnectionId,
    /// Nango's id of the connection; null if Nango stores none.
    pub nango_connection_id: Option<String>,
    /// `true` if there is an `oauth_url` to open in a popup.
    pub popup: bool,
    /// `true` if the account was already connected; then `oauth_url` is null.
    pub already_connected: bool,
    /// A human-readable summary.
    pub message: String,
    pub status: Status,
    /// The id of the started attempt; null if none was started.
    #[schema(value_type = Option<Uuid>)]
    pub attempt_id: Option<AttemptId>,
    /// When the authorization link expires; null if there is none.
    pub expires_at: Option<DateTime<Utc>>,
}

impl ConnectAnswer {
    /// The answer for a connection, with the attempt that was started and its link.
    pub(crate) fn new(connection: &Connection, started: Option<(Attempt, Url)>) -> Self {
        let name = &connection.connector.name;
        let upstream = connection.state.upstream();
        Self {
            connection_id: connection.id,
            nango_connection_id: upstream.map(|upstream| upstream.id.clone()),
            popup: started.is_some(),
            already_connected: started.is_none(),
            message: match &started {
                Some(_) => format!("Open oauth_url to connect {name}"),
                None => format!("{name} is already connected"),
            },
            status: connection.state.status(),
            attempt_id: started.as_ref().map(|(attempt, _)| attempt.id),
            expires_at: started.as_ref().map(|(attempt, _)| attempt.expires_at),
            oauth_url: started.map(|(_, url)| url.into()),
        }
    }
}
