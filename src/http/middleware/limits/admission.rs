//! Admission of requests: each one takes a slot of its caller and a permit of the replica.
//!
//! A request takes its permit when its body has arrived, and returns it when its response has been sent. A slow client
//! occupies only its own slots. Waiting requests and event streams return their permits early; they have limits of
//! their own.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{DefaultBodyLimit, FromRequest, MatchedPath, Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::future::poll_immediate;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::bodies::{ArrivingBody, SentBody};
use super::{
    CallerAddress, Limits, OVERLOAD_RETRY_SECONDS, RateLimitStatus, Unverified,
    add_rate_limit_headers,
};
use crate::http::AppState;
use crate::http::extract::{
    AuthenticationResult, Identity, authenticate_request, check_singletons,
};
use crate::http::problem::Problem;
use crate::server::Permit;
use crate::telemetry::metrics::GaugeGuard;

/// The path of Nango's webhooks.
const WEBHOOK_PATH_PREFIX: &str = "/api/v1/webhooks/";

/// The paths for the platform and the operator, which are served under any load.
const UNLIMITED_PATHS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// The largest request body that is read into memory, in bytes.
pub(crate) const MAX_BODY: usize = 64 * 1024;

/// The bytes of a response that one permit covers. A longer response takes one more permit for each of these.
const BYTES_PER_PERMIT: u64 = 64 * 1024;

/// The permits of a replica for one kind of request.
#[derive(Debug)]
pub(crate) struct Lane {
    /// Requests whose bodies are arriving.
    arriving: Arc<Semaphore>,
    /// Requests whose bodies have arrived and whose responses have not been sent.
    in_progress: Arc<Semaphore>,
}

impl Lane {
    /// Creates a lane with this many permits; 0 means no limit.
    pub(crate) fn new(permits: u32) -> Self {
        let permits = match permits {
            0 => Semaphore::MAX_PERMITS,
            some => some as usize,
        };
        Self {
            arriving: Arc::new(Semaphore::new(permits)),
            in_progress: Arc::new(Semaphore::new(permits)),
        }
    }
}

/// What a request in progress occupies.
#[derive(Debug)]
struct Admission {
    caller: Permit,
    /// The maximum number of slots of the caller.
    most: u32,
    replica: OwnedSemaphorePermit,
    _counted: GaugeGuard,
}

/// The permit of a request, in its extensions. The body of the response takes it over, unless it was released before.
#[derive(Clone, Debug)]
pub(crate) struct RequestPermit(Arc<Mutex<Option<Admission>>>);

impl RequestPermit {
    fn take(&self) -> Option<Admission> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Returns the permit early. For a request that only waits and has a limit of its own.
    pub(crate) fn release(&self) {
        drop(self.take());
    }
}

/// Admits a request, or rejects it with `Retry-After`.
pub(crate) async fn limit_requests(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Err(problem) = check_singletons(request.headers()) {
        return problem.into_response();
    }
    let limits = &state.limits;
    let address = limits.address_key(&request);
    request.extensions_mut().insert(address);
    let path = request.uri().path();
    if UNLIMITED_PATHS.contains(&path) {
        return next.run(request).await;
    }
    let is_webhook = path.starts_with(WEBHOOK_PATH_PREFIX);
    let timeout = state.client_timeout;
    if !request.body().is_end_stream() {
        request = request.map(|body| Body::new(ArrivingBody::new(body, timeout)));
    }
    if is_webhook {
        let answer = limits.webhook(address, request, next).await;
        return answer.unwrap_or_else(IntoResponse::into_response);
    }
    let reported = RateLimitStatus::default();
    let answer = limits
        .request(&state, address, request, next, &reported)
        .await;
    add_rate_limit_headers(
        answer.unwrap_or_else(IntoResponse::into_response),
        &reported,
    )
}

impl Limits {
    async fn request(
        &self,
        state: &AppState,
        address: CallerAddress,
        mut request: Request,
        next: Next,
        reported: &RateLimitStatus,
    ) -> Result<Response, Problem> {
        let sent = self.identified(state, address, request.headers()).await?;
        self.check_caller(&sent, address, reported)?;
        let (caller, most) = match &sent {
            Ok(identity) => self.permit_of(identity)?,
            Err(_unknown) => (self.unidentified(address)?, self.address_share()),
        };
        // Nothing reads the body of an unidentified request, and the proxy passes bodies on as they arrive.
        if sent.is_ok() && !is_streamed(&request) {
            request = self.receive(&self.requests, request).await?;
        }
        let permit = RequestPermit(Arc::new(Mutex::new(Some(Admission {
            caller,
            most,
            replica: self.enter(&self.requests)?,
            _counted: GaugeGuard::new(&self.metrics.in_flight),
        }))));
        request.extensions_mut().insert(sent);
        request.extensions_mut().insert(reported.clone());
        request.extensions_mut().insert(permit.clone());
        let answer = next.run(request).await;
        match permit.take() {
            Some(permit) => self.send(permit, answer),
            None => Ok(answer),
        }
    }

