//! Patchbay: the backend through which a product's users connect their own
//! third-party accounts, in front of Nango.
//!
//! Arrows point only downward: `http` and `worker` call `connections::service`,
//! which alone orders the database (`connections::store`) and Nango (`nango`).

pub mod app;
pub mod auth;
pub mod catalog;
pub mod clock;
pub mod config;
pub mod connections;
pub mod http;
pub mod keys;
#[cfg(feature = "sandbox")]
pub mod local_postgres;
pub mod nango;
mod outbound;
#[cfg(feature = "sandbox")]
pub mod sandbox;
pub mod telemetry;
pub mod worker;
