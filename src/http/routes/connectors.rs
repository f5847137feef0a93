//! The catalog's endpoints.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::catalog::{Availability, Connector, Parameter};
use crate::http::AppState;
use crate::http::extract::{AnyCaller, Path, Query, page_limit};
use crate::http::problem::{Problem, ProblemBody};
use crate::service;

/// How many connectors a page has at the most.
const MAX_LIMIT: usize = 200;

/// A connector of the catalog.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConnectorBody {
    /// UUIDv5 of the slug.
    id: Uuid,
    /// The short name, which stands for the id wherever one is asked for.
    #[schema(example = "gmail")]
    slug: String,
    name: String,
    category: String,
    /// Nango's provider; null where Nango has none.
    provider: Option<String>,
    /// The integration at Nango that serves it.
    integration_key: String,
    /// What the provider asks for, in Nango's words: `OAUTH2`, `API_KEY`, …
    auth_mode: Option<String>,
    /// Whether the operator has it switched on.
    enabled: bool,
    /// Whether it can be connected at all.
    available: bool,
    /// Why it cannot.
    unavailable_reason: Option<String>,
    /// Whether Nango has an integration for it; null while that is not known.
    configured: Option<bool>,
    /// What `connect` takes in `parameters`: values that the provider needs of each account.
    parameters: Vec<Parameter>,
}

impl ConnectorBody {
    fn new(connector: &Connector, configured: Option<bool>) -> Self {
        let (available, unavailable_reason) = match connector.availability() {
            Availability::Available => (true, None),
            Availability::Disabled => (false, Some("The operator has switched it off".to_owned())),
            Availability::Unavailable(reason) => (false, Some(reason.to_owned())),
        };
        Self {
            id: connector.id,
            slug: connector.slug.clone(),
            name: connector.name.clone(),
            category: connector.category.clone(),
            provider: connector.provider.clone(),
            integration_key: connector.integration_key.clone(),
            auth_mode: connector.auth_mode.map(|mode| mode.to_string()),
            enabled: connector.enabled,
            available,
            unavailable_reason,
            configured,
            parameters: connector.parameters.clone(),
        }
    }
}

/// A page of the catalog, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConnectorsBody {
    connectors: Vec<ConnectorBody>,
    /// How many there are on all pages.
    total_count: usize,
    /// The cursor of the next page; null on the last.
    next_cursor: Option<String>,
    /// All categories, with how many connectors each has.
    categories: Vec<CategoryBody>,
}

/// A category of the catalog.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CategoryBody {
    name: String,
    count: usize,
}

/// Which connectors are asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CatalogQuery {
    /// Words to look for in name, slug and category.
    search: Option<String>,
    /// Only this category.
    category: Option<String>,
    /// How many at the most: 1 to 200, 100 by default.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// The last page's `next_cursor`.
    cursor: Option<String>,
}

/// The connectors, by name.
#[utoipa::path(get, path = "/api/v1/connectors", operation_id = "list_connectors", tag = "catalog", params(CatalogQuery), responses(
    (status = 200, body = ConnectorsBody), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody)
))]
pub(crate) async fn list(
    State(state): State<AppState>,
    _: AnyCaller,
    Query(query): Query<CatalogQuery>,
) -> Result<Json<ConnectorsBody>, Problem> {
    let limit = page_limit(query.limit, 100, MAX_LIMIT)?;
    let catalog = state.connections.catalog();
    let found: Vec<&Connector> = catalog
        .search(
            query.search.as_deref().unwrap_or_default(),
            query.category.as_deref(),
        )
        .collect();
    let start = match &query.cursor {
        None => 0,
        Some(cursor) => {
            1 + found
                .iter()
                .position(|connector| connector.id.to_string() == *cursor)
                .ok_or_else(|| Problem::invalid("cursor is not one of this list's"))?
        }
    };
    let configured = state.connections.configured().await;
    let page: Vec<&Connector> = found.iter().copied().skip(start).take(limit).collect();
    let more = start + page.len() < found.len();
    Ok(Json(ConnectorsBody {
        // Not the slug: ad blockers refuse requests with some slugs in their address.
        next_cursor: page
            .last()
            .filter(|_| more)
            .map(|connector| connector.id.to_string()),
        connectors: page
            .into_iter()
            .map(|connector| ConnectorBody::new(connector, configured(connector)))
            .collect(),
        total_count: found.len(),
        categories: catalog
            .categories()
            .into_iter()
            .map(|(name, count)| CategoryBody {
                name: name.to_owned(),
                count,
            })
            .collect(),
    }))
}

