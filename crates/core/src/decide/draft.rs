//! A decision under construction: the new status, and the actions so far.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::types::{Action, Decision, Observed};
use crate::{
    api::{ActiveIteration, AgentTaskStatus, WaitReason, Waiting},
    facts::{Obstacle, PodFacts},
    time::whole_second,
};

/// A decision under construction.
pub(super) struct Draft<'a> {
    pub(super) status: AgentTaskStatus,
    pub(super) decision: Decision,
    pub(super) observed: &'a Observed<'a>,
    /// This decision began or renewed the wait, so a change of the spec does not cut it short.
    has_new_wait: bool,
}

impl<'a> Draft<'a> {
    pub(super) fn new(status: AgentTaskStatus, observed: &'a Observed<'a>) -> Self {
        Self { status, decision: Decision::default(), observed, has_new_wait: false }
    }

    pub(super) fn uid(&self) -> String {
        self.observed.task.uid().unwrap_or_default()
    }

    pub(super) fn generation(&self) -> i64 {
        self.observed.task.metadata.generation.unwrap_or_default()
    }

    /// The spec has changed since the status was written.
    pub(super) fn spec_changed(&self) -> bool {
        self.status.observed_generation.is_some_and(|observed| observed != self.generation())
    }

    pub(super) fn act(&mut self, action: Action) {
        self.decision.actions.push(action);
    }

    pub(super) fn requeue_after(&mut self, delay: SignedDuration) {
        let delay = Duration::try_from(delay).unwrap_or_default().max(Duration::from_millis(100));
        self.decision.requeue_after =
            Some(self.decision.requeue_after.map_or(delay, |earlier| earlier.min(delay)));
    }

    pub(super) fn requeue_at(&mut self, time: Timestamp) {
        self.requeue_after(time.duration_since(self.observed.now));
    }

    /// Waits for `obstacle`. A wait for the same reason keeps its start time.
    pub(super) fn wait(&mut self, obstacle: &Obstacle, retry_time: Option<Timestamp>) {
        let same = self.status.waiting.as_ref().filter(|waiting| waiting.reason == obstacle.reason);
        let start_time = same.map_or(Time(self.observed.now), |waiting| waiting.start_time.clone());
        self.status.waiting = Some(Waiting {
            reason: obstacle.reason,
            message: bounded(&obstacle.message),
            start_time,
            retry_time: retry_time.map(|time| Time(whole_second(time))),
        });
        self.has_new_wait = true;
        if let Some(time) = retry_time {
            self.requeue_at(whole_second(time));
        }
    }

    pub(super) fn wait_for(&mut self, reason: WaitReason, message: impl Into<String>) {
        self.wait(&Obstacle { reason, message: message.into() }, None);
    }

    /// When the current wait allows the next try, if that is in the future.
    pub(super) fn waits_until(&self) -> Option<Timestamp> {
        if self.spec_changed() && !self.has_new_wait {
            return None;
        }
        let until = self.status.waiting.as_ref()?.retry_time.as_ref()?.0;
        (until > self.observed.now).then_some(until)
    }

    /// The shell must read something before a decision is possible.
    pub(super) fn needs_a_read(&self) -> bool {
        self.decision.actions.iter().any(Action::is_a_read)
    }

    pub(super) fn pod_of(&self, active: &ActiveIteration) -> Option<&PodFacts> {
        let uid = self.uid();
        // The name counts too, because a copy of the pod has the same owner and labels.
        let is_active = |pod: &&PodFacts| {
            pod.name == active.pod_name && pod.is_attempt(&uid, active.iteration, active.attempt)
        };
        self.observed.pods.iter().find(is_active)
    }
}

/// Text of bounded size for the status; absent if it is empty.
fn bounded(text: &str) -> Option<String> {
    const MAX_BYTES: usize = 480;
    let text = agentloop_contract::text::cut_bytes(text.trim(), MAX_BYTES);
    (!text.is_empty()).then_some(text)
}
