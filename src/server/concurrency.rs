//! Concurrency limits by caller.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// The number of slots that each caller has taken, by a hash of the caller.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConcurrencyLimiter(Arc<Mutex<HashMap<u64, u32>>>);

impl ConcurrencyLimiter {
    /// Takes one slot of a caller, who may have `most` concurrently; 0 means no limit. Returns `None` if all are taken.
    pub(crate) fn acquire(&self, caller: u64, most: u32) -> Option<Permit> {
        let mut permit = Permit {
            of: self.clone(),
            caller,
            count: 0,
        };
        permit.grow(1, most).then_some(permit)
    }
}

/// Slots that are taken until the value is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    of: ConcurrencyLimiter,
    caller: u64,
    count: u32,
}

impl Permit {
    /// Takes `more` slots for the same caller. Returns `false` and takes none if the caller would exceed `most`.
    pub(crate) fn grow(&mut self, more: u32, most: u32) -> bool {
        let mut taken = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = taken.get(&self.caller).copied().unwrap_or(0);
        let after = before.saturating_add(more);
        if most > 0 && after > most {
            return false;
        }
        taken.insert(self.caller, after);
        self.count += more;
        true
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut taken = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_caller) = taken.get_mut(&self.caller) {
            *of_caller = of_caller.saturating_sub(self.count);
            if *of_caller == 0 {
                taken.remove(&self.caller);
            }
        }
    }
}

/// Returns the address under which clients are counted: an IPv6 client usually has a whole /64.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 => v4,
    }
}
