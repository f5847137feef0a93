//! The steps of a schedule, and their probabilities.

use proptest::prelude::*;

/// The number of connections that a schedule's users may have.
pub(super) const SLOTS: usize = 8;

/// One step.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A user starts a connection with an intended account.
    Connect {
        slot: usize,
        account: Account,
    },
    /// A user starts a reauthorization.
    Reconnect {
        slot: usize,
        account: Account,
    },
    /// A user opens an address that they were given, and grants access; 0 is the newest address.
    Grant {
        url: usize,
    },
    /// A user opens such an address, and denies access.
    Deny {
        url: usize,
    },
    /// A user disconnects a connection.
    Disconnect {
        slot: usize,
    },
    /// A user reads a connection.
    Look {
        slot: usize,
    },
    /// A user checks a connection.
    Check {
        slot: usize,
    },
    /// A user renames a connection.
    Rename {
        slot: usize,
        name: u8,
    },
    /// A user accepts the account of a reconnect.
    Accept {
        slot: usize,
    },
    /// One of Nango's oldest webhooks arrives.
    Deliver {
        webhook: usize,
    },
    /// A webhook arrives that may have arrived before.
    Replay {
        webhook: usize,
    },
    /// A webhook never arrives.
    Lose {
        webhook: usize,
    },
    /// The background jobs run.
    Sweep,
    Expire,
    Delete,
    /// Time passes, in minutes.
    Pass {
        minutes: u16,
    },
    /// Nango has this fault from now on.
    Fault(Fault),
    /// The service restarts.
    Restart,
    /// A connection is deleted directly at Nango.
    DeleteAtNango {
        slot: usize,
    },
    /// The account's owner revokes the grant, and Nango's own refresh notices.
    Revoke {
        slot: usize,
    },
    /// Two steps run concurrently.
    Both(Box<Step>, Box<Step>),
}

/// The account that a user intends to connect.
#[derive(Clone, Copy, Debug)]
pub(super) enum Account {
    First,
    Other,
}

/// A fault of Nango or the provider.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    None,
    Status500,
    Status429,
    HtmlPage,
    HangUp,
    LoseAnswer,
    RefuseDelete,
    RefuseRefresh,
    RefuseCode,
    RefuseWebhookUrl,
}

/// Generates any schedule.
pub(super) fn schedule() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        9 => one(),
        1 => (one(), one()).prop_map(|(a, b)| Step::Both(Box::new(a), Box::new(b))),
    ];
    prop::collection::vec(step, 1..30)
}

fn one() -> impl Strategy<Value = Step> {
    prop_oneof![
        22 => users(),
        18 => popups(),
        10 => webhooks(),
        14 => world(),
    ]
}

/// Generates a slot, mostly the first, so that most steps affect the same connection.
fn slot() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(0), 2 => 0..SLOTS]
}

fn account() -> impl Strategy<Value = Account> {
    prop_oneof![3 => Just(Account::First), 1 => Just(Account::Other)]
}

fn users() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (slot(), account()).prop_map(|(slot, account)| Step::Connect { slot, account }),
        4 => (slot(), account()).prop_map(|(slot, account)| Step::Reconnect { slot, account }),
        4 => slot().prop_map(|slot| Step::Disconnect { slot }),
        2 => slot().prop_map(|slot| Step::Look { slot }),
        2 => slot().prop_map(|slot| Step::Check { slot }),
        1 => slot().prop_map(|slot| Step::Accept { slot }),
        1 => (slot(), 0..3_u8).prop_map(|(slot, name)| Step::Rename { slot, name }),
    ]
}

fn popups() -> impl Strategy<Value = Step> {
    let url = || prop_oneof![3 => Just(0_usize), 2 => 0..6_usize];
    prop_oneof![
        5 => url().prop_map(|url| Step::Grant { url }),
        2 => url().prop_map(|url| Step::Deny { url }),
    ]
}

fn webhooks() -> impl Strategy<Value = Step> {
    let webhook = || prop_oneof![3 => Just(0_usize), 2 => 0..6_usize];
    prop_oneof![
        5 => webhook().prop_map(|webhook| Step::Deliver { webhook }),
        2 => (0..12_usize).prop_map(|webhook| Step::Replay { webhook }),
        1 => webhook().prop_map(|webhook| Step::Lose { webhook }),
    ]
}

fn world() -> impl Strategy<Value = Step> {
    let minutes = prop_oneof![Just(1_u16), Just(12), Just(31), Just(90)];
    prop_oneof![
        4 => Just(Step::Sweep),
        2 => Just(Step::Expire),
        2 => Just(Step::Delete),
        3 => minutes.prop_map(|minutes| Step::Pass { minutes }),
        4 => fault().prop_map(Step::Fault),
        1 => Just(Step::Restart),
        1 => slot().prop_map(|slot| Step::DeleteAtNango { slot }),
        1 => slot().prop_map(|slot| Step::Revoke { slot }),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        5 => Just(Fault::None),
        1 => Just(Fault::Status500),
        1 => Just(Fault::Status429),
        1 => Just(Fault::HtmlPage),
        1 => Just(Fault::HangUp),
        2 => Just(Fault::LoseAnswer),
        2 => Just(Fault::RefuseDelete),
        2 => Just(Fault::RefuseRefresh),
        1 => Just(Fault::RefuseCode),
        1 => Just(Fault::RefuseWebhookUrl),
    ]
}