    /// Identifies the sender of a request by its headers. While this waits for a key fetch or a query, the request
    /// counts towards the limit of its address.
    async fn identified(
        &self,
        state: &AppState,
        address: CallerAddress,
        headers: &HeaderMap,
    ) -> Result<AuthenticationResult, Problem> {
        let mut identifying = pin!(authenticate_request(headers, state));
        if let Some(sent) = poll_immediate(&mut identifying).await {
            return Ok(sent);
        }
        let _slot = self.unidentified(address)?;
        Ok(identifying.await)
    }

    /// Takes a slot of an address.
    fn unidentified(&self, address: CallerAddress) -> Result<Permit, Problem> {
        let key = self.key("address", &address);
        let slot = self.in_progress.acquire(key, self.address_share());
        slot.ok_or_else(|| self.full("callers"))
    }

    /// Serves a webhook. It counts towards its sender's rate limit until the signature is verified.
    async fn webhook(
        &self,
        address: CallerAddress,
        request: Request,
        next: Next,
    ) -> Result<Response, Problem> {
        let key = self.key("webhook", &address);
        let slot = self.in_progress.acquire(key, self.address_share());
        let slot = slot.ok_or_else(|| self.full("callers"))?;
        if let Some(wait) = self.charge(address) {
            // Nango retries after a 5xx response, and drops the webhook after any other error.
            return Err(Problem::overloaded(wait));
        }
        let mut request = self.receive(&self.webhooks, request).await?;
        let _permit = self.enter(&self.webhooks)?;
        let _counted = GaugeGuard::new(&self.metrics.in_flight);
        let unverified = Unverified::new(address, slot);
        request.extensions_mut().insert(unverified);
        Ok(next.run(request).await)
    }

    /// Takes a slot of an identified caller. Returns it with the caller's maximum.
    fn permit_of(&self, identity: &Identity) -> Result<(Permit, u32), Problem> {
        let (key, most) = match identity {
            Identity::User(caller) => (
                self.key("user", &caller.user_id.as_str()),
                self.user_share(),
            ),
            Identity::Service(service) => {
                (self.key("service", &service.name), self.address_share())
            }
        };
        let slot = self.in_progress.acquire(key, most).ok_or_else(|| {
            self.metrics.refused("callers");
            Problem::too_many_in_progress(most)
        })?;
        Ok((slot, most))
    }

    /// Reads the body of a request, and returns the request with it.
    async fn receive(&self, lane: &Lane, request: Request) -> Result<Request, Problem> {
        if request.body().is_end_stream() {
            return Ok(request);
        }
        let arriving = lane.arriving.clone().try_acquire_owned();
        let _arriving = arriving.map_err(|_full| self.full("requests"))?;
        let (parts, body) = request.into_parts();
        let mut reading = Request::new(body);
        DefaultBodyLimit::max(MAX_BODY).apply(&mut reading);
        let bytes = Bytes::from_request(reading, &()).await?;
        Ok(Request::from_parts(parts, Body::from(bytes)))
    }

    fn enter(&self, lane: &Lane) -> Result<OwnedSemaphorePermit, Problem> {
        let permit = lane.in_progress.clone().try_acquire_owned();
        permit.map_err(|_full| self.full("requests"))
    }

    /// Returns the response with the permit in its body, which returns the permit after it has been sent.
    fn send(&self, mut permit: Admission, answer: Response) -> Result<Response, Problem> {
        if answer.body().is_end_stream() {
            return Ok(answer);
        }
        // A caller without other requests may have a response of any length.
        let more = answer.body().size_hint().lower() / BYTES_PER_PERMIT;
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let more = match permit.most {
            0 => 0,
            most => more.min(most - 1),
        };
        if more > 0 {
            if !permit.caller.grow(more, permit.most) {
                self.metrics.refused("callers");
                return Err(Problem::too_much_unread());
            }
            let others = self
                .requests
                .in_progress
                .clone()
                .try_acquire_many_owned(more);
            permit
                .replica
                .merge(others.map_err(|_full| self.full("requests"))?);
        }
        Ok(answer.map(|body| Body::new(SentBody::new(body, permit))))
    }

    fn full(&self, limit: &'static str) -> Problem {
        self.metrics.refused(limit);
        Problem::overloaded(OVERLOAD_RETRY_SECONDS)
    }
}

/// Returns whether a request's body is passed on as it arrives.
fn is_streamed(request: &Request) -> bool {
    let path = request.extensions().get::<MatchedPath>();
    path.is_some_and(|path| path.as_str().contains("/proxy/"))
}
