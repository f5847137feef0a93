//! The end of a schedule: background work completes, and the invariants hold.

use chrono::TimeDelta;
use patchbay::domain::{Actor, State, UserId};
use patchbay::service::{DisconnectTarget, Query};
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use super::run::{Expected, Run, UNPACED, USERS, user};
use crate::invariants;

/// The number of rounds in which a service without faults must settle.
const ROUNDS: usize = 12;

impl Run<'_> {
    /// Runs the background jobs until nothing changes. Returns the violations.
    pub(super) async fn settle(&self) -> Vec<String> {
        let service = self.service();
        let sql = &mut self.environment.sql().await;
        for _ in 0..ROUNDS {
            let before = changes(sql).await;
            self.environment.advance(TimeDelta::minutes(31));
            self.environment.retry_failed_refreshes().await;
            let waiting = deletions(sql).await;
            service.deletions.delete_due().await.unwrap();
            let left = deletions(sql).await;
            let deleted = usize::from(left != waiting);
            let expired = service.expiry.run().await.unwrap();
            let mut found = 0;
            // What Nango has lost is missing after some minutes.
            for _ in 0..6 {
                let stop = CancellationToken::new();
                let report = service.sweeper.sweep(UNPACED, &stop).await;
                let report = report.unwrap().expect("no other sweep is in progress");
                found += report.found + report.missing + report.checked;
                self.environment.advance(TimeDelta::minutes(1));
            }
            // A grant that the last poll of an expired attempt has found is a change, too, as is a deletion that a sweep
            // has queued.
            let is_at_rest = changes(sql).await == before && deletions(sql).await == left;
            if deleted + expired + found == 0 && is_at_rest {
                return self.violations().await;
            }
        }
        vec!["the service does not come to rest".to_owned()]
    }

    async fn violations(&self) -> Vec<String> {
        let (sql, deleted) = (
            &mut self.environment.sql().await,
            self.deleted.borrow().clone(),
        );
        let mut failures = self.surprises.take();
        failures.extend(invariants::violations(sql, &self.environment.nango, &deleted).await);
        let slots = *self.slots.borrow();
        for (number, slot) in slots.iter().enumerate() {
            let Some(id) = slot.id else {
                continue;
            };
            let details = self
                .service()
                .connections
                .get(&user(number), id)
                .await
                .unwrap();
            let connection = details.connection;
            let as_expected = match (slot.expected, &connection.state) {
                (Expected::Anything, _)
                | (Expected::Connected, State::Connected { .. })
                | (Expected::Disconnected, State::Disconnected { .. }) => true,
                // The user has to decide.
                (Expected::Connected, _) => connection.pending_account.is_some(),
                _ => false,
            };
            if !as_expected {
                let expected = match slot.expected {
                    Expected::Connected => "granted, and not revoked since",
                    _ => "disconnected, and not connected since",
                };
                let state = connection.state;
                failures.push(format!("slot {number} was {expected}: it is {state:?}"));
            }
        }
        failures
    }

    /// Disconnects every connection. Returns an error if anything is left at Nango.
    pub(super) async fn assert_ended(&self) -> Vec<String> {
        let mut everything = Query {
            connector: None,
            status: None,
            limit: Some(100),
            after: None,
        };
        let service = self.service();
        for name in USERS {
            let user = UserId::try_from(name.to_owned()).unwrap();
            everything.after = None;
            let page = service.connections.list(&user, &everything).await.unwrap();
            for details in page.connections {
                let target = DisconnectTarget::Connection(details.connection.id);
                let slug = &details.connection.connector.slug;
                let ended = service
                    .disconnect
                    .disconnect(&user, slug, &target, Actor::User)
                    .await
                    .unwrap();
                assert!(ended.confirmed, "Nango had no fault");
            }
        }
        let left = self
            .environment
            .nango
            .connections(&Default::default())
            .await
            .unwrap();
        left.iter()
            .map(|one| format!("{} is left at Nango after the end", one.connection_id))
            .collect()
    }
}

/// Returns the number of pending deletions at Nango, without replaced grants that wait until the new one works.
async fn deletions(sql: &mut PgConnection) -> i64 {
    sqlx::query_scalar("select count(*) from upstream_deletion")
        .fetch_one(sql)
        .await
        .unwrap()
}

/// Returns the number of changes.
async fn changes(sql: &mut PgConnection) -> i64 {
    sqlx::query_scalar("select count(*) from connection_event")
        .fetch_one(sql)
        .await
        .unwrap()
}
