//! Every integration test, in one binary: against a real PostgreSQL and the
//! sandbox's Nango over real HTTP.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod adopt;
mod api;
mod auth;
mod canaries;
mod cancelled;
mod catalog;
mod check;
mod clients;
mod clock;
mod config;
mod connect;
mod contract;
mod crash;
mod database;
mod docs;
mod examples;
mod house;
mod inputs;
mod invariants;
mod limits;
mod local_postgres;
mod matrix;
mod monitoring;
mod nango_client;
mod nango_recordings;
mod nango_webhooks;
mod outgoing;
mod packaging;
mod pooler;
mod postgres;
mod process;
mod sandbox;
mod schedules;
mod server;
mod start;
mod stopping;
mod tokens;
mod traces;
mod truth;
mod try_out;
mod versions;
