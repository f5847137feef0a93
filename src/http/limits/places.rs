//! Places that a user holds for long: so many at once, and no more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How many places each user has taken, by a key of theirs.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<HashMap<u64, u32>>>);

impl Places {
    /// Takes one of a user's places, of which there are `most`, or any number where that is 0; `None` where all are
    /// taken.
    pub(super) fn take(&self, user: u64, most: u32) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_user = taken.entry(user).or_insert(0);
        if most > 0 && *of_user >= most {
            return None;
        }
        *of_user += 1;
        Some(Place {
            of: self.clone(),
            user,
        })
    }
}

/// A place that is taken; it is given back when the value is dropped.
#[derive(Debug)]
pub(in crate::http) struct Place {
    of: Places,
    user: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_user) = taken.get_mut(&self.user) {
            *of_user -= 1;
            if *of_user == 0 {
                taken.remove(&self.user);
            }
        }
    }
}
