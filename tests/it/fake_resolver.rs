//! A resolver with addresses that the test sets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Resolves any name to these addresses in turn, and then to the last one.
pub(crate) struct RebindingResolver {
    answers: Vec<&'static str>,
    asked: AtomicUsize,
}

pub(crate) fn rebinding(answers: &[&'static str]) -> Arc<RebindingResolver> {
    Arc::new(RebindingResolver {
        answers: answers.to_vec(),
        asked: AtomicUsize::new(0),
    })
}

impl RebindingResolver {
    /// Returns the number of lookups.
    pub(crate) fn lookups(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Resolve for RebindingResolver {
    fn resolve(&self, _: Name) -> Resolving {
        let asked = self.asked.fetch_add(1, Ordering::SeqCst);
        let address = self.answers[asked.min(self.answers.len() - 1)];
        let address = SocketAddr::new(address.parse().unwrap(), 0);
        Box::pin(async move { Ok(Box::new(std::iter::once(address)) as Addrs) })
    }
}
