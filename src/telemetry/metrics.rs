//! What is counted, in the form in which Prometheus reads it.
//!
//! There is no global recorder: each part owns what it counts and registers it
//! in the one [`Registry`] of its service, so that several services in a
//! process do not mix. What only the database knows is asked at each scrape.
//! No label ever holds what a user sent: routes are templates, the others closed sets.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;

/// What every metric's name begins with.
const PREFIX: &str = "patchbay";

/// The content type of what [`encode_text`] writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One label: its name, and its value out of a closed set.
pub type Label = [(&'static str, &'static str); 1];

/// Durations by labels.
pub type Durations<Labels> = Family<Labels, Histogram, fn() -> Histogram>;

/// A registry with nothing in it, whose metrics' names begin with `patchbay_`.
#[must_use]
pub fn registry() -> Registry {
    Registry::with_prefix(PREFIX)
}

/// A histogram of seconds, from a millisecond to ten seconds: what a request or a call takes.
#[must_use]
pub fn latency_histogram() -> Histogram {
    Histogram::new([
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    ])
}

/// Says which program this is.
pub fn register_build(registry: &mut Registry) {
    #[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
    struct Build {
        version: &'static str,
    }
    let build = Build {
        version: env!("CARGO_PKG_VERSION"),
    };
    registry.register("build", "The version that runs", Info::new(build));
}

/// The runtime, asked at each scrape.
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

/// Registers metrics of the current runtime.
pub fn register_runtime(registry: &mut Registry) {
    registry.register_collector(Box::new(Runtime(Handle::current())));
}

/// These registries' metrics in the OpenMetrics text format.
///
/// # Errors
/// Writing to a string does not fail; a metric that cannot be encoded does.
pub fn encode_text(registries: &[&Registry]) -> Result<String, std::fmt::Error> {
    let mut text = String::with_capacity(16 * 1024);
    for registry in registries {
        encode_registry(&mut text, registry)?;
    }
    encode_eof(&mut text)?;
    Ok(text)
}
