//! Metrics: those that the use cases count, and the statistics that a scrape reads from the database.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use strum::VariantArray;

use super::brakes::EngagedBrake;
use super::clock_offset::ClockOffset;
use super::core::Core;
use super::sweep::{JOB_NAME as SWEEP, NEWEST_JOB_NAME as NEWEST};
use super::{Error, Result, SweepReport};
use crate::db::{self, EndpointStats, QueueStats};
use crate::domain::state_machine::Transition;
use crate::domain::{Attempt, AttemptKind, Brake, Outcome, Status};
use crate::telemetry::metrics::{self, Label};

/// The timeout of a scrape's statistics queries.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(3);

/// The metrics that the use cases count.
#[derive(Debug)]
pub(crate) struct ServiceMetrics {
    attempts_started: Family<Label, Counter>,
    attempts_ended: Family<[(&'static str, &'static str); 2], Counter>,
    time_to_connect: Histogram,
    tokens: Family<Label, Counter>,
    sweeps: Family<Label, Counter>,
    sweep_duration: Gauge<f64, std::sync::atomic::AtomicU64>,
    findings: Family<Label, Counter>,
}

impl Default for ServiceMetrics {
    fn default() -> Self {
        Self {
            attempts_started: Family::default(),
            attempts_ended: Family::default(),
            // Most users authorize within seconds. Nango's sessions last half an hour.
            time_to_connect: Histogram::new([
                2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0,
            ]),
            tokens: Family::default(),
            sweeps: Family::default(),
            sweep_duration: Gauge::default(),
            findings: Family::default(),
        }
    }
}

impl ServiceMetrics {
    pub(crate) fn attempt_started(&self, kind: AttemptKind) {
        self.attempts_started
            .get_or_create(&[("kind", kind.as_str())])
            .inc();
    }

    /// Counts an attempt if the transition has ended it.
    pub(crate) fn attempt_ended(&self, attempt: &Attempt, transition: &Transition) {
        let Some((outcome, failure)) = &transition.outcome else {
            return;
        };
        if attempt.outcome == Some(*outcome) {
            // A repeated grant of the same session is not counted again.
            return;
        }
        let reason = failure.as_ref().map_or("", |why| why.reason.as_str());
        let ended = [("outcome", outcome.as_str()), ("reason", reason)];
        self.attempts_ended.get_or_create(&ended).inc();
        if *outcome == Outcome::Succeeded {
            let took = transition.connection.updated_at - attempt.created_at;
            self.time_to_connect
                .observe(took.to_std().unwrap_or_default().as_secs_f64());
        }
    }

    /// Counts a returned token.
    pub(crate) fn token_served(&self, is_from_nango: bool) {
        let source = if is_from_nango { "nango" } else { "cache" };
        self.tokens.get_or_create(&[("source", source)]).inc();
    }

    pub(crate) fn sweep_finished(&self, report: &Result<Option<SweepReport>>, took: Duration) {
        let outcome = match report {
            Ok(Some(_)) => "done",
            Ok(None) => "interrupted",
            Err(_) => "failed",
        };
        self.sweeps.get_or_create(&[("outcome", outcome)]).inc();
        let Ok(Some(report)) = report else {
            return;
        };
        self.sweep_duration.set(took.as_secs_f64());
        for (finding, count) in [
            ("found", report.found),
            ("checked", report.checked),
            ("missing", report.missing),
            ("unreadable", report.unreadable),
        ] {
            self.findings
                .get_or_create(&[("finding", finding)])
                .inc_by(count as u64);
        }
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "attempts_started",
            "Started attempts to connect or reconnect",
            self.attempts_started.clone(),
        );
        registry.register(
            "attempts_ended",
            "Ended attempts by outcome; superseded attempts are not counted",
            self.attempts_ended.clone(),
        );
        registry.register(
            "time_to_connect_seconds",
            "Time from the start of an attempt to its grant",
            self.time_to_connect.clone(),
        );
        registry.register("tokens", "Returned tokens by source", self.tokens.clone());
        registry.register("sweeps", "Sweeps of this replica", self.sweeps.clone());
        registry.register(
            "sweep_duration_seconds",
            "Duration of this replica's last full sweep",
            self.sweep_duration.clone(),
        );
        registry.register(
            "sweep_findings",
            "Findings of this replica's sweeps by kind",
            self.findings.clone(),
        );
    }
}

/// Statistics from the database.
struct DatabaseStats {
    by_status: Option<Vec<(String, i64)>>,
    deletions: QueueStats,
    attempts: QueueStats,
    deliveries: QueueStats,
    endpoints: EndpointStats,
    sweep_age: Option<f64>,
    newest_age: Option<f64>,
    orphans: i64,
}

/// Reads the metrics for a scrape.
#[derive(Debug)]
pub struct Statistics {
    core: Arc<Core>,
    clock_offset: Arc<ClockOffset>,
}

impl Statistics {
    pub(crate) fn new(core: Arc<Core>, clock_offset: Arc<ClockOffset>) -> Self {
        Self { core, clock_offset }
    }

    /// Registers the metrics of the use cases, the database's pool and the Nango client.
    pub fn register(&self, registry: &mut Registry) {
        self.core.counts.register(registry);
        self.core.database.register_metrics(registry);
        if let Some(upstream) = &self.core.upstream {
            upstream.nango.register_metrics(registry);
        }
    }

