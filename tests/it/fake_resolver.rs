//! Names that lead where a test wants them to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Answers any name with these addresses in turn, and then with the last one.
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
    /// How often it was asked.
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
