//! The selection of the connection for a token, and the reasons for which no token can be issued.

use super::tokens::Token;
use super::{Error, Result};
use crate::catalog::scopes;
use crate::domain::{Connection, Reason, State};
use crate::nango::Credentials;

/// Returns an error with the reason if no token of the connection can be issued.
pub(crate) fn check_usable(connection: &Connection) -> Result<()> {
    let not_connected = |detail: String| {
        Err(Error::NotConnected {
            connector: connection.connector.slug.clone(),
            connection_id: Some(connection.id),
            instance_id: connection.instance_id.clone(),
            detail,
        })
    };
    let name = &connection.connector.name;
    match &connection.state {
        State::Connected { .. } => Ok(()),
        State::Error {
            reason: Reason::AccountMismatch,
            ..
        } => Err(Error::AccountMismatch),
        // Nango may still store credentials, but they have failed, and no attempt has replaced them.
        State::Pending { previous: Some(_) }
        | State::Error {
            upstream: Some(_), ..
        } => Err(needs_reauthorization(connection)),
        State::Pending { previous: None } => {
            not_connected(format!("the user has not yet authorized {name}"))
        }
        State::Disconnected { .. } => not_connected(format!("the user has disconnected {name}")),
        State::Error { reason, .. } => {
            let reason = reason.as_str();
            not_connected(format!("{name} could not be connected: {reason}"))
        }
    }
}

/// Returns the connection with `instance_id`. Without it, returns the only usable connection; an error if there are
/// several.
pub(crate) fn select_connection(
    mut all: Vec<Connection>,
    instance_id: Option<&str>,
) -> Result<Option<Connection>> {
    if let Some(instance_id) = instance_id {
        return Ok(all
            .into_iter()
            .find(|connection| connection.instance_id == instance_id));
    }
    all.retain(|connection| !matches!(connection.state, State::Disconnected { .. }));
    // A connection that was never authorized does not make the choice ambiguous.
    if all
        .iter()
        .any(|connection| connection.state.upstream().is_some())
    {
        all.retain(|connection| connection.state.upstream().is_some());
    }
    match all.len() {
        0 | 1 => Ok(all.pop()),
        _ => Err(Error::AmbiguousConnection(
            all.iter().map(|connection| connection.id).collect(),
        )),
    }
}

/// Returns the error for a connection whose credentials were just rejected: they are dead, or it is not certain yet.
pub(crate) fn refusal(checked: Option<&Connection>) -> Error {
    match checked {
        Some(connection) => check_usable(connection)
            .err()
            .unwrap_or(Error::ProviderUnavailable),
        None => Error::ConnectionNotFound,
    }
}

/// Returns an error if a token lacks required scopes. If the granted scopes are unknown, no scope counts as missing.
pub(crate) fn check_scopes(token: &Token, required: &[String]) -> Result<()> {
    let of_token = match &token.credentials {
        Credentials::OAuth2 { scope, .. } => scope.as_deref().map(scopes::split),
        _ => None,
    };
    let of_token = of_token.filter(|scopes| !scopes.is_empty());
    let Some(granted) = of_token.or_else(|| token.connection.scopes.clone()) else {
        return Ok(());
    };
    let missing = scopes::missing(required, &granted);
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::InsufficientScope {
        connection_id: token.connection.id,
        connector: token.connection.connector.name.clone(),
        missing,
    })
}

fn needs_reauthorization(connection: &Connection) -> Error {
    Error::NeedsReauthorization {
        connection_id: connection.id,
        connector: connection.connector.name.clone(),
    }
}
