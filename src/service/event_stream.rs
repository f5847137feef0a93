//! Streams of a user's events.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::interval;
use uuid::Uuid;

use super::Result;
use super::core::Core;
use super::event_notifier::{EventNotifier, Subscription};
use super::polls::{AttemptPolls, MAX_POLLED_ATTEMPTS};
use crate::db;
use crate::db::batch::BatchLoader;
use crate::db::connection_health::{STATEMENT_TIMEOUT, with_timeout};
use crate::domain::{Attempt, Event, EventId, EventKind, UserId};
use crate::telemetry::TRACES;

/// The position of one stream in a user's events.
///
/// The events are read in batches, so a slow reader causes no buffering.
#[derive(Debug)]
pub struct Events {
    user: UserId,
    last: EventId,
    position: i64,
    resumed: bool,
    subscription: Subscription,
    open: Vec<Attempt>,
    /// The number of polls for the open attempts.
    polls: u32,
    /// The notifier's gaps when the last event was known to exist.
    gaps: u64,
}

impl Events {
    /// Returns the id of the last event that was read; nil if there is none.
    pub fn last(&self) -> EventId {
        self.last
    }

    /// Returns whether the events continue after the client's last one. Otherwise the client has to reload its data.
    pub fn resumed(&self) -> bool {
        self.resumed
    }
}

/// Streams users' events. Each stream receives the events of all replicas.
#[derive(Debug)]
pub struct EventStreams {
    core: Arc<Core>,
    polls: Arc<AttemptPolls>,
    notifier: EventNotifier,
    after: BatchLoader<db::EventsAfter>,
    exists: BatchLoader<db::EventExists>,
}

impl EventStreams {
    pub(crate) fn new(core: Arc<Core>, polls: Arc<AttemptPolls>, notifier: EventNotifier) -> Self {
        Self {
            after: BatchLoader::new(&core.database),
            exists: BatchLoader::new(&core.database),
            core,
            polls,
            notifier,
        }
    }

    /// Starts a stream of a user's events after the event `last`, or from now on. The nil id is before the first event.
    ///
    /// If the user has no such event, it was pruned, the user was erased, or a backup was restored. The stream then
    /// starts at the present, and the client must reload its data.
    #[tracing::instrument(target = TRACES, name = "follow_events", skip_all)]
    pub async fn follow(&self, user: &UserId, last: Option<EventId>) -> Result<Events> {
        // Subscribed before the first query, so that no event is missed in between.
        let subscription = self.notifier.subscribe(user);
        let gaps = self.notifier.gaps();
        let mut tx = self.core.begin().await?;
        let newest = db::last_event(&mut tx, user, last).await?;
        let open = db::open_attempts_of(&mut tx, user, MAX_POLLED_ATTEMPTS).await?;
        tx.commit().await?;
        let resumed_at = match last {
            // The nil id resumes before the first event.
            Some(last) if last.0.is_nil() => Some((last, 0)),
            last => last.zip(newest.asked),
        };
        let present = newest.id.zip(newest.position);
        let (last, position) = resumed_at.or(present).unwrap_or((EventId(Uuid::nil()), 0));
        Ok(Events {
            user: user.clone(),
            last,
            position,
            resumed: resumed_at.is_some(),
            subscription,
            open,
            polls: 0,
            gaps,
        })
    }

