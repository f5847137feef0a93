//! Middleware: rate limits and metrics.

pub(crate) mod limits;
pub(crate) mod metrics;
