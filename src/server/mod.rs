//! Accepts, serves, supervises and closes connections of clients.
//!
//! axum's own server has no limits. This one closes connections of slow and idle clients.

mod concurrency;
mod config;
mod connection_timeouts;

pub use config::ServerConfig;

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::{Arc, Once};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Version};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulConnection;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

pub(crate) use self::concurrency::{ConcurrencyLimiter, Permit, network};
use self::connection_timeouts::{Activity, TimedStream, TrackedBody};

/// The address of the client, in the extensions of each request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// How long a connection may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an incomplete head is awaited when a shutdown begins.
const FINAL_HEAD_TIMEOUT: Duration = Duration::from_secs(2);

/// The delay before the next `accept` after the system has run out of sockets.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The maximum number of concurrent requests on one HTTP/2 connection.
const MAX_CONCURRENT_STREAMS: u32 = 64;

/// The HTTP/2 windows of a request's body and of a connection: the most bytes that a client may send before they are read.
const WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 4 * WINDOW;

/// The maximum size of a head, in bytes.
const MAX_HEAD_BYTES: u16 = 32 * 1024;

/// The size of a socket's send buffer, in bytes. By default the system would buffer megabytes for each client that does
/// not read.
const SEND_BUFFER: u32 = 128 * 1024;

/// The most connections that wait in the system's queue.
const BACKLOG: u32 = 1024;

/// The phases of a graceful shutdown.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// A stop signal was received: readiness fails, and requests are still answered.
    pub requested: CancellationToken,
    /// No new connections or requests are accepted, and those in progress finish.
    pub draining: CancellationToken,
    /// Requests still in progress are aborted.
    pub aborted: CancellationToken,
}

/// Listens on an address.
///
/// # Errors
/// If the address is in use.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Like `TcpListener::bind`, so that a restarted service can use its port immediately.
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit the setting.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `router` until `shutdown.draining`, then until all requests have been answered.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    config: ServerConfig,
    open: Gauge,
    shutdown: Shutdown,
) {
    let permits = Arc::new(Semaphore::new(
        config.max_connections.min(Semaphore::MAX_PERMITS),
    ));
    let connections = TaskTracker::new();
    let server = Server {
        router,
        config,
        open,
        stopping: shutdown.clone(),
        of_address: ConcurrencyLimiter::default(),
        hasher: RandomState::new(),
        refused: Once::new(),
    };
    while let Some(permit) = shutdown
        .draining
        .run_until_cancelled(acquire_slot(&permits))
        .await
    {
        // If `accept` is cancelled while it waits, it has accepted no connection.
        let accepted = shutdown.draining.run_until_cancelled(listener.accept());
        match accepted.await {
            Some(Ok((stream, _))) => server.spawn_connection(stream, permit, &connections),
            Some(Err(error)) => pause_after(&error).await,
            None => break,
        }
    }
    for stream in drain_accept_queue(listener) {
        server.spawn_connection(stream, acquire_slot(&permits).await, &connections);
    }
    connections.close();
    connections.wait().await;
}

/// Accepts the connections in the system's queue, which closing the socket would reset.
///
/// Uses the socket directly, because the runtime's view of the queue may be stale.
fn drain_accept_queue(listener: TcpListener) -> Vec<TcpStream> {
    let Ok(listener) = listener.into_std() else {
        return Vec::new();
    };
    let accepted = std::iter::from_fn(|| Some(listener.accept().ok()?.0)).collect::<Vec<_>>();
    drop(listener);
    let into_ours = |stream: std::net::TcpStream| {
        stream.set_nonblocking(true).ok()?;
        TcpStream::from_std(stream).ok()
    };
    accepted.into_iter().filter_map(into_ours).collect()
}

async fn acquire_slot(permits: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    let permit = permits.clone().acquire_owned().await;
    permit.expect("the semaphore is never closed")
}

/// Pauses if the system has no more sockets. A client that has disconnected needs no pause.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    ) {
        return;
    }
    tracing::error!(%error, "cannot accept a client: MAX_CLIENT_CONNECTIONS exceeds the system's limit");
    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
}

struct Server {
    router: Router,
    config: ServerConfig,
    open: Gauge,
    stopping: Shutdown,
    /// The open connections of each address.
    of_address: ConcurrencyLimiter,
    hasher: RandomState,
    /// Set once an address was refused a connection.
    refused: Once,
}

impl Server {
    /// Takes a slot of an address; `None` if the address has used its share.
    fn place_of(&self, address: IpAddr) -> Option<Permit> {
        let key = self.hasher.hash_one(network(address));
        let most = self.config.connections_per_address;
        let permit = self.of_address.acquire(key, most);
        if permit.is_none() {
            self.refused.call_once(|| {
                tracing::warn!(
                    %address, most,
                    "too many connections from one address, closing new ones: set TRUSTED_PROXY_HOPS if it is a proxy"
                );
            });
        }
        permit
    }

