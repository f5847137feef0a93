//! Polls Nango about an attempt while a client waits for it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use moka::future::Cache;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use super::{ConnectionSummary, Error, ListConnections, Nango, Priority};
use crate::domain::AttemptId;

/// The tag with the id of the attempt that created or reauthorized a Nango connection.
pub const ATTEMPT_TAG: &str = "patchbay_attempt";
/// The tag with the id of our connection.
pub const CONNECTION_TAG: &str = "patchbay_connection";
/// The tag with the id of the user, by Nango's own convention.
pub const USER_TAG: &str = "end_user_id";

/// The tag with the id of the Patchbay installation that requested a Nango connection.
pub const INSTALLATION_TAG: &str = "patchbay_installation";

/// The tag with the instance of our connection; absent for the first instance.
pub const INSTANCE_TAG: &str = "patchbay_instance";

/// The tag with the connector of our connection.
pub const CONNECTOR_TAG: &str = "patchbay_connector";

/// The minimum time between two polls of one attempt, and the maximum number of cached results.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const MAX_CACHED_POLLS: u64 = 10_000;

/// The rate limit of polls that query a single attempt, and its burst.
const EXACT_POLLS_PER_SECOND: NonZeroU32 = NonZeroU32::new(1).expect("1 is not 0");
const EXACT_POLL_BURST: NonZeroU32 = NonZeroU32::new(3).expect("3 is not 0");

/// The rate limit of polls without the cache, and its burst. Together with the other polls, they leave a quarter of
/// Nango's rate limit.
const UNCACHED_POLL_INTERVAL: Duration = Duration::from_secs(2);
const UNCACHED_POLL_BURST: NonZeroU32 = NonZeroU32::new(10).expect("10 is not 0");

/// The number of webhooks of one attempt that cause calls in a minute. Nango sends few; more are replays.
const WEBHOOKS_PER_MINUTE: u32 = 10;

/// The time in which the webhooks of an attempt are counted, and its polls without the cache.
const COUNTING_WINDOW: Duration = Duration::from_secs(60);

/// The minimum time between two lists that confirm the grants of several webhooks, and the same while little of Nango's
/// rate limit is left.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(1);
const SLOW_CONFIRM_INTERVAL: Duration = Duration::from_secs(3);

/// The number of connections in a shared poll.
const NEWEST_PAGE_SIZE: u32 = 200;

type ListResult = Result<Vec<ConnectionSummary>, Error>;

/// The result of a poll.
#[derive(Clone, Debug)]
pub struct PollResult {
    /// The connections at Nango with the attempt's tag: none, one, or several if it was granted again.
    pub connections: Vec<ConnectionSummary>,
    /// `true` if the list is complete. A shared poll lists only the newest connections, and a reauthorized connection
    /// keeps its old creation time.
    pub is_complete: bool,
}

impl PollResult {
    fn complete(found: Vec<ConnectionSummary>) -> Self {
        Self {
            connections: found,
            is_complete: true,
        }
    }
}

/// Polls attempts at Nango: at most once a second each, with one call for all waiting clients.
///
/// Few attempts are queried by their tags. Many share one list of the newest connections, so that high concurrency
/// takes no more of Nango's rate limit than two calls a second.
#[derive(Debug)]
pub struct AttemptPoller {
    nango: Nango,
    answers: Cache<AttemptId, Arc<ListResult>>,
    newest: Cache<(), Arc<ListResult>>,
    exact: DefaultDirectRateLimiter,
    now: DefaultDirectRateLimiter,
    confirmations: DefaultDirectRateLimiter,
    /// The last list that confirmed grants, and when it was requested.
    confirmed: Mutex<Option<(Instant, Arc<ListResult>)>>,
    webhooks: Counts,
    uncached: Counts,
}

/// The numbers of events of attempts, each counted from its first event on.
type Counts = Cache<AttemptId, Arc<AtomicU32>>;

impl AttemptPoller {
    /// Creates a poller for this Nango.
    pub fn new(nango: Nango) -> Self {
        let answers = Cache::builder()
            .max_capacity(MAX_CACHED_POLLS)
            .time_to_live(POLL_INTERVAL)
            .build();
        let exact = Quota::per_second(EXACT_POLLS_PER_SECOND).allow_burst(EXACT_POLL_BURST);
        let now = Quota::with_period(UNCACHED_POLL_INTERVAL).expect("two seconds are not 0");
        let now = RateLimiter::direct(now.allow_burst(UNCACHED_POLL_BURST));
        Self {
            nango,
            answers,
            newest: Cache::builder()
                .max_capacity(1)
                .time_to_live(POLL_INTERVAL)
                .build(),
            exact: RateLimiter::direct(exact),
            now,
            confirmations: RateLimiter::direct(exact),
            confirmed: Mutex::default(),
            webhooks: counts(),
            uncached: counts(),
        }
    }

    /// Counts a webhook of an attempt. Returns `false` if there were too many in the last minute.
    pub async fn counts_webhook(&self, attempt: AttemptId) -> bool {
        count(&self.webhooks, attempt).await < WEBHOOKS_PER_MINUTE
    }

