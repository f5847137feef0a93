//! Which of Nango's webhooks arrive: `patchbay doctor` finds out from it which are switched off.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::core::Core;
use crate::db;
use crate::nango::webhook::Operation;

/// How often a replica writes that webhooks of one operation arrive.
const RECORD_INTERVAL: Duration = Duration::from_secs(60);

/// When webhooks of each operation were last recorded by this replica.
#[derive(Debug, Default)]
pub(crate) struct ReceivedWebhooks(Mutex<HashMap<&'static str, Instant>>);

impl ReceivedWebhooks {
    fn is_due(&self, operation: &'static str) -> bool {
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_due = (recorded.get(operation)).is_none_or(|at| now - *at >= RECORD_INTERVAL);
        if is_due {
            recorded.insert(operation, now);
        }
        is_due
    }

    /// Records that a webhook arrived. A failure is logged: the webhook itself matters more.
    pub(crate) async fn record(&self, core: &Core, operation: &Operation) {
        let name = match operation {
            Operation::Creation => "creation",
            Operation::Refresh => "refresh",
            Operation::Deletion => "deletion",
            Operation::Override | Operation::Other(_) => return,
        };
        if !self.is_due(name) {
            return;
        }
        let record = async {
            let mut tx = core.database.begin_single().await?;
            db::record_webhook(&mut tx, name).await?;
            tx.commit().await
        };
        if let Err(error) = record.await {
            tracing::warn!(%error, name, "could not record that a webhook of nango arrived");
        }
    }
}
