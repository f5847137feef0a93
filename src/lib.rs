//! Patchbay: a backend through which a product's users connect their third-party accounts. It stands between the
//! product and Nango.
//!
//! A module imports only from layers below it; `tests/it/layers.rs` checks this. From top to bottom:
//!
//! - [`cli`]: the commands (`serve`, `sandbox`, `migrate`, `doctor`, `keys`, `webhooks`, `openapi`, `health`);
//!   [`app`] builds the services, serves requests and drains.
//! - [`config`] composes the settings that each module reads from the environment.
//! - [`http`]: routes, middleware, extractors, problems. [`worker`]: scheduled jobs.
//! - [`server`]: the listener, its timeouts, and the shutdown.
//! - [`service`]: the use cases. They own transactions and the order of database and Nango calls.
//! - [`webhooks`]: outgoing messages that follow the Standard Webhooks specification.
//! - [`db`]: every SQL statement; the pool, transactions, migrations, and the import of the FastAPI service's database.
//! - [`nango`]: the client of Nango, its proxy, and the parser of its webhooks.
//! - [`auth`]: users' tokens, service keys, the binding of an attempt to a browser.
//! - [`catalog`]: the connectors. [`views`]: the JSON of connections, shared by the API and webhooks.
//! - [`domain`]: connections, attempts and their state machine, without I/O.
//! - [`telemetry`], [`net`], [`encryption`], [`clock`].
//!
//! The workspace's crates `nango-sandbox` (a fake Nango with an OAuth provider) and `dev-postgres` (a private
//! PostgreSQL) serve development and tests; production is built without them. `docs/ARCHITECTURE.md` has the
//! invariants.

pub mod app;
pub mod auth;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod config;
pub mod db;
pub mod domain;
pub mod encryption;
pub mod environment;
pub mod http;
pub mod nango;
pub mod net;
pub mod server;
pub mod service;
pub mod telemetry;
mod text;
pub mod views;
pub mod webhooks;
pub mod worker;