    /// Counts a poll without the cache. Returns the number of earlier ones of the same attempt in the last minute.
    pub async fn count_uncached(&self, attempt: AttemptId) -> u32 {
        count(&self.uncached, attempt).await
    }

    /// Polls an attempt; the result may be up to a second old.
    ///
    /// # Errors
    /// As the call to Nango; the error, too, is cached for the second.
    pub async fn poll(&self, attempt: AttemptId) -> Result<PollResult, Error> {
        if self.answers.get(&attempt).await.is_none() && self.exact.check().is_err() {
            return self.poll_shared(attempt).await;
        }
        let ask = async { Arc::new(self.fetch_by_tag(attempt).await) };
        let answer = (*self.answers.get_with(attempt, ask).await).clone();
        answer.map(PollResult::complete)
    }

    /// Polls an attempt without the cache, for when the cached result is known to be stale. Any client can request
    /// this, so it is rate limited: above the limit, it returns the cached result.
    ///
    /// # Errors
    /// As the call to Nango.
    pub async fn poll_uncached(&self, attempt: AttemptId) -> Result<PollResult, Error> {
        match self.now.check() {
            Ok(()) => self.fetch_attempt(attempt).await.map(PollResult::complete),
            Err(_too_often) => self.poll(attempt).await,
        }
    }

    /// Returns all connections that Nango stores with this attempt's tag now, without a rate limit: for when Nango
    /// itself has reported a change, or the result is final.
    ///
    /// # Errors
    /// As the call to Nango.
    pub async fn fetch_attempt(&self, attempt: AttemptId) -> ListResult {
        let answer = self.fetch_by_tag(attempt).await;
        self.answers.insert(attempt, Arc::new(answer.clone())).await;
        answer
    }

    /// Returns the connections at Nango with this id and integration, which a webhook reported. If many new ones are
    /// reported and Nango's rate limit is used as fast as it refills, they share one list of the newest connections,
    /// requested after the last report.
    ///
    /// # Errors
    /// As the call to Nango.
    pub async fn confirm(&self, id: &str, integration: &str, is_new: bool) -> ListResult {
        let is_exact = self.nango.has_room(Priority::Sweep)
            || (self.nango.has_room(Priority::Poll) && self.confirmations.check().is_ok());
        if is_new && !is_exact {
            let newest = self.fetch_newest_from_now_on().await;
            let newest = newest.as_ref().as_ref().map_err(Clone::clone)?;
            let is_meant = |summary: &&ConnectionSummary| {
                summary.connection_id == id && summary.provider_config_key == integration
            };
            let found: Vec<_> = newest.iter().filter(is_meant).cloned().collect();
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let filter = ListConnections {
            integration: Some(integration.to_owned()),
            ..ListConnections::of_id(id)
        };
        self.nango.connections(&filter).await
    }

    /// Returns a list of the newest connections that was requested after this call. Concurrent callers share it.
    async fn fetch_newest_from_now_on(&self) -> Arc<ListResult> {
        let asked = Instant::now();
        let mut last = self.confirmed.lock().await;
        if let Some((requested, list)) = &*last {
            if *requested >= asked {
                return list.clone();
            }
            let pause = if self.nango.has_room(Priority::Poll) {
                CONFIRM_INTERVAL
            } else {
                SLOW_CONFIRM_INTERVAL
            };
            sleep_until(*requested + pause).await;
        }
        let requested = Instant::now();
        let list = Arc::new(self.fetch_newest().await);
        *last = Some((requested, list.clone()));
        list
    }

    /// Not cached again, because the shared list is up to a second old already.
    async fn poll_shared(&self, attempt: AttemptId) -> Result<PollResult, Error> {
        let newest = self
            .newest
            .get_with((), Box::pin(async { Arc::new(self.fetch_newest().await) }))
            .await;
        let id = attempt.to_string();
        let of_attempt = |summary: &&ConnectionSummary| summary.tags.get(ATTEMPT_TAG) == Some(&id);
        match &*newest {
            Ok(all) => Ok(PollResult {
                connections: all.iter().filter(of_attempt).cloned().collect(),
                // A page may be shorter than requested without being the last.
                is_complete: all.is_empty(),
            }),
            Err(error) => Err(error.clone()),
        }
    }

    async fn fetch_newest(&self) -> ListResult {
        self.nango
            .connections(&ListConnections {
                limit: Some(NEWEST_PAGE_SIZE),
                ..ListConnections::default()
            })
            .await
    }

    async fn fetch_by_tag(&self, attempt: AttemptId) -> ListResult {
        let filter = ListConnections::tagged([(ATTEMPT_TAG, attempt.to_string())]);
        self.nango.connections(&filter).await
    }
}

fn counts() -> Counts {
    Cache::builder()
        .max_capacity(MAX_CACHED_POLLS)
        .time_to_live(COUNTING_WINDOW)
        .build()
}

/// Adds an event. Returns the number of earlier ones.
async fn count(counts: &Counts, attempt: AttemptId) -> u32 {
    let count = counts.get_with(attempt, async { Arc::default() });
    count.await.fetch_add(1, Ordering::Relaxed)
}
