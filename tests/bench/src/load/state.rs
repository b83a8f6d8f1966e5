//! What the fake kubelet knows: every pod and every loop, and when what happened.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::Pod;
use crate::stats::as_f64;

/// One loop: a task or a Job.
#[derive(Clone, Debug, Default)]
pub struct Loop {
    /// Pods that may start, so far.
    pub started: usize,
    /// Pods that have ended.
    pub ended: usize,
    last_end: Option<Instant>,
    /// The pod that ended last still had its finalizer when it was seen last.
    waits_for_cleanup: Option<String>,
}

/// One pod.
#[derive(Clone, Debug)]
pub(super) struct Played {
    pub(super) owner: String,
    pub(super) stop: Arc<Notify>,
    pub(super) is_running: bool,
    pub(super) has_ended: bool,
    pub(super) is_deleting: bool,
}

/// How a namespace's pods and loops stand.
#[derive(Debug, Default)]
pub struct State {
    /// The loops by name.
    pub loops: HashMap<String, Loop>,
    pub(super) pods: HashMap<String, Played>,
    gaps: Vec<f64>,
    /// Pods that have ended.
    pub ended: usize,
    /// Pods that may start, so far.
    pub started: usize,
    /// Pods whose finalizer went before the loop's next pod could start.
    pub cleaned_before_start: usize,
    /// The last time that anything happened.
    pub(super) last_change: Option<Instant>,
    last_end: Option<Instant>,
    /// Requests of the kubelet that failed for good.
    pub problems: Vec<String>,
}

/// What the kubelet must do about a pod.
#[derive(Clone, Debug)]
pub(super) enum Todo {
    /// Run it: it is the loop's pod of this number.
    Run(usize, Arc<Notify>),
    /// Remove it, because its deletion has begun and it has ended.
    Remove,
    Nothing,
}

impl State {
    /// Takes in how a pod is now.
    pub(super) fn observe(&mut self, pod: &Pod, now: Instant) -> Todo {
        self.last_change = Some(now);
        let uid = &pod.metadata.uid;
        let Some(known) = self.pods.get_mut(uid) else {
            return if pod.may_start() && !pod.has_ended() { self.starts(pod, now) } else { Todo::Nothing };
        };
        if known.has_ended && !pod.has_finalizer() {
            let one = self.loops.get_mut(&known.owner);
            if let Some(one) = one.filter(|one| one.waits_for_cleanup.as_ref() == Some(uid)) {
                one.waits_for_cleanup = None;
                self.cleaned_before_start += 1;
            }
        }
        if pod.deletion_waits() && !known.is_deleting {
            known.is_deleting = true;
            if known.has_ended {
                return Todo::Remove;
            }
            known.stop.notify_one();
        }
        Todo::Nothing
    }

    fn starts(&mut self, pod: &Pod, now: Instant) -> Todo {
        let stop = Arc::new(Notify::new());
        let played = Played {
            owner: pod.owner().to_owned(),
            stop: stop.clone(),
            is_running: false,
            has_ended: false,
            is_deleting: false,
        };
        self.pods.insert(pod.metadata.uid.clone(), played);
        let one = self.loops.entry(pod.owner().to_owned()).or_default();
        one.started += 1;
        one.waits_for_cleanup = None;
        if let Some(ended) = one.last_end.take() {
            self.gaps.push(milliseconds(now.saturating_duration_since(ended)));
        }
        self.started += 1;
        Todo::Run(one.started, stop)
    }

