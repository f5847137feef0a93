//! The state machine as a table: how each signal changes a connection in each state.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use patchbay::domain::state_machine::{Grant, Transition};
use patchbay::domain::{
    Account, AccountUnknownReason, Attempt, AttemptId, AttemptKind, Connection, ConnectionId,
    ConnectorId, ConnectorRef, Failure, Integration, NangoConnectionRef, Outcome, Reason, Rename,
    State, UserId,
};
use serde_json::Map;
use uuid::Uuid;

fn at(minutes: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + minutes * 60, 0).unwrap()
}

/// A connection at Nango. A later one has a higher serial number.
fn nango(serial: i64) -> NangoConnectionRef {
    NangoConnectionRef {
        id: format!("nango-{serial}"),
        created_at: at(0),
        serial: Some(serial),
        integration: Integration {
            key: "gmail".to_owned(),
            provider: None,
        },
    }
}

fn account(id: &str) -> Account {
    Account {
        id: id.to_owned(),
        ..Account::default()
    }
}

/// A connection of this state in which every field has a value that a transition can remove.
fn connection(state: State) -> Connection {
    let connector = ConnectorRef {
        id: ConnectorId(Uuid::nil()),
        slug: "gmail".to_owned(),
        name: "Gmail".to_owned(),
    };
    let user = UserId::try_from("ada".to_owned()).unwrap();
    let mut config = Map::new();
    config.insert("folder".to_owned(), "inbox".into());
    Connection {
        label: Some("Work".to_owned()),
        state,
        connected_at: Some(at(1)),
        disconnected_at: None,
        last_synced_at: Some(at(2)),
        last_checked_at: Some(at(3)),
        config,
        account: Some(account("ada")),
        scopes: Some(vec!["read".to_owned()]),
        missing_scopes: Some(vec!["write".to_owned()]),
        refusals: vec![at(4)],
        last_error: Some("before".to_owned()),
        error_count: 1,
        ..Connection::new(user, connector.into(), String::new(), at(0))
    }
}

fn error(reason: Reason, upstream: Option<NangoConnectionRef>) -> Connection {
    connection(State::Error { reason, upstream })
}

/// The starting points with an error, by name.
fn broken_connections() -> Vec<(&'static str, Connection)> {
    vec![
        ("dead", error(Reason::NeedsReauthorization, Some(nango(5)))),
        (
            "missing, never seen connected",
            Connection {
                connected_at: None,
                ..error(Reason::MissingUpstream, Some(nango(5)))
            },
        ),
        (
            "failed first attempt",
            error(Reason::AuthorizationDenied, None),
        ),
        (
            "failed repair",
            error(Reason::AuthorizationFailed, Some(nango(5))),
        ),
        (
            "account mismatch",
            Connection {
                pending_account: Some(account("ben")),
                ..error(Reason::AccountMismatch, Some(nango(5)))
            },
        ),
        (
            "account mismatch, account was unknown",
            Connection {
                pending_account: Some(account("ben")),
                account_unknown_reason: Some(AccountUnknownReason::Refused),
                ..error(Reason::AccountMismatch, Some(nango(5)))
            },
        ),
    ]
}

/// The other starting points, by name.
fn connections() -> Vec<(&'static str, Connection)> {
    let connected = || connection(State::Connected { upstream: nango(5) });
    let ended = |reason| Connection {
        disconnected_at: Some(at(5)),
        ..connection(State::Disconnected { reason })
    };
    let never_connected = Connection {
        connected_at: None,
        account: None,
        ..connection(State::Pending { previous: None })
    };
    let repair = connection(State::Pending {
        previous: Some(nango(5)),
    });
    vec![
        ("pending, never connected", never_connected),
        (
            "pending, was connected",
            connection(State::Pending { previous: None }),
        ),
        ("pending repair", repair),
        ("connected", connected()),
        (
            "connected, failing",
            Connection {
                failing_since: Some(at(5)),
                ..connected()
            },
        ),
        (
            "connected, account unknown",
            Connection {
                account: None,
                account_unknown_reason: Some(AccountUnknownReason::Refused),
                ..connected()
            },
        ),
        ("disconnected", ended(Reason::UserDisconnected)),
        ("removed", ended(Reason::Removed)),
    ]
}

fn attempt(outcome: Option<Outcome>) -> Attempt {
    Attempt {
        id: AttemptId(Uuid::nil()),
        connection_id: ConnectionId(Uuid::nil()),
        kind: AttemptKind::Connect,
        expires_at: at(30),
        outcome,
        error: None,
        invalidated: false,
        returned: None,
        created_at: at(0),
        ended_at: None,
    }
}

fn failure(reason: Reason) -> Failure {
    Failure {
        reason,
        message: "the reason".to_owned(),
    }
}

