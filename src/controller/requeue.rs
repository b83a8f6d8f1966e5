//! When an object is reconciled again after a failure.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use kube::Resource;
use kube::runtime::reflector::ObjectRef;
use parking_lot::Mutex;

/// First and longest delay after a reconcile that failed.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// How often each object's reconcile has failed in a row. The delay before the next attempt depends on it.
#[derive(Default)]
pub(super) struct Failures(Mutex<HashMap<String, u32>>);

impl Failures {
    pub(super) fn key<K: Resource<DynamicType = ()>>(object: &K) -> String {
        ObjectRef::from_obj(object).to_string()
    }

    pub(super) fn forget<K: Resource<DynamicType = ()>>(&self, object: &K) {
        self.0.lock().remove(&Self::key(object));
    }

    /// Keeps only these objects. `existing` is called only if something is remembered.
    pub(super) fn retain(&self, existing: impl FnOnce() -> HashSet<String>) {
        let mut failures = self.0.lock();
        if !failures.is_empty() {
            let existing = existing();
            failures.retain(|key, _| existing.contains(key));
        }
    }

    /// The delay before the next attempt. It doubles with each failure, with some jitter, so that many tasks that
    /// failed together do not come back together.
    pub(super) fn next<K: Resource<DynamicType = ()>>(&self, object: &K) -> Duration {
        let mut failures = self.0.lock();
        let count = failures.entry(Self::key(object)).or_default();
        let delay = RETRY_MIN.saturating_mul(1 << (*count).min(8)).min(RETRY_MAX);
        *count = count.saturating_add(1);
        delay.mul_f64(0.8 + 0.4 * fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn pod(name: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.namespace = Some("team".to_owned());
        pod
    }

    #[test]
    fn an_object_that_vanished_while_it_failed_is_forgotten() {
        let failures = Failures::default();
        for name in ["stays", "vanished"] {
            failures.next(&pod(name));
            failures.next(&pod(name));
        }
        failures.retain(|| HashSet::from([Failures::key(&pod("stays"))]));
        let kept: Vec<(String, u32)> =
            failures.0.lock().iter().map(|(key, count)| (key.clone(), *count)).collect();
        assert_eq!(kept, [(Failures::key(&pod("stays")), 2)]);
        failures.forget(&pod("stays"));
        failures.retain(|| panic!("nothing is remembered"));
    }
}
