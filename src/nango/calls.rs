//! What is counted of calls to Nango: each try, for each counts towards Nango's rate limit.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::Error;
use crate::telemetry::metrics;
use crate::telemetry::metrics::{Durations, Label};

/// Calls by what they are for, how they ended, and how long they took.
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
            "How long a call to Nango took, that of its proxy until the answer began",
            self.durations.clone(),
        );
    }

    /// A call that begins. Dropped without an end, it ran out of its caller's time.
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
