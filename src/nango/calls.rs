//! Metrics of calls to Nango. Each try is counted, because each counts towards Nango's rate limit.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::Error;
use crate::telemetry::metrics::{self, Durations, Label};

/// The number of calls by operation and outcome, and their duration.
#[derive(Debug)]
pub(crate) struct CallMetrics {
    ended: Family<[(&'static str, &'static str); 2], Counter>,
    durations: Durations<Label>,
}

impl Default for CallMetrics {
    fn default() -> Self {
        Self {
            ended: Family::default(),
            durations: Family::new_with_constructor(metrics::latency_histogram),
        }
    }
}

impl CallMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "nango_calls",
            "Calls to Nango, retries included",
            self.ended.clone(),
        );
        registry.register(
            "nango_call_duration_seconds",
            "Duration of calls to Nango, for its proxy until the response started",
            self.durations.clone(),
        );
    }

    /// Starts the timer of a call. A timer that is dropped without an end counts as a timeout of the caller.
    pub(crate) fn begin(&self, operation: &'static str) -> CallTimer<'_> {
        CallTimer {
            calls: self,
            operation,
            started: Instant::now(),
            outcome: "abandoned",
        }
    }
}

/// A call in progress.
pub(crate) struct CallTimer<'a> {
    calls: &'a CallMetrics,
    operation: &'static str,
    started: Instant,
    outcome: &'static str,
}

impl CallTimer<'_> {
    pub(crate) fn end(mut self, error: Option<&Error>) {
        self.outcome = error.map_or("ok", Error::name);
    }
}

impl Drop for CallTimer<'_> {
    fn drop(&mut self) {
        let operation = ("operation", self.operation);
        let took = self.started.elapsed().as_secs_f64();
        let ended = [operation, ("outcome", self.outcome)];
        self.calls.ended.get_or_create(&ended).inc();
        self.calls
            .durations
            .get_or_create(&[operation])
            .observe(took);
    }
}
