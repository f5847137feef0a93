//! Places that a caller holds for long: so many at once, and no more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How many places each caller has taken, by a key of theirs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(Arc<Mutex<HashMap<u64, u32>>>);

impl Places {
    /// Takes one of a caller's places, of which there are `most`, or any number where that is 0; `None` where all are
    /// taken.
    pub(crate) fn take(&self, caller: u64, most: u32) -> Option<Place> {
        let mut place = Place {
            of: self.clone(),
            caller,
            count: 0,
        };
        place.grow(1, most).then_some(place)
    }
}

/// Places that are taken; they are given back when the value is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    of: Places,
    caller: u64,
    count: u32,
}

impl Place {
    /// Takes `more` places for the same caller. `false`, and nothing is taken, where these are not left of `most`.
    pub(super) fn grow(&mut self, more: u32, most: u32) -> bool {
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

impl Drop for Place {
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
