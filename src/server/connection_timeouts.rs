//! Timeouts of client connections.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::Version;
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::ServerConfig;

/// The activity of a connection: it is in use while a request is in progress or a timeout has not expired.
pub(crate) struct Activity {
    opened: Instant,
    /// The timeout of a request's head.
    head: Duration,
    /// The timeout of an idle connection.
    idle: Duration,
    in_flight: AtomicU32,
    /// `true` if part of a head has arrived. A new connection has the timeout of a head, too.
    in_head: AtomicBool,
    /// When the current wait started, in milliseconds since the connection was opened.
    since: AtomicU64,
    head_came: Notify,
}

impl Activity {
    pub(crate) fn begin(config: &ServerConfig) -> Self {
        Self {
            opened: Instant::now(),
            head: config.client_timeout,
            idle: config.keep_alive,
            in_flight: AtomicU32::new(0),
            in_head: AtomicBool::new(true),
            since: AtomicU64::new(0),
            head_came: Notify::new(),
        }
    }

    /// Marks a request as received. It is in progress until the returned guard is dropped.
    pub(crate) fn request(self: &Arc<Self>, version: Version) -> RequestGuard {
        self.begin_request();
        self.head_came.notify_waiters();
        RequestGuard {
            activity: self.clone(),
            has_windows: version == Version::HTTP_2,
            counts: true,
        }
    }

    fn begin_request(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.in_head.store(false, Ordering::Relaxed);
    }

    fn end_request(&self) {
        self.restart();
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns when no head is incomplete.
    pub(crate) async fn head_received(&self) {
        let came = self.head_came.notified();
        if self.in_head.load(Ordering::Relaxed) {
            came.await;
        }
    }

    /// Returns when a timeout has expired.
    pub(crate) async fn until_unused(&self) {
        loop {
            let now = Instant::now();
            let end = match self.in_flight.load(Ordering::Relaxed) {
                0 => self.end_of_wait(),
                // Checks again when the shortest timeout could expire after the request.
                _ => now + self.head.min(self.idle),
            };
            if end <= now {
                return;
            }
            sleep_until(end).await;
        }
    }

    fn end_of_wait(&self) -> Instant {
        let since = self.opened + Duration::from_millis(self.since.load(Ordering::Relaxed));
        if self.in_head.load(Ordering::Relaxed) {
            since + self.head
        } else {
            since + self.idle
        }
    }

    fn bytes_received(&self) {
        let waits = self.in_flight.load(Ordering::Relaxed) == 0;
        if waits && !self.in_head.swap(true, Ordering::Relaxed) {
            self.restart();
        }
    }

    fn restart(&self) {
        let millis = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since.store(millis, Ordering::Relaxed);
    }
}

/// A request in progress. It does not count as one while its client accepts nothing of the response.
pub(crate) struct RequestGuard {
    activity: Arc<Activity>,
    /// `true` if the client announces how much of the response it accepts, as in HTTP/2. Otherwise the socket shows
    /// it.
    has_windows: bool,
    counts: bool,
}

impl RequestGuard {
    /// Stops counting the request: a piece of the response is ready and its client has not accepted it.
    fn mark_waiting_for_client(&mut self) {
        if self.has_windows && self.counts {
            self.counts = false;
            self.activity.end_request();
        }
    }

    /// Counts the request again: its client has accepted everything that was ready.
    fn client_caught_up(&mut self) {
        if !self.counts {
            self.counts = true;
            self.activity.begin_request();
        }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.client_caught_up();
        self.activity.end_request();
    }
}

/// The body of a response. The request ends with it.
pub(crate) struct TrackedBody {
    pub(crate) body: Body,
    pub(crate) guard: RequestGuard,
}

impl hyper::body::Body for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // hyper polls the next piece when the client's window has room for the previous one.
        self.guard.client_caught_up();
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_some() {
            self.guard.mark_waiting_for_client();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A client's socket. Writes fail if the client accepts nothing within the timeout.
pub(crate) struct TimedStream {
    stream: TcpStream,
    activity: Arc<Activity>,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl TimedStream {
    pub(crate) fn new(stream: TcpStream, activity: Arc<Activity>, write_timeout: Duration) -> Self {
        Self {
            stream,
            activity,
            patience: write_timeout,
            stalled: None,
        }
    }

    fn fail_if_stalled<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let write_timeout = self.patience;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep(write_timeout)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.activity.bytes_received();
        }
        read
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.fail_if_stalled(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.fail_if_stalled(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
