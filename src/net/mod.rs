//! Outgoing HTTP: the client and the guard of its addresses.

pub mod address_guard;
pub(crate) mod http_client;
