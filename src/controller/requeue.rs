//! When an object is reconciled again after a failure.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::object_cache::ObjectName;

/// First and longest delay after a reconcile that failed.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// How often each object's reconcile has failed in a row. The delay before the next attempt depends on it.
#[derive(Default)]
pub(super) struct Failures(Mutex<HashMap<ObjectName, u32>>);

impl Failures {
    pub(super) fn forget(&self, object: &ObjectName) {
        self.0.lock().remove(object);
    }

    /// Forgets the objects that are gone.
    pub(super) fn retain(&self, is_there: impl Fn(&ObjectName) -> bool) {
        self.0.lock().retain(|object, _| is_there(object));
    }

    /// The delay before the next attempt. It doubles with each failure, with some jitter, so that many tasks that
    /// failed together do not come back together.
    pub(super) fn next(&self, object: &ObjectName) -> Duration {
        let mut failures = self.0.lock();
        let count = failures.entry(object.clone()).or_default();
        let delay = RETRY_MIN.saturating_mul(1 << (*count).min(8)).min(RETRY_MAX);
        *count = count.saturating_add(1);
        delay.mul_f64(0.8 + 0.4 * fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_vanished_while_it_failed_is_forgotten() {
        let failures = Failures::default();
        let [stays, vanished] = ["stays", "vanished"].map(|name| ObjectName::new("team", name));
        for object in [&stays, &vanished] {
            failures.next(object);
            failures.next(object);
        }
        failures.retain(|object| *object == stays);
        assert_eq!(failures.0.lock().iter().collect::<Vec<_>>(), [(&stays, &2)]);
        failures.forget(&stays);
        assert!(failures.0.lock().is_empty());
    }
}
