//! Metrics in the format of Prometheus.
//!
//! There is no global recorder: each part owns its metrics and registers them in the [`Registry`] of its service, so
//! that several services in a process do not mix. Metrics of the database are queried at each scrape. No label contains
//! text of a user: routes are templates, and all other labels have a fixed set of values.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;

/// The prefix of all metric names.
const PREFIX: &str = "patchbay";

/// The content type of the output of [`encode_text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One label: its name, and one of a fixed set of values.
pub type Label = [(&'static str, &'static str); 1];

/// Durations by labels.
pub type Durations<Labels> = Family<Labels, Histogram, fn() -> Histogram>;

/// Increments a gauge until it is dropped.
#[derive(Debug)]
pub(crate) struct GaugeGuard(Gauge);

impl GaugeGuard {
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Returns an empty registry, which prefixes metric names with `patchbay_`.
pub fn registry() -> Registry {
    Registry::with_prefix(PREFIX)
}

/// Returns a histogram for requests and calls, from a millisecond to ten seconds.
pub fn latency_histogram() -> Histogram {
    Histogram::new([
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    ])
}

/// Registers the program's version.
pub fn register_build(registry: &mut Registry) {
    #[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
    struct Build {
        version: &'static str,
    }
    let build = Build {
        version: env!("CARGO_PKG_VERSION"),
    };
    registry.register("build", "The running version", Info::new(build));
}

/// A collector of the runtime's metrics, which reads them at each scrape.
#[derive(Debug)]
struct Runtime(Handle);

impl Collector for Runtime {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let alive = self.0.metrics().num_alive_tasks();
        let tasks = ConstGauge::new(i64::try_from(alive).unwrap_or(i64::MAX));
        let help = "Tasks that the program is at, of connections, streams and its own";
        let metric = encoder.encode_descriptor("runtime_tasks", help, None, tasks.metric_type())?;
        tasks.encode(metric)
    }
}

/// Registers the metrics of the current runtime.
pub fn register_runtime(registry: &mut Registry) {
    registry.register_collector(Box::new(Runtime(Handle::current())));
}

/// Returns the metrics of these registries in the OpenMetrics text format.
///
/// # Errors
/// If a metric cannot be encoded.
pub fn encode_text(registries: &[&Registry]) -> Result<String, std::fmt::Error> {
    let mut text = String::with_capacity(16 * 1024);
    for registry in registries {
        encode_registry(&mut text, registry)?;
    }
    encode_eof(&mut text)?;
    Ok(text)
}