    /// Waits until there is at least one new event, and returns the new events. Meanwhile, polls Nango for the user's
    /// open attempts. Returns `None` if the last event no longer exists, as after a restore of the database: the client
    /// must reload its data.
    pub async fn next(&self, events: &mut Events) -> Result<Option<Vec<Event>>> {
        loop {
            if !Box::pin(self.can_continue(events)).await? {
                return Ok(None);
            }
            // Boxed, because a waiting stream would otherwise reserve memory for this future all the time.
            let new_events = Box::pin(self.read_new_events(events)).await?;
            if !new_events.is_empty() {
                return Ok(Some(new_events));
            }
            loop {
                tokio::select! {
                    () = events.subscription.changed() => break,
                    () = self.polls.pause(&events.open, events.polls) => {
                        events.polls += 1;
                        // A wake-up does not cancel the poll, because the poll itself may have caused it.
                        if Box::pin(self.polls.poll_all(&events.open)).await {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Returns whether the stream's last event still exists. Queries the database only if events may have been missed.
    async fn can_continue(&self, events: &mut Events) -> Result<bool> {
        let gaps = self.notifier.gaps();
        // Events after the nil id are all events.
        if gaps != events.gaps && !events.last.0.is_nil() {
            let last = db::EventExists(events.user.clone(), events.last);
            if !self.exists.load(last).await? {
                return Ok(false);
            }
        }
        events.gaps = gaps;
        Ok(true)
    }

    /// Reads the events after the last one that was read. After a new attempt or while one is open, reads the open
    /// attempts again.
    async fn read_new_events(&self, events: &mut Events) -> Result<Vec<Event>> {
        let after = db::EventsAfter(events.user.clone(), events.position);
        let new_events = self.after.load(after).await?.events();
        if let Some(last) = new_events.last() {
            let started = |event: &Event| event.kind == EventKind::AttemptStarted;
            if !events.open.is_empty() || new_events.iter().any(started) {
                // The database connection may be dead. The new events are returned in any case.
                match with_timeout(STATEMENT_TIMEOUT, self.open_attempts_of(&events.user)).await {
                    Ok(open) => (events.open, events.polls) = (open, 0),
                    Err(error) => {
                        tracing::warn!(
                            %error,
                            "could not read the open attempts, an event stream polls the previous ones"
                        );
                    }
                }
            }
            (events.last, events.position) = (last.id, last.position);
        }
        Ok(new_events)
    }

    async fn open_attempts_of(&self, user: &UserId) -> sqlx::Result<Vec<Attempt>> {
        db::open_attempts_of(&self.core.database, user, MAX_POLLED_ATTEMPTS).await
    }

    /// Wakes subscribers on the database's notifications, until an error. Behind a transaction pooler, which does not
    /// pass notifications on, polls the database instead.
    ///
    /// # Errors
    /// If listening or a query fails. The caller restarts this function.
    pub async fn follow_changes(&self) -> Result<()> {
        /// The interval of polls behind a transaction pooler.
        const POLL_INTERVAL: Duration = Duration::from_millis(500);

        if let Some(mut listener) = self.core.database.listen(db::EVENT_CHANNEL).await? {
            // Events may have been written before the listener started.
            self.notifier.wake_all();
            loop {
                match listener.next().await? {
                    Some(notification) => self.notifier.wake(notification.payload()),
                    None => self.notifier.wake_all(),
                }
            }
        }
        self.notifier.wake_all();
        // The position of each user's last event, as of the last poll.
        let mut last_positions: HashMap<String, i64> = HashMap::new();
        let mut polls = interval(POLL_INTERVAL);
        loop {
            polls.tick().await;
            let users = self.notifier.users();
            let positions: Vec<(String, i64)> = users
                .into_iter()
                .map(|user| {
                    let position = last_positions.get(&user).copied();
                    if position.is_none() {
                        // Events may have been written before the user's first poll.
                        self.notifier.wake(&user);
                    }
                    (user, position.unwrap_or_default())
                })
                .collect();
            let new_events = if positions.is_empty() {
                Vec::new()
            } else {
                with_timeout(STATEMENT_TIMEOUT, self.last_events(&positions)).await?
            };
            for (user, _) in &new_events {
                self.notifier.wake(user);
            }
            last_positions = positions.into_iter().chain(new_events).collect();
        }
    }

    async fn last_events(&self, positions: &[(String, i64)]) -> sqlx::Result<Vec<(String, i64)>> {
        db::last_events(&self.core.database, positions).await
    }
}
