//! Every integration test, in one binary: against a real PostgreSQL and the
//! sandbox's Nango over real HTTP.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod clock;
mod contract;
mod sandbox;