    /// Returns the current metrics of the queues, the connections, the brakes and the database.
    ///
    /// If the statistics queries fail or time out, `database_up` is 0 and the metrics from the database are missing.
    pub async fn metrics(&self) -> Registry {
        let mut registry = metrics::registry();
        let read = async {
            let stats = self.database_stats().await?;
            Ok::<_, Error>((stats, self.core.brakes.engaged().await?))
        };
        let stats = match tokio::time::timeout(SCRAPE_TIMEOUT, read).await {
            Ok(Ok(stats)) => Some(stats),
            Ok(Err(error)) => {
                tracing::warn!(%error, "could not read the statistics from the database");
                None
            }
            Err(_elapsed) => None,
        };
        let up = ConstGauge::new(i64::from(stats.is_some()));
        registry.register(
            "database_up",
            "1 if the database answered the statistics queries",
            up,
        );
        self.register_database(&mut registry);
        let waiting: Family<Label, Gauge> = Family::default();
        let oldest: Family<Label, Gauge<f64, std::sync::atomic::AtomicU64>> = Family::default();
        let now = self.core.clock.now();
        let set_queue = |queue: &'static str, stats: QueueStats| {
            let queue = [("queue", queue)];
            waiting.get_or_create(&queue).set(stats.waiting);
            oldest
                .get_or_create(&queue)
                .set(age(stats.oldest, now).as_secs_f64());
        };
        if let Some((stats, engaged)) = stats {
            set_queue("upstream_deletions", stats.deletions);
            set_queue("open_attempts", stats.attempts);
            set_queue("event_deliveries", stats.deliveries);
            register_stats(&mut registry, &stats, &engaged);
        }
        registry.register(
            "queue_waiting",
            "Entries waiting in the queue, counted up to 10,000",
            waiting,
        );
        registry.register(
            "queue_oldest_seconds",
            "Age of the oldest waiting entry",
            oldest,
        );
        registry
    }

    fn register_database(&self, registry: &mut Registry) {
        let (size, idle) = self.core.database.pool_size();
        registry.register(
            "database_pool_connections",
            "Open database connections",
            ConstGauge::new(size),
        );
        registry.register(
            "database_pool_idle",
            "Idle database connections",
            ConstGauge::new(idle),
        );
        registry.register(
            "database_unreadable_rows",
            "Rows skipped because they cannot be decoded",
            ConstCounter::new(db::unreadable_rows()),
        );
        registry.register(
            "database_clock_offset_seconds",
            "Time by which the database's clock is ahead of this machine's",
            ConstGauge::new(self.clock_offset.seconds()),
        );
    }

    async fn database_stats(&self) -> Result<DatabaseStats> {
        let mut tx = self.core.begin().await?;
        db::set_statement_timeout(&mut tx).await?;
        let stats = DatabaseStats {
            by_status: db::connections_by_status(&mut tx).await?,
            deletions: db::deletion_queue(&mut tx).await?,
            attempts: db::attempt_queue(&mut tx).await?,
            deliveries: db::delivery_queue(&mut tx).await?,
            endpoints: db::endpoint_stats(&mut tx).await?,
            sweep_age: db::job_age(&mut tx, SWEEP).await?,
            newest_age: db::job_age(&mut tx, NEWEST).await?,
            orphans: db::orphan_count(&mut tx).await?,
        };
        tx.commit().await?;
        Ok(stats)
    }
}

/// Registers a family of gauges with one label.
fn register_counts(
    registry: &mut Registry,
    (name, help): (&str, &str),
    label: &'static str,
    counts: impl IntoIterator<Item = (&'static str, i64)>,
) {
    let family: Family<Label, Gauge> = Family::default();
    for (value, count) in counts {
        family.get_or_create(&[(label, value)]).set(count);
    }
    registry.register(name, help, family);
}

fn register_stats(registry: &mut Registry, stats: &DatabaseStats, engaged: &[EngagedBrake]) {
    let help = "1 while a brake stops operations that could harm many users by mistake";
    let brakes = Brake::VARIANTS.iter().map(|brake| {
        let is_engaged = engaged.iter().any(|engaged| engaged.brake == *brake);
        (brake.as_str(), is_engaged.into())
    });
    register_counts(registry, ("brake_engaged", help), "brake", brakes);
    if let Some(by_status) = &stats.by_status {
        let help = "Connections by status: counted up to 50,000, above that estimated from the planner's statistics; \
                    absent without them";
        // A status without connections is 0, not absent.
        let statuses = [
            Status::Pending,
            Status::Connected,
            Status::Disconnected,
            Status::Error,
        ];
        let counts = statuses.map(|status| {
            let found = by_status.iter().find(|(name, _)| name == status.as_str());
            (status.as_str(), found.map_or(0, |(_, count)| *count))
        });
        register_counts(registry, ("connections", help), "status", counts);
    }
    let help = "This installation's connections at Nango without a row, as of the last sweep";
    registry.register("orphans", help, ConstGauge::new(stats.orphans));
    let help = "The product's webhook endpoints by state; messages to disabled ones wait";
    let endpoints = [
        ("enabled", stats.endpoints.enabled),
        ("failing", stats.endpoints.failing),
        ("disabled", stats.endpoints.disabled),
    ];
    register_counts(registry, ("webhook_endpoints", help), "state", endpoints);
    if let Some(age) = stats.newest_age {
        let help = "Time since any replica last read Nango's newest connections";
        registry.register("sweep_newest_age_seconds", help, ConstGauge::new(age));
    }
    if let Some(age) = stats.sweep_age {
        let help = "Time since any replica finished a full sweep";
        registry.register("sweep_age_seconds", help, ConstGauge::new(age));
    }
}

fn age(since: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Duration {
    since
        .and_then(|since| (now - since).to_std().ok())
        .unwrap_or_default()
}