    fn spawn_connection(
        &self,
        stream: TcpStream,
        permit: OwnedSemaphorePermit,
        connections: &TaskTracker,
    ) {
        let Ok(peer) = stream.peer_addr() else {
            return;
        };
        let Some(of_address) = self.place_of(peer.ip()) else {
            return;
        };
        // Responses are written as a whole, so delaying small writes would only add latency.
        let _ = stream.set_nodelay(true);
        let activity = Arc::new(Activity::begin(&self.config));
        let timeout = self.config.client_timeout;
        let answering = Arc::new(ConnectionService {
            router: self.router.clone(),
            peer: Peer(peer),
            activity: activity.clone(),
            shutdown_requested: self.stopping.requested.clone(),
        });
        let service = service_fn(move |request: Request<Incoming>| {
            let answering = answering.clone();
            // Boxed, because otherwise each open connection would reserve its size.
            Box::pin(async move { answering.answer(request.map(Body::new)).await })
        });
        let (open, shutdown) = (self.open.clone(), self.stopping.clone());
        connections.spawn(async move {
            open.inc();
            let http1 = tokio::select! {
                http1 = is_http1(&stream) => http1,
                // A client that sends nothing is handled by `drive_connection`, like any other idle client.
                () = activity.until_unused() => false,
                () = shutdown.draining.cancelled() => false,
            };
            let io = TokioIo::new(TimedStream::new(stream, activity.clone(), timeout));
            if http1 {
                let connection = pin!(
                    http1::Builder::new()
                        .max_header_size(MAX_HEAD_BYTES.into())
                        .serve_connection(io, service)
                );
                drive_connection(connection, &activity, &shutdown).await;
            } else {
                let mut builder = auto::Builder::new(TokioExecutor::new());
                // This also serves HTTP/1 if only the preface's first bytes had arrived. Here hyper limits a head by
                // its read buffer.
                builder.http1().max_buf_size(MAX_HEAD_BYTES.into());
                builder
                    .http2()
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
                    .initial_stream_window_size(WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .max_header_list_size(MAX_HEAD_BYTES.into());
                // Boxed, because otherwise the task of every HTTP/1 connection would reserve its size.
                let mut connection = Box::pin(builder.serve_connection(io, service));
                drive_connection(connection.as_mut(), &activity, &shutdown).await;
            }
            open.dec();
            drop((permit, of_address));
        });
    }
}

/// Returns whether a client's first bytes cannot be those of HTTP/2. It only peeks: bytes that were read would have to
/// be replayed before the rest, for which hyper doubles its buffer of each connection.
async fn is_http1(stream: &TcpStream) -> bool {
    /// RFC 9113, section 3.4.
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut first = [0; PREFACE.len()];
    let seen = stream.peek(&mut first).await;
    seen.is_ok_and(|count| !PREFACE.starts_with(&first[..count]))
}

/// Drives a connection until it ends or has to be closed.
async fn drive_connection<C>(mut connection: Pin<&mut C>, activity: &Activity, shutdown: &Shutdown)
where
    C: GracefulConnection,
{
    tokio::select! {
        // A client that disconnects is not an error.
        _ = connection.as_mut() => return,
        () = activity.until_unused() => {
            connection.as_mut().graceful_shutdown();
            // A graceful shutdown would wait for an incomplete head without a limit.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection).await;
            return;
        }
        () = shutdown.draining.cancelled() => {}
    }
    tokio::select! {
        _ = connection.as_mut() => return,
        // A request that has been sent is answered, even if only part of it has arrived.
        _ = tokio::time::timeout(FINAL_HEAD_TIMEOUT, activity.head_received()) => {
            connection.as_mut().graceful_shutdown();
        }
    }
    tokio::select! {
        _ = connection.as_mut() => {}
        () = activity.until_unused() => {}
        () = shutdown.aborted.cancelled() => {}
    }
}

/// The service of one connection's requests.
struct ConnectionService {
    router: Router,
    peer: Peer,
    activity: Arc<Activity>,
    shutdown_requested: CancellationToken,
}

impl ConnectionService {
    /// Answers a request, which counts as in progress until the last byte of the response is sent.
    async fn answer(&self, mut request: Request) -> Result<Response, Infallible> {
        let version = request.version();
        let guard = self.activity.request(version);
        request.extensions_mut().insert(self.peer);
        let mut response = self.router.clone().oneshot(request).await?;
        if self.shutdown_requested.is_cancelled() && version < Version::HTTP_2 {
            // The client then sends its next request to another replica instead of into a closing connection.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        Ok(response.map(|body| Body::new(TrackedBody { body, guard })))
    }
}
