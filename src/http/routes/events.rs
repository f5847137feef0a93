//! The event stream of a user and the history of a connection.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, HeaderName};
use axum::response::sse::{self, KeepAlive};
use axum::response::{IntoResponse, Sse};
use axum::{Extension, Json};
use futures::{StreamExt, stream};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::auth::service_keys::Scope;
use crate::domain::{ConnectionId, Event, EventId};
use crate::http::AppState;
use crate::http::extract::{
    ConnectionsReader, Path, Query, StreamAccess, StreamReader, page_limit,
};
use crate::http::middleware::limits::RequestPermit;
use crate::http::problem::{Code, Problem};

/// The interval of heartbeats on a stream without events.
const HEARTBEAT: Duration = Duration::from_secs(5);
const _: () = assert!(
    HEARTBEAT.as_secs() < 30,
    "proxies close streams without data for 30 s"
);

/// Headers that keep proxies and middleware from buffering or compressing a stream, which would delay its events.
const UNBUFFERED: [(HeaderName, &str); 2] = [
    (CACHE_CONTROL, "no-cache, no-transform"),
    (HeaderName::from_static("x-accel-buffering"), "no"),
];

/// The maximum duration of a stream. Its client then reconnects with a current token.
const MAX_STREAM_DURATION: Duration = Duration::from_secs(15 * 60);

/// The interval in which a stream checks that its service key is still valid.
const KEY_RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How soon a client reconnects after the end of a stream.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// The maximum number of events on a page of the history.
const MAX_LIMIT: i64 = 200;

/// The data of the event `ready`, the first one of a stream.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StreamReady {
    /// `true` if the stream continues after `Last-Event-ID` without a gap.
    resumed: bool,
}

/// The data of an event of a stream.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "names the schema in the OpenAPI document")]
pub(crate) enum StreamEventData {
    Connection(Event),
    Ready(StreamReady),
}

/// Stream the events of the user.
///
/// Sends server-sent events. The stream starts with an event named `ready`, whose data is a `StreamReady`. Each change of a
/// connection is an event named `connection`, whose data is a `ConnectionEvent` and whose id is that of the event.
///
/// `Last-Event-ID` resumes after that event without a gap. If `resumed` is `false`, read the connections again: the header
/// was missing, or the event no longer exists. The stream ends after 15 minutes at most. Then reconnect.
#[utoipa::path(get, path = "/api/v1/connectors/connections/events", operation_id = "streamEvents", tag = "connections",
    params(("Last-Event-ID" = Option<Uuid>, Header, description = "The id of the last received event.")),
    responses((status = 200, body = StreamEventData, content_type = "text/event-stream", description = "A stream of events. The schema is that of their data."))
)]
pub(crate) async fn stream(
    State(state): State<AppState>,
    StreamReader {
        user,
        access: leave,
    }: StreamReader,
    Extension(permit): Extension<RequestPermit>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    let last = last_event_id(&headers)?;
    let slot = state.limits.stream(&user)?;
    let events = state.services.events.follow(&user, last).await?;
    permit.release();
    let ready = sse::Event::default()
        .event("ready")
        .id(events.last().to_string())
        .retry(RECONNECT_DELAY)
        .json_data(StreamReady {
            resumed: events.resumed(),
        })
        .map_err(Problem::internal)?;
    let ready = stream::once(std::future::ready(Ok::<_, Infallible>(ready)));
    let over = until_expired(state.clone(), leave);
    let following = Some(Box::new((state, events, slot)));
    let news = stream::unfold(following, move |following| async move {
        let mut following = following?;
        let (state, events, _) = &mut *following;
        let batch = tokio::select! {
            batch = state.services.events.next(events) => batch,
            () = state.stopping.draining.cancelled() => return Some((vec![closing_event()], None)),
        };
        match batch {
            Ok(Some(batch)) => {
                let messages: Vec<_> = batch.iter().filter_map(to_sse_event).collect();
                Some((messages, Some(following)))
            }
            // The client reconnects and reloads its data.
            Ok(None) => None,
            Err(error) => {
                // The client reconnects and resumes after the last event that it received.
                tracing::warn!(%error, "event stream failed");
                None
            }
        }
    });
    let news = news.flat_map(|messages| stream::iter(messages.into_iter().map(Ok)));
    let events = ready.chain(news).take_until(over);
    let events: Sse<_> = Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT));
    Ok((UNBUFFERED, events))
}

