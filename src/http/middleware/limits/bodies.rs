//! Bodies with limits: a request's body arrives at a minimum rate, a response's body holds a permit until it is sent.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tower::BoxError;

/// The minimum transfer rate of a body, in bytes a second, after a grace period of the client timeout. The largest body
/// that is read into memory has eight seconds more.
const MIN_RATE: u64 = 8 * 1024;

/// A request's body that fails when its client is too slow: when the next piece takes longer than the client timeout, or
/// the body as a whole arrives below [`MIN_RATE`]. Time in which the service does not read the body does not count.
pub(crate) struct ArrivingBody {
    body: Body,
    patience: Duration,
    received: u64,
    /// The sum of all finished waits.
    waited: Duration,
    wait: Option<Wait>,
}

struct Wait {
    since: Instant,
    end: Pin<Box<Sleep>>,
}

impl ArrivingBody {
    pub(crate) fn new(body: Body, timeout: Duration) -> Self {
        Self {
            body,
            patience: timeout,
            received: 0,
            waited: Duration::ZERO,
            wait: None,
        }
    }

    /// Returns how long the next piece may take.
    fn time_left(&self) -> Duration {
        let earned = Duration::from_millis(self.received.saturating_mul(1000) / MIN_RATE);
        let for_all = (self.patience + earned).saturating_sub(self.waited);
        for_all.min(self.patience)
    }
}

impl HttpBody for ArrivingBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            if let Some(wait) = self.wait.take() {
                self.waited += wait.since.elapsed();
            }
            if let Some(Ok(frame)) = &frame {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.received += bytes as u64;
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let left = self.time_left();
        let wait = self.wait.get_or_insert_with(|| {
            let since = Instant::now();
            let end = Box::pin(sleep_until(since + left));
            Wait { since, end }
        });
        ready!(wait.end.as_mut().poll(context));
        Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::TimedOut).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response's body that holds a value until its last byte has been written to the connection, or dropped.
pub(crate) struct SentBody<T> {
    body: Body,
    occupied: Arc<T>,
}

impl<T> SentBody<T> {
    pub(crate) fn new(body: Body, occupied: T) -> Self {
        Self {
            body,
            occupied: Arc::new(occupied),
        }
    }
}

/// A piece of a body. The server drops it after writing it.
struct Piece<T> {
    bytes: Bytes,
    _occupied: Arc<T>,
}

impl<T> AsRef<[u8]> for Piece<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T: Send + Sync + 'static> HttpBody for SentBody<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let piece = |bytes| {
            Bytes::from_owner(Piece {
                bytes,
                _occupied: self.occupied.clone(),
            })
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
