//! A run of one schedule: its steps, its users' expectations, and its final state.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use patchbay::domain::{Account as Known, Actor, Brake, State, Status};
use patchbay::domain::{ConnectionId, UserId};
use patchbay::service::{ConnectRequest, DisconnectTarget, Error, Services, SweepSchedule, Update};
use patchbay::views::ConnectAnswer;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::environment::{Environment, Mail};
use super::step::{Account, Fault, SLOTS, Step};

pub(super) const USERS: [&str; 2] = ["ada", "bob"];
const CONNECTORS: [&str; 2] = ["gmail", "github"];
const INSTANCES: [&str; 2] = ["", "second"];

/// No delay between sweeps or between their calls.
pub(super) const UNPACED: SweepSchedule = SweepSchedule {
    every: Duration::ZERO,
    pause: Duration::ZERO,
};

/// One schedule in its environment.
pub(super) struct Run<'a> {
    pub(super) environment: &'a Environment,
    pub(super) service: RefCell<Arc<Services>>,
    fault: Cell<Fault>,
    pub(super) slots: RefCell<[Slot; SLOTS]>,
    urls: RefCell<Vec<Address>>,
    /// Webhooks that have not arrived, in the order of sending.
    mail: RefCell<Vec<Mail>>,
    old_mail: RefCell<Vec<Mail>>,
    pub(super) deleted: RefCell<HashSet<String>>,
    /// Unexpected results of steps.
    pub(super) surprises: RefCell<Vec<String>>,
}

/// A connection that a user may have.
#[derive(Clone, Copy, Default)]
pub(super) struct Slot {
    pub(super) id: Option<ConnectionId>,
    pub(super) expected: Expected,
    /// Incremented by each disconnect, which invalidates earlier addresses.
    age: usize,
}

/// The state of a connection that its user may expect.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Expected {
    #[default]
    Anything,
    /// The user granted access, which was not revoked since.
    Connected,
    /// The user got a confirmed disconnect and did not connect since.
    Disconnected,
}

#[derive(Clone)]
struct Address {
    url: String,
    slot: usize,
    age: usize,
}

impl<'a> Run<'a> {
    pub(super) async fn new(environment: &'a Environment) -> Self {
        let run = Self {
            environment,
            service: RefCell::new(environment.replica().await.into()),
            fault: Cell::new(Fault::None),
            slots: RefCell::default(),
            urls: RefCell::default(),
            mail: RefCell::default(),
            old_mail: RefCell::default(),
            deleted: RefCell::default(),
            surprises: RefCell::default(),
        };
        run.play(Fault::None, true).await;
        run
    }

    /// Runs the schedule. Returns the violations after everything has settled.
    pub(super) async fn follow(&self, schedule: &[Step]) -> Vec<String> {
        for step in schedule {
            match step {
                Step::Both(one, other) => {
                    self.mark_changed(one);
                    self.mark_changed(other);
                    tokio::join!(self.perform(one), self.perform(other));
                    // The order of the two steps is unknown.
                    self.mark_changed(one);
                    self.mark_changed(other);
                }
                step => self.perform(step).await,
            }
            self.environment.advance(TimeDelta::seconds(1));
        }
        self.play(Fault::None, true).await;
        *self.service.borrow_mut() = self.environment.replica_with_long_timeout().await.into();
        let mut violations = self.settle().await;
        if violations.is_empty() {
            // Late and repeated webhooks change nothing any more.
            self.collect();
            let mail = [self.mail.take(), self.old_mail.take()].concat();
            for mail in mail.into_iter().rev() {
                self.deliver_mail(&mail).await;
            }
            violations = self.settle().await;
        }
        if violations.is_empty() {
            violations = self.assert_ended().await;
        }
        violations
    }

    fn fail(&self, what: String) {
        self.surprises.borrow_mut().push(what);
    }

    pub(super) fn service(&self) -> Arc<Services> {
        self.service.borrow().clone()
    }

