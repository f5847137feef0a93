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

/// A user's events from some point on, as they happen.
///
/// It holds no more than one batch, however slow its reader is.
#[derive(Debug)]
pub struct Events {
    user: UserId,
    last: EventId,
    position: i64,
    resumed: bool,
    subscription: Subscription,
    open: Vec<Attempt>,
    /// How often Nango was polled for the open attempts.
    polls: u32,
}

impl Events {
    /// The id of the last event that was read; nil if there is none.
    #[must_use]
    pub fn last(&self) -> EventId {
        self.last
    }

    /// Returns whether the events continue after the client's last one. Otherwise the client has to reload its data.
    #[must_use]
    pub fn resumed(&self) -> bool {
        self.resumed
    }
}

/// Streams users' events, on every replica.
#[derive(Debug)]
pub struct EventStreams {
    core: Arc<Core>,
    polls: Arc<AttemptPolls>,
    feed: EventNotifier,
    after: BatchLoader<db::EventsAfter>,
}

impl EventStreams {
    pub(crate) fn new(core: Arc<Core>, polls: Arc<AttemptPolls>, feed: EventNotifier) -> Self {
        let after = BatchLoader::new(&core.database);
        Self {
            core,
            polls,
            feed,
            after,
        }
    }

    /// Follows a user's events: after the event `last`, or from now on. The nil id stands before the first event.
    ///
    /// If the user has no such event, it was pruned, the user was erased, or a backup was restored: the events then
    /// start at the present, and the client has to reload its data.
    ///
    /// # Errors
    /// As the database.
    #[tracing::instrument(target = TRACES, name = "follow_events", skip_all)]
    pub async fn follow(&self, user: &UserId, last: Option<EventId>) -> Result<Events> {
        // Subscribed before the first look, so that nothing happens between.
        let subscription = self.feed.subscribe(user);
        let mut tx = self.core.begin().await?;
        let newest = db::last_event(&mut tx, user, last).await?;
        let open = db::open_attempts_of(&mut tx, user, MAX_POLLED_ATTEMPTS).await?;
        tx.commit().await?;
        // Before the first event, nothing has been read.
        let poll = match last {
            Some(last) if last.0.is_nil() => Some((last, 0)),
            last => last.zip(newest.asked),
        };
        let present = newest.id.zip(newest.position);
        let (last, position) = poll.or(present).unwrap_or((EventId(Uuid::nil()), 0));
        Ok(Events {
            user: user.clone(),
            last,
            position,
            resumed: poll.is_some(),
            subscription,
            open,
            polls: 0,
        })
    }

    /// The next events: waits until there is one at least. Meanwhile Nango is polled for the user's open attempts.
    ///
    /// # Errors
    /// As the database.
    pub async fn next(&self, events: &mut Events) -> Result<Vec<Event>> {
        loop {
            // Apart from what waits, which would otherwise have room for it all the time.
            let new_events = Box::pin(self.read_new_events(events)).await?;
            if !new_events.is_empty() {
                return Ok(new_events);
            }
            loop {
                tokio::select! {
                    () = events.subscription.changed() => break,
                    () = self.polls.pause(&events.open, events.polls) => {
                        events.polls += 1;
                        // To its end, whatever is hinted meanwhile: it may be what is hinted at.
                        if Box::pin(self.polls.poll_all(&events.open)).await {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// What has happened since the last event that was read.
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
                        tracing::warn!(%error, "an event stream goes on looking for the attempts that were open");
                    }
                }
            }
            (events.last, events.position) = (last.id, last.position);
        }
        Ok(new_events)
    }

    async fn open_attempts_of(&self, user: &UserId) -> sqlx::Result<Vec<Attempt>> {
        let mut tx = self.core.database.begin_single().await?;
        let open = db::open_attempts_of(&mut tx, user, MAX_POLLED_ATTEMPTS).await?;
        tx.commit().await?;
        Ok(open)
    }

    /// Passes on what the database announces, for as long as it can; without announcements, asks for changes.
    ///
    /// # Errors
    /// When the database cannot be listened to or asked: the caller begins again.
    pub async fn follow_changes(&self) -> Result<()> {
        /// How often changes are asked for where the pooler passes no announcements on.
        const POLL: Duration = Duration::from_millis(500);

        if let Some(mut listener) = self.core.database.listen(db::EVENT_CHANNEL).await? {
            // What happened before it listened was not heard.
            self.feed.wake_all();
            loop {
                match listener.next().await? {
                    Some(notification) => self.feed.wake(notification.payload()),
                    None => self.feed.wake_all(),
                }
            }
        }
        // Where each user's events were seen to end.
        let mut seen: HashMap<String, i64> = HashMap::new();
        let mut polls = interval(POLL);
        loop {
            polls.tick().await;
            let users = self.feed.users();
            let known: Vec<(String, i64)> = users
                .into_iter()
                .map(|user| {
                    let position = seen.get(&user).copied();
                    if position.is_none() {
                        // What happened before it was asked about is not known.
                        self.feed.wake(&user);
                    }
                    (user, position.unwrap_or_default())
                })
                .collect();
            let new_events = if known.is_empty() {
                Vec::new()
            } else {
                with_timeout(STATEMENT_TIMEOUT, self.last_events(&known)).await?
            };
            for (user, _) in &new_events {
                self.feed.wake(user);
            }
            seen = known.into_iter().chain(new_events).collect();
        }
    }

    async fn last_events(&self, known: &[(String, i64)]) -> sqlx::Result<Vec<(String, i64)>> {
        let mut tx = self.core.database.begin_single().await?;
        let last = db::last_events(&mut tx, known).await?;
        tx.commit().await?;
        Ok(last)
    }
}
