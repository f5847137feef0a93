//! The ids of rows, each a type of its own, so that two cannot be swapped.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! define_ids {
    ($($(#[$doc:meta])* $id:ident;)+) => {$(
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $id(pub Uuid);

        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $id {
            type Err = uuid::Error;

            fn from_str(id: &str) -> Result<Self, uuid::Error> {
                id.parse().map(Self)
            }
        }
    )+};
}

define_ids! {
    /// The id of a connection: a UUIDv7, kept over disconnects and reconnects.
    ConnectionId;
    /// The id of an attempt: a UUIDv7. The connection at Nango carries it as a tag.
    AttemptId;
    /// The id of a connector: the UUIDv5 of its slug.
    ConnectorId;
    /// The id of an event: a UUIDv7.
    EventId;
    /// The id of an installation. Its connections at Nango carry it as a tag.
    InstallationId;
}
