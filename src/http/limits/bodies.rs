//! Bodies that occupy something: a request's while it arrives, an answer's until it has been sent.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tower::BoxError;

/// The least rate at which a body has to arrive, after a grace of the client timeout, in bytes a second: the largest
/// body that is read whole then takes eight seconds more.
const MIN_RATE: u64 = 8 * 1024;

/// A request's body, which fails when its client is too slow: when its next piece takes longer than the client
/// timeout, or all pieces so far came at less than [`MIN_RATE`]. Time in which the body is not read does not count.
pub(super) struct ArrivingBody {
    body: Body,
    patience: Duration,
    received: u64,
    /// How long the body has been waited for, the present wait left out.
    waited: Duration,
    wait: Option<Wait>,
}

struct Wait {
    since: Instant,
    end: Pin<Box<Sleep>>,
}

impl ArrivingBody {
    pub(super) fn new(body: Body, patience: Duration) -> Self {
        Self {
            body,
            patience,
            received: 0,
            waited: Duration::ZERO,
            wait: None,
        }
    }

    /// For how long the next piece may be waited for.
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

/// An answer's body, with what it occupies until its last byte has been written to the connection, or is given up.
pub(super) struct SentBody<T> {
    body: Body,
    occupied: Arc<T>,
}

impl<T> SentBody<T> {
    pub(super) fn new(body: Body, occupied: T) -> Self {
        Self {
            body,
            occupied: Arc::new(occupied),
        }
    }
}

/// A piece of a body. The server drops it when it has been written.
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