/// Names a message. The messages of the state machine are not part of the table.
fn message(text: Option<&str>) -> String {
    match text {
        None => "none",
        Some("before") => "as before",
        Some("the reason") => "of the failure",
        Some(_) => "new",
    }
    .to_owned()
}

/// Returns the fields of a connection as text.
fn fields(connection: &Connection) -> Vec<(&'static str, String)> {
    let time = |time: Option<DateTime<Utc>>| {
        time.map_or("none".to_owned(), |time| time.format("%H:%M").to_string())
    };
    let name = |account: &Option<Account>| {
        let account = account.as_ref();
        account.map_or("none".to_owned(), Account::label)
    };
    let upstream = connection.state.upstream();
    let refusals: Vec<String> = (connection.refusals.iter())
        .map(|refusal| time(Some(*refusal)))
        .collect();
    vec![
        ("status", connection.state.status().as_str().to_owned()),
        ("reason", format!("{:?}", connection.state.reason())),
        (
            "nango",
            format!("{:?}", upstream.map(|upstream| &upstream.id)),
        ),
        ("label", format!("{:?}", connection.label)),
        ("connected_at", time(connection.connected_at)),
        ("disconnected_at", time(connection.disconnected_at)),
        ("last_synced_at", time(connection.last_synced_at)),
        ("last_checked_at", time(connection.last_checked_at)),
        ("config", format!("{:?}", connection.config)),
        ("account", name(&connection.account)),
        ("pending_account", name(&connection.pending_account)),
        (
            "unknown",
            format!("{:?}", connection.account_unknown_reason),
        ),
        ("scopes", format!("{:?}", connection.scopes)),
        ("missing_scopes", format!("{:?}", connection.missing_scopes)),
        ("failing_since", time(connection.failing_since)),
        ("refusals", refusals.join(" ")),
        ("last_error", message(connection.last_error.as_deref())),
        ("error_count", connection.error_count.to_string()),
    ]
}

/// Returns a transition as text: the event, who caused it, the changed fields, and its other effects.
fn describe(before: &Connection, transition: &Transition) -> String {
    let context = &transition.context;
    let mut text = format!("{:?} by {:?}", transition.event, context.actor);
    if let Some(account) = &context.account {
        write!(text, " of {account}").unwrap();
    }
    let changes = fields(before)
        .into_iter()
        .zip(fields(&transition.connection));
    for ((name, old), (_, new)) in changes {
        if old != new {
            write!(text, ", {name} {new}").unwrap();
        }
    }
    if let Some((outcome, failure)) = &transition.outcome {
        write!(text, ", attempt {}", outcome.as_str()).unwrap();
        if let Some(failure) = failure {
            write!(text, " by {}", failure.reason.as_str()).unwrap();
        }
    }
    if let Some(discard) = &transition.discard {
        write!(text, ", deletes {}", discard.id).unwrap();
    }
    if let Some(detail) = &transition.detail {
        write!(text, ", detail {}", message(Some(detail))).unwrap();
    }
    text
}

/// Adds one signal to the table, unless it changes nothing.
fn add(table: &mut String, before: &Connection, signal: &str, transition: Option<Transition>) {
    if let Some(transition) = transition {
        assert_eq!(transition.connection.updated_at, at(10), "{signal}");
        writeln!(table, "  {signal}: {}", describe(before, &transition)).unwrap();
    }
}

/// The serial numbers and accounts of grants: older, the same and newer; unknown, the same and another.
const ALL_GRANTS: [(i64, &str); 9] = [
    (4, ""),
    (4, "ada"),
    (4, "ben"),
    (5, ""),
    (5, "ada"),
    (5, "ben"),
    (6, ""),
    (6, "ada"),
    (6, "ben"),
];

fn add_grants(table: &mut String, before: &Connection) {
    let canceled = attempt(Some(Outcome::Canceled));
    let succeeded = attempt(Some(Outcome::Succeeded));
    let invalidated = Attempt {
        invalidated: true,
        ..attempt(None)
    };
    let mismatched = Attempt {
        error: Some(failure(Reason::AccountMismatch)),
        ..attempt(Some(Outcome::Failed))
    };
    // Started after the connection became connected.
    let later = |outcome| Attempt {
        created_at: at(2),
        ..attempt(outcome)
    };
    let later_reconnect = Attempt {
        kind: AttemptKind::Reconnect,
        ..later(None)
    };
    let superseded = later(Some(Outcome::Superseded));
    let attempts = [
        ("open", attempt(None), &ALL_GRANTS[..]),
        (
            "later",
            later(None),
            &[(4, "ada"), (4, "ben"), (6, "ada")][..],
        ),
        ("later reconnect", later_reconnect, &[(4, "ada")][..]),
        ("later superseded", superseded, &[(4, "ada")][..]),
        (
            "succeeded",
            succeeded,
            &[(5, ""), (5, "ada"), (5, "ben"), (6, "ada")][..],
        ),
        ("mismatched", mismatched, &[(5, "ada"), (5, "ben")][..]),
        ("canceled", canceled, &[(5, "ada"), (6, "ada")][..]),
        ("invalidated", invalidated, &[(5, "ada")][..]),
    ];
    for (name, attempt, grants) in &attempts {
        for (serial, owner) in *grants {
            let (grant, known) = (nango(*serial), account(owner));
            let known = (!owner.is_empty()).then_some(&known);
            let granted = before.granted(attempt, &grant, known, at(10));
            let signal = format!("grant {serial} of '{owner}', {name} attempt");
            match granted {
                Grant::Applied(applied) => add(table, before, &signal, Some(*applied)),
                Grant::AlreadyApplied => writeln!(table, "  {signal}: known").unwrap(),
                Grant::Discarded => writeln!(table, "  {signal}: discarded").unwrap(),
            }
        }
    }
}

