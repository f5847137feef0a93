//! Liveness and readiness.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use moka::future::Cache;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::AppState;
use crate::http::problem::{Code, Problem};
use crate::service::Services;

/// The timeout of the readiness query.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The TTL of the cached result. The endpoint is public, so the number of clients is unlimited.
const READINESS_CACHE_TTL: Duration = Duration::from_millis(500);

/// When a client retries the readiness check of a replica that is not ready, in seconds.
const RETRY_AFTER_SECONDS: u64 = 5;

/// The cached result of the readiness check, shared by concurrent requests.
#[derive(Debug)]
pub struct Readiness(Cache<(), Result<(), Problem>>);

impl Default for Readiness {
    fn default() -> Self {
        Self(
            Cache::builder()
                .max_capacity(1)
                .time_to_live(READINESS_CACHE_TTL)
                .build(),
        )
    }
}

impl Readiness {
    async fn of(&self, services: &Services) -> Result<(), Problem> {
        if services.clock_offset.is_off() {
            return Err(Problem::new(
                Code::DatabaseUnavailable,
                "this replica's clock differs from the database's by more than a minute: set both by NTP",
            )
            .retry_after(RETRY_AFTER_SECONDS));
        }
        let ask = Box::pin(async {
            match tokio::time::timeout(PING_TIMEOUT, services.core.database.check_ready()).await {
                Ok(answer) => answer.map_err(|error| Problem::from_unusable_database(&error)),
                Err(_elapsed) => Err(Problem::new(
                    Code::DatabaseUnavailable,
                    "the database does not answer",
                )
                .retry_after(RETRY_AFTER_SECONDS)),
            }
        });
        self.0.get_with((), ask).await
    }
}

/// A replica that is ready.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Readiness)]
pub(crate) struct ReadyBody {
    /// Always `ready`.
    status: &'static str,
    /// `true` if Nango is enabled.
    nango: bool,
}

/// Check that the process runs.
///
/// Succeeds as long as the process accepts requests, whatever the state of its database.
#[utoipa::path(get, path = "/healthz", operation_id = "getHealth", tag = "operation",
    responses((status = 200, body = String, content_type = "text/plain", description = "The process runs."))
)]
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// Check that the replica is ready.
///
/// Succeeds if the database accepts writes and has the schema. A replica that is shutting down fails this check while it still
/// answers requests. An outage of Nango does not fail it, because every replica would be affected.
#[utoipa::path(get, path = "/readyz", operation_id = "getReadiness", tag = "operation",
    responses((status = 200, body = ReadyBody, description = "The replica is ready.")),
    extensions(("x-error-codes" = json!([Code::DatabaseUnavailable, Code::Internal, Code::Starting, Code::Stopping])))
)]
pub(crate) async fn readyz(State(state): State<AppState>) -> Result<Json<ReadyBody>, Problem> {
    if state.stopping.requested.is_cancelled() {
        return Err(Problem::new(
            Code::Stopping,
            "the service is shutting down: send requests to another replica",
        ));
    }
    state.readiness.of(&state.services).await?;
    Ok(Json(ReadyBody {
        status: "ready",
        nango: state.nango.is_some(),
    }))
}
