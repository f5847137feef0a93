//! The catalog's endpoints.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use url::Url;
use utoipa::{IntoParams, ToSchema};

use crate::catalog::{Availability, Connector, Parameter};
use crate::domain::ConnectorId;
use crate::http::AppState;
use crate::http::extract::{AnyCaller, Path, Query, page_limit};
use crate::http::problem::{Code, Problem};
use crate::service::{self, CatalogView};

/// How many connectors a page has at the most.
const MAX_LIMIT: usize = 200;

/// A connector of the catalog.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Connector)]
pub(crate) struct ConnectorBody {
    /// The id, a UUIDv5 of the slug.
    #[schema(value_type = Uuid)]
    id: ConnectorId,
    /// The short name. Every operation accepts it in place of the id.
    slug: String,
    /// The display name.
    name: String,
    category: String,
    /// The address of the logo. It requires no token.
    logo_url: String,
    /// Nango's name of the provider; null if Nango does not support it.
    provider: Option<String>,
    /// Nango's key of the integration that serves the connector.
    integration_key: String,
    /// Nango's name of the authorization method, such as `OAUTH2` or `API_KEY`.
    auth_mode: Option<String>,
    /// `true` if the operator has enabled the connector.
    enabled: bool,
    /// `true` if the connector can be connected.
    available: bool,
    /// Why the connector is not available; null if it is.
    unavailable_reason: Option<String>,
    /// `true` if Nango has an integration for the connector; null if that is unknown.
    configured: Option<bool>,
    /// `true` if the connector is in Patchbay's list or the operator's; `false` if it comes from an integration at Nango.
    listed: bool,
    /// `true` if its connections identify their account.
    identifies_account: bool,
    /// The kind of account that a connection stands for, such as `user` or `workspace`; null if none is identified.
    account_kind: Option<String>,
    /// The values that `connect` accepts in `parameters`.
    parameters: Vec<Parameter>,
}

impl ConnectorBody {
    fn new(connector: &Connector, configured: Option<bool>, logo_url: &Url) -> Self {
        let (available, unavailable_reason) = match connector.availability() {
            Availability::Available => (true, None),
            Availability::Disabled => (false, Some("The operator has disabled it".to_owned())),
            Availability::Unavailable(reason) => (false, Some(reason.to_owned())),
        };
        let rule = connector.account_rule();
        let rule = rule.filter(|rule| rule.identifies_account());
        Self {
            logo_url: logo_url.to_string(),
            listed: connector.is_listed,
            identifies_account: rule.is_some(),
            account_kind: rule.and_then(|rule| rule.kind.clone()),
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

/// A page of the catalog, sorted by name.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ConnectorList)]
pub(crate) struct ConnectorsBody {
    connectors: Vec<ConnectorBody>,
    /// The number of matching connectors on all pages.
    total_count: usize,
    /// The cursor of the next page; null on the last page.
    next_cursor: Option<String>,
    /// All categories, with their numbers of connectors.
    categories: Vec<CategoryBody>,
}

/// A category of the catalog.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Category)]
pub(crate) struct CategoryBody {
    name: String,
    /// The number of connectors in the category.
    count: usize,
}

/// The filters and the page of a catalog listing.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CatalogQuery {
    /// Words to find in the name, slug, category or their synonyms.
    search: Option<String>,
    /// Only connectors of this category.
    category: Option<String>,
    /// The maximum number of connectors: 1 to 200. The default is 100.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// The `next_cursor` of the previous page.
    cursor: Option<String>,
}

/// List the connectors.
///
/// Returns a page of the catalog, sorted by name. Disabled connectors are included, with `available` set to `false`.
#[utoipa::path(get, path = "/api/v1/connectors", operation_id = "listConnectors", tag = "catalog", params(CatalogQuery),
    responses((status = 200, body = ConnectorsBody, description = "A page of the catalog."))
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    _: AnyCaller,
    Query(query): Query<CatalogQuery>,
) -> Result<Json<ConnectorsBody>, Problem> {
    let limit = page_limit(query.limit, 100, MAX_LIMIT)?;
    let view = state.services.catalog.view().await;
    let search = query.search.as_deref().unwrap_or_default();
    let found: Vec<&Connector> = view
        .catalog
        .search(search, query.category.as_deref())
        .filter(|connector| view.is_offered(connector))
        .collect();
    let start = match &query.cursor {
        None => 0,
        Some(cursor) => {
            1 + found
                .iter()
                .position(|connector| connector.id.to_string() == *cursor)
                .ok_or_else(|| Problem::invalid("cursor does not belong to this list"))?
        }
    };
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
            .map(|connector| {
                let logo_url = state.services.logos.url(connector);
                ConnectorBody::new(connector, view.is_configured(connector), &logo_url)
            })
            .collect(),
        total_count: found.len(),
        categories: categories(&view),
    }))
}

/// Returns the categories of the connectors that are offered to users.
fn categories(view: &CatalogView) -> Vec<CategoryBody> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for connector in view.catalog.iter().filter(|it| view.is_offered(it)) {
        *counts.entry(&connector.category).or_default() += 1;
    }
    let counts = counts.into_iter();
    counts
        .map(|(name, count)| CategoryBody {
            name: name.to_owned(),
            count,
        })
        .collect()
}

/// A connector as the original API shows it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OriginalConnector)]
pub(crate) struct ListedConnector {
    /// UUIDv5 of the slug.
    #[schema(value_type = Uuid)]
    id: ConnectorId,
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
#[schema(as = OriginalConnectorList)]
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

/// List all connectors in the original shape.
///
/// Returns the whole catalog in one response, as frontends of the original API read it.
#[utoipa::path(get, path = "/api/v1/connectors/list", operation_id = "listAllConnectors", tag = "catalog", params(ConnectorListQuery),
    responses((status = 200, body = ConnectorListBody, description = "All connectors."))
)]
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
    let view = state.services.catalog.view().await;
    let created = state.services.catalog.creation_times().await?;
    let found = view.catalog.search("", category);
    let connectors: Vec<ListedConnector> = found
        .filter(|connector| is_listed && view.is_offered(connector))
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
                && view.is_configured(connector) != Some(false),
            nango_provider_key: connector.integration_key.clone(),
            created_at: created.get(&connector.id).copied(),
        })
        .collect();
    Ok(Json(ConnectorListBody {
        total_count: connectors.len(),
        connectors,
    }))
}

/// Get a connector.
///
/// Returns one connector of the catalog by its id or slug.
#[utoipa::path(get, path = "/api/v1/connectors/{connector}", operation_id = "getConnector", tag = "catalog",
    params(("connector" = String, Path, description = "The id or slug of a connector.", example = "gmail")),
    responses((status = 200, body = ConnectorBody, description = "The connector.")),
    extensions(("x-error-codes" = json!([Code::ConnectorNotFound])))
)]
pub(crate) async fn get(
    State(state): State<AppState>,
    _: AnyCaller,
    Path(reference): Path<String>,
) -> Result<Json<ConnectorBody>, Problem> {
    let mut view = state.services.catalog.view().await;
    if view.catalog.get(&reference).is_none() {
        // It may be an integration that was added a moment ago.
        state.services.catalog.connector(&reference).await?;
        view = state.services.catalog.view().await;
    }
    let connector = view.catalog.get(&reference);
    let connector = connector.ok_or(service::Error::ConnectorNotFound(reference.clone()))?;
    let logo_url = state.services.logos.url(connector);
    let configured = view.is_configured(connector);
    Ok(Json(ConnectorBody::new(connector, configured, &logo_url)))
}
