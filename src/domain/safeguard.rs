//! What keeps a mistake from harming many users: brakes, and the reasons for deletions at Nango.

use chrono::TimeDelta;
use strum::{Display, EnumString, IntoStaticStr, VariantArray, VariantNames};

/// A brake: stops what could harm many users by mistake.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
    VariantNames,
)]
#[strum(serialize_all = "snake_case")]
pub enum Brake {
    /// The database is not the one that the installation had, as after a restore or in a copy. Stops sweeps, deletions at
    /// Nango and webhooks to the product.
    Database,
    /// Nango has none of the connections that were connected last. Stops sweeps, deletions at Nango and connects.
    Nango,
    /// Too many connections would become `missing_upstream`.
    Missing,
    /// Too many connections would become `needs_reauthorization`.
    Dead,
    /// Too many connections at Nango would be deleted although no user asked for it.
    Deletions,
}

impl Brake {
    /// The name in the database, in metrics and in commands.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Why a connection at Nango is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, EnumString, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum DeletionReason {
    /// The user disconnected it.
    Disconnected,
    /// The user was erased.
    Erased,
    /// A newer grant took its place.
    Replaced,
    /// It was granted by an attempt that a disconnect had invalidated.
    Invalidated,
    /// An operator deleted it: it belonged to no row.
    Orphan,
}

impl DeletionReason {
    /// The name in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// How long the deletion waits. What was replaced is the only working grant if its successor does not work.
    #[must_use]
    pub fn delay(self) -> TimeDelta {
        match self {
            Self::Replaced => TimeDelta::minutes(10),
            _ => TimeDelta::zero(),
        }
    }

    /// Returns whether no user requested this deletion: the brake counts it.
    #[must_use]
    pub fn is_automatic(self) -> bool {
        matches!(self, Self::Replaced | Self::Invalidated)
    }
}