    /// A pod's agent runs.
    pub(super) fn runs(&mut self, uid: &str, now: Instant) {
        self.last_change = Some(now);
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.is_running = true;
        }
    }

    /// The API server has a pod's end. Returns whether the pod is being deleted.
    pub(super) fn ends(&mut self, uid: &str, now: Instant) -> bool {
        (self.last_change, self.last_end) = (Some(now), Some(now));
        let Some(pod) = self.pods.get_mut(uid) else { return false };
        (pod.is_running, pod.has_ended) = (false, true);
        let is_deleting = pod.is_deleting;
        self.ended += 1;
        if let Some(one) = self.loops.get_mut(&pod.owner) {
            one.ended += 1;
            one.last_end = Some(now);
            one.waits_for_cleanup = Some(uid.to_owned());
        }
        is_deleting
    }

    /// A pod is gone.
    pub(super) fn goes(&mut self, uid: &str, now: Instant) {
        self.last_change = Some(now);
        if let Some(pod) = self.pods.remove(uid) {
            pod.stop.notify_one();
        }
    }

    /// Forgets the pods that a list no longer has.
    pub(super) fn forget_all_but(&mut self, pods: &[Pod], now: Instant) {
        let listed: HashSet<&str> = pods.iter().map(|pod| pod.metadata.uid.as_str()).collect();
        let known: Vec<String> = self.pods.keys().cloned().collect();
        for uid in known.iter().filter(|uid| !listed.contains(uid.as_str())) {
            self.goes(uid, now);
        }
    }

    /// Loops whose last pod has ended, and whose next one may not start yet. Their names begin with `prefix`.
    pub fn waiting(&self, prefix: &str) -> usize {
        let of_prefix = self.loops.iter().filter(|(name, _)| name.starts_with(prefix));
        of_prefix.filter(|(_, one)| one.last_end.is_some()).count()
    }

    /// Pods whose agents run.
    pub fn running(&self) -> usize {
        self.pods.values().filter(|pod| pod.is_running).count()
    }

    /// Pods that are known and have not gone.
    pub fn pods(&self) -> usize {
        self.pods.len()
    }

    /// When the last pod ended.
    pub fn last_end(&self) -> Option<Instant> {
        self.last_end
    }

    /// The gaps since the last call, in ms: from a pod's end until the loop's next pod may start.
    pub fn take_gaps(&mut self) -> Vec<f64> {
        std::mem::take(&mut self.gaps)
    }

    /// The share of ended pods that were cleaned up before the loop's next pod could start.
    pub fn cleaned_early(&self) -> f64 {
        as_f64(self.cleaned_before_start) / as_f64(self.ended.max(1))
    }

    /// Lets the agents of this loop end.
    pub fn release(&mut self, owner: &str) {
        for pod in self.pods.values().filter(|pod| pod.owner == owner && !pod.has_ended) {
            pod.stop.notify_one();
        }
    }
}

/// A duration in ms.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(uid: &str, more: &Value) -> Pod {
        let mut pod = json!({
            "metadata": { "uid": uid, "ownerReferences": [{ "name": "loop" }], "finalizers": ["f"] },
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            pod["metadata"][key] = value.clone();
        }
        serde_json::from_value(pod).expect("a pod")
    }

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn a_gap_lasts_from_the_end_of_a_pod_until_the_next_one_may_start() {
        let (mut state, start) = (State::default(), Instant::now());
        assert!(matches!(state.observe(&pod("a", &json!({})), start), Todo::Run(1, _)));
        state.runs("a", at(start, 1));
        assert!(!state.ends("a", at(start, 10)));
        assert!(matches!(state.observe(&pod("b", &json!({})), at(start, 35)), Todo::Run(2, _)));
        assert_eq!(state.take_gaps(), [25.0]);
        assert_eq!(state.take_gaps(), [0.0; 0], "each gap is taken once");
    }

    #[test]
    fn a_pod_that_is_cleaned_up_before_the_next_may_start_is_counted() {
        let (mut state, now) = (State::default(), Instant::now());
        let cleaned = json!({ "finalizers": [] });
        state.observe(&pod("a", &json!({})), now);
        state.ends("a", now);
        state.observe(&pod("b", &json!({})), now);
        state.observe(&pod("a", &cleaned), now);
        assert_eq!(state.cleaned_before_start, 0);
        state.ends("b", now);
        state.observe(&pod("b", &cleaned), now);
        assert_eq!(state.cleaned_before_start, 1);
    }

    #[test]
    fn a_pod_that_is_deleted_is_stopped_and_removed_once_it_has_ended() {
        let (mut state, now) = (State::default(), Instant::now());
        let since = "2026-01-01T00:00:00Z";
        let deleting = json!({ "deletionTimestamp": since, "deletionGracePeriodSeconds": 30 });
        state.observe(&pod("a", &json!({})), now);
        assert!(matches!(state.observe(&pod("a", &deleting), now), Todo::Nothing), "it runs still");
        assert!(state.ends("a", now), "whoever ends it removes it");
        state.observe(&pod("b", &json!({})), now);
        state.ends("b", now);
        assert!(matches!(state.observe(&pod("b", &deleting), now), Todo::Remove));
        state.observe(&pod("c", &json!({})), now);
        state.ends("c", now);
        let by_server = json!({ "deletionTimestamp": since, "deletionGracePeriodSeconds": 0 });
        let todo = state.observe(&pod("c", &by_server), now);
        assert!(matches!(todo, Todo::Nothing), "the API server removes it");
        state.goes("a", now);
        assert_eq!(state.pods(), 2);
    }
}
