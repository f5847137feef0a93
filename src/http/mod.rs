//! HTTP: handlers that turn requests into use cases, and their results into JSON.

mod browser_binding;
mod config;
mod extract;
mod middleware;
mod openapi;
mod problem;
mod router;
mod routes;

pub use browser_binding::BrowserBinding;
pub use config::{ConnectBinding, ConsoleConfig, HttpConfig};
pub use middleware::limits::Limits;
pub use middleware::limits::LimitsConfig;
pub use middleware::metrics::HttpMetrics;
pub use problem::{Code, Problem};
pub use router::{AppState, Shared, openapi, router, starting, with_middleware};
pub use routes::callback::CallbackQuery;
pub use routes::connect::{ConnectBody, ConnectQuery, DisconnectQuery};
pub use routes::connections::{GetQuery, ListQuery, UpdateBody};
pub use routes::connectors::CatalogQuery;
pub use routes::events::{HistoryQuery, last_event_id};
pub use routes::health::Readiness;