/// A connector as the original API shows it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ListedConnector {
    /// UUIDv5 of the slug.
    id: Uuid,
    slug: String,
    name: String,
    /// Always `stable`.
    status: &'static str,
    category: String,
    /// Always null.
    description: Option<String>,
    /// Always null.
    latest_version: Option<String>,
    /// Always `true`.
    is_platform: bool,
    /// Always null.
    owner_id: Option<String>,
    /// `true` if it can be connected.
    nango_enabled: bool,
    /// The integration at Nango that serves it.
    nango_provider_key: String,
    /// When the catalog first had it.
    created_at: Option<DateTime<Utc>>,
}

/// The status that `/list` gives every connector.
const LISTED_STATUS: &str = "stable";

/// The whole catalog, as the original API shows it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConnectorListBody {
    connectors: Vec<ListedConnector>,
    total_count: usize,
}

/// Which connectors `/list` shows.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ConnectorListQuery {
    /// Only connectors with this status: all are `stable`.
    status_filter: Option<String>,
    /// Only this category.
    category: Option<String>,
}

/// All connectors in one response, in the shape that frontends of the original API read.
#[utoipa::path(get, path = "/api/v1/connectors/list", operation_id = "list_all_connectors", tag = "catalog", params(ConnectorListQuery), responses(
    (status = 200, body = ConnectorListBody), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody)
))]
pub(crate) async fn list_all(
    State(state): State<AppState>,
    _: AnyCaller,
    Query(query): Query<ConnectorListQuery>,
) -> Result<Json<ConnectorListBody>, Problem> {
    let status = query.status_filter.as_deref();
    let is_listed = status.is_none_or(|status| status.is_empty() || status == LISTED_STATUS);
    let category = query
        .category
        .as_deref()
        .filter(|category| !category.is_empty());
    let configured = state.connections.configured().await;
    let created = state.connections.connector_creation_times().await?;
    let found = state.connections.catalog().search("", category);
    let connectors: Vec<ListedConnector> = found
        .filter(|_| is_listed)
        .map(|connector| ListedConnector {
            id: connector.id,
            slug: connector.slug.clone(),
            name: connector.name.clone(),
            status: LISTED_STATUS,
            category: connector.category.clone(),
            description: None,
            latest_version: None,
            is_platform: true,
            owner_id: None,
            nango_enabled: connector.availability() == Availability::Available
                && configured(connector) != Some(false),
            nango_provider_key: connector.integration_key.clone(),
            created_at: created.get(&connector.id).copied(),
        })
        .collect();
    Ok(Json(ConnectorListBody {
        total_count: connectors.len(),
        connectors,
    }))
}

/// One connector.
#[utoipa::path(get, path = "/api/v1/connectors/{connector}", operation_id = "get_connector", tag = "catalog",
    params(("connector" = String, Path, description = "A connector's id or slug")),
    responses((status = 200, body = ConnectorBody), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody))
)]
pub(crate) async fn get(
    State(state): State<AppState>,
    _: AnyCaller,
    Path(reference): Path<String>,
) -> Result<Json<ConnectorBody>, Problem> {
    let connector = state
        .connections
        .catalog()
        .get(&reference)
        .ok_or_else(|| service::Error::ConnectorNotFound(reference.clone()))?;
    let configured = state.connections.configured().await;
    Ok(Json(ConnectorBody::new(connector, configured(connector))))
}
