//! The endpoints, a file for each resource.

pub(crate) mod callback;
pub(crate) mod connect;
pub(crate) mod connections;
pub(crate) mod connectors;
pub(crate) mod console;
pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod logos;
pub(crate) mod nango_webhooks;
pub(crate) mod proxy;
pub(crate) mod tokens;
pub(crate) mod users;
mod validation;
