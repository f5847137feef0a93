//! Patchbay: the backend through which a product's users connect their own
//! third-party accounts, in front of Nango.
//!
//! Arrows point only downward: [`http`] and [`worker`] call
//! [`connections::service`], which alone orders the database and Nango.
//!
//! - [`app`] puts the parts together, waits for the database, serves and drains; `server` holds the
//!   connections of clients.
//! - [`config`] reads the environment; [`telemetry`] writes the logs; [`metrics`] has what is
//!   counted; [`clock`] says what time it is.
//! - [`command`] is the program: it reads the command line, and hands over.
//! - [`check`] is the setup's checklist as a command.
//! - [`http`] has a file for each group of endpoints, and what all of them go through.
//! - [`worker`] does what nobody asks for: each job is one pass of the service, again and again.
//! - [`auth`] goes from a bearer token to a caller.
//! - [`catalog`] has the connectors, checked at the start.
//! - [`connections`] is the domain: its types and its state machine are pure, its store has every
//!   SQL statement, its service the use cases.
//! - [`connections::Database`] is the way to PostgreSQL, through poolers too.
//! - [`encryption`] encrypts the secrets that the database has to keep.
//! - [`nango`] is the client of Nango and the reader of its webhooks.
//! - [`webhooks`] tells the product what happens to its users' connections; [`networks`] says where
//!   that may be sent.
//!
//! To try it out, and in no production build, there are a made-up Nango with an OAuth provider
//! (`sandbox`) and a private PostgreSQL (`local_postgres`).
//!
//! What always holds is in `docs/ARCHITECTURE.md`.

pub mod app;
pub mod auth;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod config;
pub mod db;
pub mod domain;
pub mod encryption;
mod environment;
pub mod http;
pub mod nango;
pub mod net;
pub mod server;
pub mod service;
mod single_flight;
pub mod telemetry;
mod text;
pub mod views;
pub mod webhooks;
pub mod worker;
