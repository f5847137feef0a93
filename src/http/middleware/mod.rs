//! What every request passes through.

pub(crate) mod limits;
pub(crate) mod metrics;
