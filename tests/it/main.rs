//! Every integration test, in one binary: against a real PostgreSQL and the
//! sandbox's Nango over real HTTP.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod api;
mod auth;
mod catalog;
mod clock;
mod connect;
mod contract;
mod examples;
mod house;
mod local_postgres;
mod nango_client;
mod nango_recordings;
mod nango_webhooks;
mod postgres;
mod sandbox;
mod server;
mod tokens;
mod truth;
