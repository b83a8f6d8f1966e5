//! What our own writes were answered, until the caches have seen it.
//!
//! A cache may lag behind the operator's own writes. The answer of a write is newer than whatever the cache
//! holds, so it is used until the cache catches up. Nothing rests on it: every write is guarded by the
//! server. It saves conflicts, and pods that are created twice for nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::{Resource, ResourceExt};
use tokio::time::Instant;

/// A cache that is older than this is no reason to trust an answer: the object may long be gone.
const LONGEST_LAG: Duration = Duration::from_mins(1);

/// The newest answers, by uid, and when they came.
pub(super) struct Latest<K>(Mutex<HashMap<String, (Instant, Arc<K>)>>);

impl<K> Default for Latest<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// Versions of one kind of object can be compared as numbers (KEP-5504).
fn version<K: Resource>(object: &K) -> Option<u64> {
    object.meta().resource_version.as_deref()?.parse().ok()
}

impl<K: Resource<DynamicType = ()>> Latest<K> {
    /// Remembers an answer, unless a newer one is remembered.
    pub(super) fn remember(&self, object: &Arc<K>) {
        let Some(uid) = object.uid() else { return };
        let mut answers = self.lock();
        answers.retain(|_, (since, _)| since.elapsed() < LONGEST_LAG);
        let is_newer =
            answers.get(&uid).is_none_or(|(_, known)| version(object.as_ref()) >= version(known.as_ref()));
        if is_newer {
            answers.insert(uid, (Instant::now(), object.clone()));
        }
    }

    /// Whichever is newer: what is remembered of this object, or what the cache holds.
    pub(super) fn newest(&self, cached: Arc<K>) -> Arc<K> {
        let Some(uid) = cached.uid() else { return cached };
        let mut answers = self.lock();
        let newer = answers.get(&uid).filter(|(since, answer)| {
            since.elapsed() < LONGEST_LAG && version(answer.as_ref()) > version(cached.as_ref())
        });
        if let Some((_, answer)) = newer {
            return answer.clone();
        }
        answers.remove(&uid);
        cached
    }

    /// What is remembered and passes `wanted`.
    pub(super) fn filter(&self, wanted: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        let answers = self.lock();
        let fresh = answers.values().filter(|(since, _)| since.elapsed() < LONGEST_LAG);
        fresh.filter(|(_, object)| wanted(object)).map(|(_, object)| object.clone()).collect()
    }

    /// Forgets an object that is gone.
    pub(super) fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, Arc<K>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn pod(version: &str) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.uid = Some("u".to_owned());
        pod.metadata.resource_version = Some(version.to_owned());
        Arc::new(pod)
    }

    fn seen(latest: &Latest<Pod>, cached: &str) -> Option<String> {
        latest.newest(pod(cached)).resource_version()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_used_until_the_cache_has_caught_up() {
        let latest = Latest::default();
        latest.remember(&pod("10"));
        assert_eq!(seen(&latest, "9").as_deref(), Some("10"));
        assert_eq!(seen(&latest, "11").as_deref(), Some("11"));
        assert_eq!(seen(&latest, "9").as_deref(), Some("9"), "forgotten once the cache was newer");
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_answer_does_not_replace_a_newer_one() {
        let latest = Latest::default();
        latest.remember(&pod("10"));
        latest.remember(&pod("9"));
        assert_eq!(seen(&latest, "8").as_deref(), Some("10"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_about_an_object_that_never_comes_is_dropped() {
        let latest = Latest::default();
        latest.remember(&pod("10"));
        assert_eq!(latest.filter(|_| true).len(), 1);
        tokio::time::advance(LONGEST_LAG).await;
        assert!(latest.filter(|_| true).is_empty());
        assert_eq!(seen(&latest, "9").as_deref(), Some("9"));
    }
}
