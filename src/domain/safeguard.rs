//! Safeguards against mistakes that affect many users: brakes, and the reasons for deletions at Nango.

use chrono::TimeDelta;
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

/// A brake, which stops operations that could harm many users by mistake until an operator releases it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Brake {
    /// The database differs from the installation's last, as after a restore or in a copy. Stops sweeps, deletions at
    /// Nango and webhooks to the product.
    Database,
    /// Nango has none of the connections that were connected last. Stops sweeps, deletions at Nango and connects.
    Nango,
    /// Too many connections would become `missing_upstream`.
    Missing,
    /// Too many connections would become `needs_reauthorization`.
    Dead,
    /// Too many connections at Nango would be deleted without a request of their users.
    Deletions,
}

/// The reason for the deletion of a connection at Nango.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum DeletionReason {
    /// The user disconnected it.
    Disconnected,
    /// The user was erased.
    Erased,
    /// A newer grant replaced it.
    Replaced,
    /// Its attempt was invalidated by a disconnect before the grant.
    Invalidated,
    /// An operator deleted it because it belonged to no row.
    Orphan,
}

impl DeletionReason {
    /// Returns how long the deletion is delayed. A replaced grant is kept for a while, because it is the only working
    /// one if its successor fails.
    pub fn delay(self) -> TimeDelta {
        match self {
            Self::Replaced => TimeDelta::minutes(10),
            _ => TimeDelta::zero(),
        }
    }

    /// Returns whether no user or operator requested the deletion. [`Brake::Deletions`] counts such deletions.
    pub fn is_automatic(self) -> bool {
        matches!(self, Self::Replaced | Self::Invalidated)
    }
}
