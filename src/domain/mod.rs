//! The domain: connections, attempts, and the state machine between them.
//!
//! Pure: no I/O, no clock, no database types.

mod attempt;
mod connection;
pub(crate) mod event;
mod failure;
mod ids;
mod safeguard;
pub mod state_machine;
mod user_id;

pub use attempt::{Attempt, AttemptKind, Outcome};
pub use connection::{
    Account, AccountDetails, AccountUnknownReason, Connection, ConnectorRef, Integration,
    NangoConnectionRef, Reason, Revision, State, Status,
};
pub use event::{Actor, Event, EventContext, EventKind, MessageType, Rename};
pub use failure::Failure;
pub use ids::{AttemptId, ConnectionId, ConnectorId, EventId, InstallationId};
pub use safeguard::{Brake, DeletionReason};
pub use user_id::{InvalidUserId, UserId};

macro_rules! define_as_str {
    ($($id:ident),+) => {$(
        impl $id {
            /// Returns the name in the database, in JSON and in metrics.
            pub fn as_str(self) -> &'static str {
                self.into()
            }
        }
    )+};
}

define_as_str!(
    AccountUnknownReason,
    AttemptKind,
    Brake,
    DeletionReason,
    EventKind,
    MessageType,
    Outcome,
    Reason,
    Status
);
