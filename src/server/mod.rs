//! Connections of clients: accepted, served, watched, and ended.
//!
//! axum's own server has no limits. Here a client that is slow, or holds on to
//! a connection without a use for it, loses it.

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

/// The address at the other end of a connection; each request of it has it among its extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// How long a connection may take to close after it was asked to.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a head that is on its way when nothing new is taken any more is waited for.
const FINAL_HEAD_TIMEOUT: Duration = Duration::from_secs(2);

/// How soon a system that has no more sockets is asked for one again.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// What one HTTP/2 connection may ask for at once.
const MAX_CONCURRENT_STREAMS: u32 = 64;

/// The HTTP/2 windows of a request's body and of a connection: the most bytes that a client may send before they are read.
const WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 4 * WINDOW;

/// How large a head may be, in bytes.
const MAX_HEAD_BYTES: u16 = 32 * 1024;

/// The size of a socket's send buffer, in bytes. By default the system would buffer megabytes for each client that does
/// not read.
const SEND_BUFFER: u32 = 128 * 1024;

/// The most connections that wait in the system's queue.
const BACKLOG: u32 = 1024;

/// How a service comes to its end.
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
/// When the address is taken.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // As `TcpListener::bind` does: the port of a service that has just ended is free.
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit it.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `router` to everybody who connects, until `stopping.closing`; then until all is answered.
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

/// Those who are in the system's queue when it is closed: they would be cut off with it.
///
/// The system is asked itself, for what the runtime knows of the queue may be a moment old.
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

/// A client that has gone again is nothing; where there are no sockets left, one has to be waited for.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    ) {
        return;
    }
    tracing::error!(%error, "a client cannot be accepted: MAX_CLIENT_CONNECTIONS is more than the system allows");
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
    /// Takes a place for a connection of this address; `None` if the address has used its share.
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
        // Answers are written whole: waiting for more to send with them only delays them.
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
            // Apart from the connection, which would otherwise have room for it for as long as it is open.
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
                // HTTP/1, too, where no more than the preface's first bytes had come. Here hyper bounds
                // a head by what it reads at once.
                builder.http1().max_buf_size(MAX_HEAD_BYTES.into());
                builder
                    .http2()
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
                    .initial_stream_window_size(WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .max_header_list_size(MAX_HEAD_BYTES.into());
                // Apart from the others, whose tasks would otherwise have room for it.
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

/// Drives a connection until it ends, by itself or because it has to.
async fn drive_connection<C>(mut connection: Pin<&mut C>, activity: &Activity, shutdown: &Shutdown)
where
    C: GracefulConnection,
{
    tokio::select! {
        // A client that goes away in the middle of something is no error of ours.
        _ = connection.as_mut() => return,
        () = activity.until_unused() => {
            connection.as_mut().graceful_shutdown();
            // Half a head would be waited for as long as it takes.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection).await;
            return;
        }
        () = shutdown.draining.cancelled() => {}
    }
    tokio::select! {
        _ = connection.as_mut() => return,
        // A request that has been sent is answered, even if only part of it has come.
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

/// What answers one connection's requests.
struct ConnectionService {
    router: Router,
    peer: Peer,
    activity: Arc<Activity>,
    shutdown_requested: CancellationToken,
}

impl ConnectionService {
    /// One request: counted as this connection's until the last byte of its answer.
    async fn answer(&self, mut request: Request) -> Result<Response, Infallible> {
        let version = request.version();
        let guard = self.activity.request(version);
        request.extensions_mut().insert(self.peer);
        let mut response = self.router.clone().oneshot(request).await?;
        if self.shutdown_requested.is_cancelled() && version < Version::HTTP_2 {
            // The client's next request then goes to another replica, and none is sent into a closing connection.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        Ok(response.map(|body| Body::new(TrackedBody { body, guard })))
    }
}