/// Returns when a stream has to end: after its lifetime, or when its caller loses access.
async fn until_expired(state: AppState, access: StreamAccess) {
    match access {
        StreamAccess::UntilExpiry(time) => sleep(time.min(MAX_STREAM_DURATION)).await,
        StreamAccess::WithKey(key) => {
            let revoked = async {
                loop {
                    match state.keys.authenticate(key.expose_secret()).await {
                        Ok(Some(service)) if service.scopes.contains(&Scope::ConnectionsRead) => {}
                        // A database error does not revoke access.
                        Err(_) => {}
                        Ok(_) => break,
                    }
                    sleep(KEY_RECHECK_INTERVAL).await;
                }
            };
            // Both outcomes end the stream. Boxed, because most streams are opened with a token and need no space for
            // it.
            let _ = Box::pin(timeout(MAX_STREAM_DURATION, revoked)).await;
        }
    }
}

/// Returns the event after which a stream resumes; `None` if the header is missing or empty.
///
/// # Errors
/// If the header is not the id of an event.
pub fn last_event_id(headers: &HeaderMap) -> Result<Option<EventId>, Problem> {
    let Some(id) = headers.get("last-event-id").filter(|id| !id.is_empty()) else {
        return Ok(None);
    };
    let id = id.to_str().ok().and_then(|id| id.parse().ok());
    id.map(Some)
        .ok_or_else(|| Problem::invalid("Last-Event-ID is not the id of an event"))
}

/// Returns the last event of a stream on a replica that shuts down. Its clients reconnect at different times, because
/// all of them move to the remaining replicas.
fn closing_event() -> sse::Event {
    let share = f64::from(Uuid::new_v4().as_bytes()[0]) / 255.0;
    sse::Event::default()
        .comment("this replica is shutting down: reconnect")
        .retry(RECONNECT_DELAY.mul_f64(0.5 + 2.0 * share))
}

fn to_sse_event(event: &Event) -> Option<sse::Event> {
    sse::Event::default()
        .event("connection")
        .id(event.id.to_string())
        .json_data(event)
        .ok()
}

/// The page of a history.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct HistoryQuery {
    /// The maximum number of events: 1 to 200. The default is 50.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// The `next_cursor` of the previous page.
    cursor: Option<i64>,
}

/// A page of the history of a connection, newest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EventList)]
pub(crate) struct HistoryBody {
    events: Vec<Event>,
    /// The cursor of the next page; null on the last page.
    next_cursor: Option<i64>,
}

/// List the events of a connection.
///
/// Returns a page of the history, newest first.
#[utoipa::path(get, path = "/api/v1/connectors/connections/{id}/history", operation_id = "listHistory", tag = "connections",
    params(("id" = Uuid, Path, description = "The id of a connection."), HistoryQuery),
    responses((status = 200, body = HistoryBody, description = "A page of the history.")),
    extensions(("x-error-codes" = json!([Code::ConnectionNotFound])))
)]
pub(crate) async fn history(
    State(state): State<AppState>,
    ConnectionsReader(user): ConnectionsReader,
    Path(id): Path<ConnectionId>,
    Query(query): Query<HistoryQuery>,
) -> Result<Json<HistoryBody>, Problem> {
    let limit = page_limit(query.limit, 50, MAX_LIMIT)?;
    let connections = &state.services.connections;
    let (events, next_cursor) = connections.history(&user, id, query.cursor, limit).await?;
    Ok(Json(HistoryBody {
        events,
        next_cursor,
    }))
}