    async fn perform(&self, step: &Step) {
        match step {
            Step::Connect { slot, account } => self.connect(*slot, *account).await,
            Step::Reconnect { slot, account } => self.reconnect(*slot, *account).await,
            Step::Grant { url } => self.popup(*url, true).await,
            Step::Deny { url } => self.popup(*url, false).await,
            Step::Disconnect { slot } => self.disconnect(*slot).await,
            Step::Deliver { webhook } => self.deliver(*webhook).await,
            Step::Replay { webhook } => self.replay(*webhook).await,
            Step::Lose { webhook } => {
                if let Some(mail) = self.next_mail(*webhook) {
                    self.old_mail.borrow_mut().push(mail);
                }
            }
            Step::Sweep | Step::Expire | Step::Delete => self.work(step).await,
            Step::Pass { minutes } => self
                .environment
                .advance(TimeDelta::minutes((*minutes).into())),
            Step::Fault(fault) => {
                self.fault.set(*fault);
                self.play(*fault, true).await;
            }
            Step::Restart => {
                let replica = self.environment.replica().await;
                *self.service.borrow_mut() = replica.into();
            }
            Step::DeleteAtNango { slot } => self.delete_at_nango(*slot).await,
            Step::Revoke { slot } => self.revoke(*slot).await,
            Step::Look { slot }
            | Step::Check { slot }
            | Step::Rename { slot, .. }
            | Step::Accept { slot } => self.ask(*slot, step).await,
            Step::Both(..) => unreachable!("two at the same time are never four"),
        }
    }

    /// Marks the slots that a step concerns as having no expected state.
    fn mark_changed(&self, step: &Step) {
        let slot = match step {
            Step::Grant { url } | Step::Deny { url } => self.address(*url).map(|url| url.slot),
            Step::Connect { slot, .. }
            | Step::Reconnect { slot, .. }
            | Step::Disconnect { slot }
            | Step::DeleteAtNango { slot }
            | Step::Revoke { slot } => Some(*slot),
            _ => None,
        };
        if let Some(slot) = slot {
            let mut slots = self.slots.borrow_mut();
            slots[slot].expected = Expected::Anything;
            slots[slot].age += 1;
        }
    }

    async fn connect(&self, slot: usize, account: Account) {
        let request = ConnectRequest {
            instance_id: INSTANCES[slot / 4].to_owned(),
            ..request(account)
        };
        self.assert_not_ended(slot);
        let age = self.slots.borrow()[slot].age;
        let started = self
            .service()
            .connect
            .connect(&user(slot), connector(slot), &request)
            .await;
        self.attempt_started(slot, age, started);
    }

    async fn reconnect(&self, slot: usize, account: Account) {
        let Some(id) = self.slots.borrow()[slot].id else {
            return;
        };
        self.assert_not_ended(slot);
        let age = self.slots.borrow()[slot].age;
        let started = self
            .service()
            .connect
            .reconnect(&user(slot), id, &request(account))
            .await;
        self.attempt_started(slot, age, started);
    }

    fn assert_not_ended(&self, slot: usize) {
        let slot = &mut self.slots.borrow_mut()[slot];
        if slot.expected == Expected::Disconnected {
            slot.expected = Expected::Anything;
        }
    }

    fn attempt_started(&self, slot: usize, age: usize, started: Result<ConnectAnswer, Error>) {
        match started {
            Ok(answer) => match answer.oauth_url {
                Some(url) => {
                    self.slots.borrow_mut()[slot].id = Some(answer.connection_id);
                    self.urls.borrow_mut().push(Address { url, slot, age });
                }
                None if answer.status == Status::Connected => {}
                None => self.fail(format!("already connected: {:?}", answer.status)),
            },
            Err(Error::Nango(_)) => {}
            Err(error) => self.fail(format!("could not begin: {error}")),
        }
    }