#[test]
fn transitions_match_table_in_repository() {
    let mut table = String::new();
    for (name, before) in connections().into_iter().chain(broken_connections()) {
        writeln!(table, "{name}").unwrap();
        let (open, over) = (attempt(None), attempt(Some(Outcome::Succeeded)));
        let now = at(10);
        let mut add = |signal: &str, transition| add(&mut table, &before, signal, transition);
        add("attempt started", Some(before.attempt_started(now)));
        for owner in [None, Some("ada"), Some("ben")] {
            let (name, owner) = (owner.unwrap_or("unknown"), owner.map(account));
            add(
                &format!("healthy, {name}"),
                before.healthy(owner.as_ref(), now),
            );
            if let Some(owner) = owner {
                let identified = before.account_identified(&owner, now);
                add(&format!("account identified, {name}"), identified);
            }
        }
        add("account accepted", before.account_accepted(now));
        add("credentials failing", before.credentials_failing(now));
        add("credentials dead", before.credentials_dead(now));
        add("token refreshed", before.token_refreshed(now));
        for serial in [5, 6] {
            let upstream = nango(serial);
            add(
                &format!("missing {serial}"),
                before.missing(&upstream.id, now),
            );
            let restored = before.restored(&upstream, now);
            add(&format!("restored {serial}"), Some(restored));
        }
        for reason in [
            Reason::AuthorizationDenied,
            Reason::AuthorizationFailed,
            Reason::AttemptExpired,
        ] {
            let failed = before.attempt_failed(&open, &failure(reason), now);
            add(&format!("attempt failed, {}", reason.as_str()), failed);
        }
        let failed = before.attempt_failed(&over, &failure(Reason::AttemptExpired), now);
        add("ended attempt failed", failed);
        add("attempt canceled", before.attempt_canceled(&open, now));
        add(
            "ended attempt canceled",
            before.attempt_canceled(&over, now),
        );
        add("removed", before.removed(now));
        add("disconnected", before.disconnected(now));
        add_grants(&mut table, &before);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/state_machine.txt");
    let expected = fs::read_to_string(&path).unwrap_or_default();
    if table != expected {
        let actual = Path::new(env!("CARGO_TARGET_TMPDIR")).join("state_machine.txt");
        fs::write(&actual, table).unwrap();
        let (actual, path) = (actual.display(), path.display());
        panic!("compare {actual} with {path}: if the difference is intended, copy it there");
    }
}

#[test]
fn dead_credentials_are_retried_with_doubling_pauses() {
    let refused = |count: i64| Connection {
        refusals: (0..count).map(|number| at(number - count + 1)).collect(),
        ..error(Reason::NeedsReauthorization, Some(nango(5)))
    };
    for (refusals, minutes) in [(1, 2), (2, 4), (3, 8), (9, 512), (10, 720), (22, 720)] {
        let connection = refused(refusals);
        let due = at(minutes);
        assert!(connection.is_retry_due(due), "{refusals}");
        let early = due - TimeDelta::seconds(1);
        assert!(!connection.is_retry_due(early), "{refusals}");
    }
    assert!(refused(0).is_retry_due(at(0)));
    assert!(!refused(23).is_retry_due(at(100_000)));
    let connected = Connection {
        refusals: Vec::new(),
        ..connection(State::Connected { upstream: nango(5) })
    };
    assert!(!connected.is_retry_due(at(100_000)));
    assert_eq!(refused(22).refused(at(1)).0.len(), 23);
    assert_eq!(refused(23).refused(at(1)).0.len(), 23);
}

#[test]
fn update_reports_rename_only_when_label_changes() {
    let before = error(Reason::NeedsReauthorization, Some(nango(5)));
    assert_eq!(before.updated(&before, at(10)).context.rename, None);
    let renamed = Connection {
        label: None,
        ..before.clone()
    };
    let rename = Rename {
        from: Some("Work".to_owned()),
        to: None,
    };
    let updated = renamed.updated(&before, at(10));
    assert_eq!(updated.context.rename, Some(rename));
}
