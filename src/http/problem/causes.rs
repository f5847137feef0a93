//! Conversions of errors of the service, Nango and the database to problems.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Code, Problem};
use crate::db::DatabaseError;
use crate::db::connection_health::Outage;
use crate::nango;
use crate::service;

impl From<service::Error> for Problem {
    fn from(error: service::Error) -> Self {
        use service::Error;
        let detail = error.to_string();
        let connect = remedy(&error);
        match error {
            Error::NangoDisabled => Self::new(Code::NangoDisabled, detail),
            Error::ConnectorNotFound(_) => Self::new(Code::ConnectorNotFound, detail),
            Error::ConnectorUnavailable(_) => Self::new(Code::ConnectorUnavailable, detail),
            Error::ConnectorNotConfigured { .. } => Self::new(Code::ConnectorNotConfigured, detail),
            Error::IntegrationChanged { .. } => {
                Self::new(Code::NangoError, &*detail).caused_by(&detail)
            }
            Error::ConnectionNotFound => Self::new(Code::ConnectionNotFound, detail),
            Error::AmbiguousConnection(candidates) => Self {
                candidates: Some(candidates.into()),
                ..Self::new(Code::AmbiguousConnection, detail)
            },
            Error::StillConnected => Self::new(Code::StillConnected, detail),
            Error::NotConnected { .. } => Self {
                connect,
                ..Self::new(Code::NotConnected, detail)
            },
            Error::NeedsReauthorization { .. } => Self {
                connect,
                ..Self::new(Code::NeedsReauthorization, detail)
            },
            Error::InsufficientScope { missing, .. } => Self {
                connect,
                missing_scopes: Some(missing.into()),
                ..Self::new(Code::InsufficientProviderScope, detail)
            },
            Error::AccountMismatch => Self::new(Code::AccountMismatch, detail),
            Error::ProviderUnavailable => {
                Self::new(Code::ProviderUnavailable, detail).retry_after(30)
            }
            Error::UnknownEnvironment => Self::new(
                Code::NangoUnavailable,
                "Nango does not have the connections of this service; its operator must check it",
            )
            .retry_after(30)
            .caused_by(detail),
            Error::Unconfirmed(_) => Self::new(Code::NangoUnavailable, detail).retry_after(30),
            // Nango retries after a 5xx response, and drops the webhook after any other error.
            Error::WebhookDeferred(_) => Self::new(Code::Overloaded, detail).retry_after(60),
            Error::KeyReused => Self::new(Code::IdempotencyKeyReused, detail),
            Error::KeyInProgress => {
                Self::new(Code::IdempotencyKeyInProgress, detail).retry_after(1)
            }
            Error::Invalid(_) => Self::new(Code::InvalidRequest, detail),
            Error::Encryption(_) => Self::internal(detail),
            Error::Nango(error) => error.into(),
            Error::Database(error) => Self::from_database(&error),
        }
    }
}

/// Returns the path of the operation that starts the authorization whose lack is the error; `None` for other errors.
fn remedy(error: &service::Error) -> Option<Box<str>> {
    use service::Error;
    let path = match error {
        Error::NeedsReauthorization { connection_id, .. }
        | Error::InsufficientScope { connection_id, .. }
        | Error::NotConnected {
            connection_id: Some(connection_id),
            ..
        } => format!("/api/v1/connectors/connections/{connection_id}/reconnect"),
        Error::NotConnected {
            connector,
            instance_id,
            ..
        } => {
            let path = format!("/api/v1/connectors/{connector}/connect");
            if instance_id.is_empty() {
                path
            } else {
                let instance_id = utf8_percent_encode(instance_id, NON_ALPHANUMERIC);
                format!("{path}?instance_id={instance_id}")
            }
        }
        _ => return None,
    };
    Some(path.into())
}

impl From<nango::Error> for Problem {
    fn from(error: nango::Error) -> Self {
        use nango::Error;
        let cause = error.to_string();
        let problem = match error {
            Error::Timeout => Self::new(Code::NangoTimeout, error.to_string()).retry_after(5),
            Error::RateLimited { retry_after } => {
                let seconds = retry_after.map_or(10, |pause| pause.as_secs().max(1));
                Self::new(
                    Code::NangoRateLimited,
                    "Nango's rate limit for this minute is used up",
                )
                .retry_after(seconds)
            }
            Error::Unreachable { .. } => {
                Self::new(Code::NangoUnavailable, "Nango cannot be reached").retry_after(5)
            }
            Error::Unavailable { .. } => {
                Self::new(Code::NangoUnavailable, "Nango is failing").retry_after(5)
            }
            Error::ProviderUnreachable { .. } => {
                Self::new(Code::ProviderUnavailable, "Nango cannot reach the provider")
                    .retry_after(5)
            }
            Error::Unauthorized { .. } => Self::new(
                Code::NangoMisconfigured,
                "Nango refused this service's key; its operator must check it",
            ),
            Error::UnknownIntegration => Self::new(Code::ConnectorNotConfigured, error.to_string()),
            _ => Self::new(
                Code::NangoError,
                "Nango sent an unexpected response; details are in the log",
            ),
        };
        problem.caused_by(cause)
    }
}

impl Problem {
    /// Returns the problem of a database that cannot serve requests.
    pub(crate) fn from_unusable_database(error: &DatabaseError) -> Self {
        match error {
            DatabaseError::Statement(error) | DatabaseError::Privilege(error) => {
                Self::from_database(error)
            }
            error => {
                let detail = error.to_string();
                let problem = Self::new(Code::DatabaseUnavailable, &*detail).retry_after(5);
                problem.caused_by(detail)
            }
        }
    }

    pub(crate) fn from_database(error: &sqlx::Error) -> Self {
        let code = error
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code);
        if code.as_deref().is_some_and(|code| code.starts_with("22")) {
            // A data exception, which only a caller's value can cause, such as a NUL in a text.
            return Self::invalid("a value has characters that cannot be stored");
        }
        if let Some(outage) = Outage::of(error) {
            let (detail, seconds) = match outage {
                Outage::Unreachable => ("the database does not answer", 5),
                Outage::ReadOnly => ("the database is read-only at the moment", 5),
                Outage::Busy => (
                    "the database is busy with another change of the same data",
                    1,
                ),
            };
            let problem = Self::new(Code::DatabaseUnavailable, detail).retry_after(seconds);
            problem.caused_by(error)
        } else {
            Self::internal(format_args!("database request failed: {error}"))
        }
    }
}