    /// Returns an address that a user was given, counted from the newest.
    fn address(&self, back: usize) -> Option<Address> {
        let urls = self.urls.borrow();
        let back = back.checked_rem(urls.len())?;
        urls.iter().rev().nth(back).cloned()
    }

    async fn popup(&self, url: usize, consent: bool) {
        let Some(address) = self.address(url) else {
            return;
        };
        let sent = self.environment.mailbox.lock().unwrap().len();
        self.play(self.fault.get(), consent).await;
        let granted = self.environment.popup(&address.url).await;
        self.granted(&address, granted);
        // Its webhook has not arrived yet.
        for _ in 0..20 {
            if self.environment.mailbox.lock().unwrap().len() > sent {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn granted(&self, address: &Address, granted: bool) {
        let slot = &mut self.slots.borrow_mut()[address.slot];
        if granted && slot.age == address.age {
            slot.expected = Expected::Connected;
        }
    }

    async fn disconnect(&self, slot: usize) {
        let target = DisconnectTarget::Instance(INSTANCES[slot / 4].to_owned());
        let ended = self
            .service()
            .disconnect
            .disconnect(&user(slot), connector(slot), &target, Actor::User)
            .await;
        match ended {
            Ok(ended) => {
                if !matches!(ended.connection.state, State::Disconnected { .. }) {
                    self.fail(format!("disconnected: {:?}", ended.connection.state));
                }
                let slot = &mut self.slots.borrow_mut()[slot];
                slot.expected = Expected::Disconnected;
                slot.age += 1;
            }
            Err(Error::ConnectionNotFound) => {}
            Err(error) => self.fail(format!("could not disconnect: {error}")),
        }
    }

    /// Moves the webhooks that the sandbox has sent to those in transit.
    fn collect(&self) {
        let sent = std::mem::take(&mut *self.environment.mailbox.lock().unwrap());
        self.mail.borrow_mut().extend(sent);
    }

    fn next_mail(&self, webhook: usize) -> Option<Mail> {
        self.collect();
        let mut mail = self.mail.borrow_mut();
        let at = webhook.checked_rem(mail.len())?;
        Some(mail.remove(at))
    }

    async fn deliver(&self, webhook: usize) {
        if let Some(mail) = self.next_mail(webhook) {
            self.deliver_mail(&mail).await;
            self.old_mail.borrow_mut().push(mail);
        }
    }

    async fn replay(&self, webhook: usize) {
        let mail = {
            let old = self.old_mail.borrow();
            webhook.checked_rem(old.len()).map(|at| old[at].clone())
        };
        if let Some(mail) = mail {
            self.deliver_mail(&mail).await;
        }
    }

    async fn deliver_mail(&self, mail: &Mail) {
        match self
            .service()
            .nango_webhooks
            .handle(mail.attempt, &mail.event)
            .await
        {
            // A webhook that Nango does not confirm is rejected, and may be retried.
            Ok(_) | Err(Error::Nango(_)) => {}
            Err(error) => self.fail(format!("a webhook broke the service: {error}")),
        }
    }

    async fn work(&self, step: &Step) {
        let service = self.service();
        let done = match step {
            Step::Sweep => service
                .sweeper
                .sweep(UNPACED, &CancellationToken::new())
                .await
                .map(drop),
            Step::Expire => service.expiry.run().await.map(drop),
            _ => service.deletions.delete_due().await.map(drop),
        };
        match done {
            Ok(()) | Err(Error::Nango(_)) => {}
            Err(error) => self.fail(format!("{step:?} broke: {error}")),
        }
    }

    async fn ask(&self, slot: usize, step: &Step) {
        let Some(id) = self.slots.borrow()[slot].id else {
            return;
        };
        let (service, user) = (self.service(), user(slot));
        let answer = match step {
            Step::Check { .. } => service
                .connections
                .check(&user, id)
                .await
                .map(|(view, _)| view),
            Step::Accept { .. } => match self.pending_account(&user, id).await {
                Some(found) => {
                    service
                        .connections
                        .accept_account(&user, id, &found.id, Actor::User)
                        .await
                }
                None => return,
            },
            Step::Rename { name, .. } => {
                let label = Some((*name > 0).then(|| format!("number {name}")));
                let update = Update {
                    label,
                    config: None,
                };
                service
                    .connections
                    .update(&user, id, &update, Actor::User)
                    .await
            }
            _ => service.connections.get(&user, id).await,
        };
        match answer {
            Ok(_) | Err(Error::Nango(_) | Error::Invalid(_)) => {}
            Err(error) => self.fail(format!("{step:?} broke: {error}")),
        }
    }

    async fn pending_account(&self, user: &UserId, id: ConnectionId) -> Option<Known> {
        let details = self.service().connections.get(user, id).await.unwrap();
        details.connection.pending_account
    }

    /// Returns Nango's id of a slot's connection.
    async fn upstream(&self, slot: usize) -> Option<String> {
        let id = self.slots.borrow()[slot].id?;
        let mut sql = self.environment.sql().await;
        sqlx::query_scalar(
            "select nango_connection_id from user_connector_connection where id = $1",
        )
        .bind(id)
        .fetch_one(&mut sql)
        .await
        .unwrap()
    }

    async fn delete_at_nango(&self, slot: usize) {
        if let Some(nango_id) = self.upstream(slot).await {
            self.play(Fault::None, true).await;
            self.environment
                .delete_at_nango(&nango_id, connector(slot))
                .await;
            // The operator who deletes it releases the brake, because the environment is right even if it is empty now.
            let service = self.service();
            service.core.brakes.release(Brake::Nango).await.unwrap();
            self.play(self.fault.get(), true).await;
            self.deleted.borrow_mut().insert(nango_id);
            self.is_revoked(slot);
        }
    }

    async fn revoke(&self, slot: usize) {
        if let Some(nango_id) = self.upstream(slot).await {
            self.play(Fault::None, true).await;
            self.environment.revoke(&nango_id, connector(slot)).await;
            self.play(self.fault.get(), true).await;
            self.is_revoked(slot);
        }
    }

    fn is_revoked(&self, slot: usize) {
        let slot = &mut self.slots.borrow_mut()[slot];
        if slot.expected == Expected::Connected {
            slot.expected = Expected::Anything;
        }
    }

    /// Sets a fault of the sandbox, and the provider's consent.
    async fn play(&self, fault: Fault, consent: bool) {
        let mut faults = json!({ "consent": if consent { "allow" } else { "deny" } });
        if matches!(fault, Fault::Status429) {
            // Without `retry-after`, for which calls would wait.
            faults["html"] = json!(true);
        }
        let (name, value) = match fault {
            Fault::None => ("latency_ms", json!(0)),
            Fault::Status500 => ("status", json!(500)),
            Fault::Status429 => ("status", json!(429)),
            Fault::HtmlPage => ("html", json!(true)),
            Fault::HangUp => ("hang_up", json!(true)),
            Fault::LoseAnswer => ("lose_answer", json!(true)),
            Fault::RefuseDelete => ("refuse_delete", json!(true)),
            Fault::RefuseRefresh => ("refuse_refresh", json!(true)),
            Fault::RefuseCode => ("refuse_code", json!(true)),
            Fault::RefuseWebhookUrl => ("refuse_webhook_url_override", json!(true)),
        };
        faults[name] = value;
        self.environment.faults(faults).await;
    }
}

pub(super) fn user(slot: usize) -> UserId {
    UserId::try_from(USERS[slot % 2].to_owned()).unwrap()
}

fn connector(slot: usize) -> &'static str {
    CONNECTORS[slot / 2 % 2]
}

fn request(account: Account) -> ConnectRequest {
    let hint = match account {
        Account::First => "ada-work",
        Account::Other => "grace",
    };
    ConnectRequest {
        login_hint: Some(hint.to_owned()),
        ..ConnectRequest::default()
    }
}
