//! Since when a task's namespace lacks what its controllers make by themselves. A restart forgets it, and then what is
//! missing is tried quickly, and quietly, for a while longer.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::SignedDuration;
use tokio::time::Instant;

/// When each task's pod was first refused for it, by the task's uid.
#[derive(Default)]
pub(super) struct Unsettled(Mutex<HashMap<String, Instant>>);

impl Unsettled {
    /// How long ago the first such refusal was; nothing where there was none.
    pub(super) fn since(&self, uid: &str) -> SignedDuration {
        let first = self.lock().get(uid).map(Instant::elapsed).unwrap_or_default();
        SignedDuration::try_from(first).unwrap_or(SignedDuration::MAX)
    }

    pub(super) fn note(&self, uid: &str) {
        self.lock().entry(uid.to_owned()).or_insert_with(Instant::now);
    }

    pub(super) fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// Forgets the tasks that are not there any more.
    pub(super) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.lock().retain(|uid, _| is_there(uid));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
