//! Answers the machine's questions from the caches.

use std::time::Duration;

use agentloop_core::api::{ActiveIteration, AgentTask};
use agentloop_core::decide::served::{Served, Serving};
use agentloop_core::decide::{self, Action, Observed, PodRef};
use agentloop_core::facts::{PodFacts, Relation};
use agentloop_core::pod;
use agentloop_core::settings::Configuration;
use agentloop_core::sync::{Decided, Environment, Gathered, OrphanEnvironment};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Resource, ResourceExt};
use tokio::time::Instant;
use tracing::warn;

use super::cached_pod::CachedPod;
use super::handles::{Handle, Live};
use super::scope::WatchScope;

/// The resourceVersion as a number: those of one kind of object can be compared (KEP-5504).
fn version(task: &AgentTask) -> Option<u64> {
    task.metadata.resource_version.as_deref()?.parse().ok()
}

/// Whether a version is greater than the other. An unknown version is never newer.
fn is_newer(one: Option<u64>, other: Option<u64>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one > other)
}

/// The caches, for one reconcile or one check of an orphan.
pub(super) struct Caches<'a> {
    scope: &'a WatchScope,
    /// The reconcile begins nothing new after this time.
    late_from: Instant,
}

impl<'a> Caches<'a> {
    pub(super) fn new(scope: &'a WatchScope) -> Self {
        Self { scope, late_from: Instant::now() + scope.context.no_new_steps_after }
    }

    fn serving(&self) -> &Serving {
        &self.scope.context.serving
    }
}

impl Environment<Live> for Caches<'_> {
    fn decide(&self, gathered: &Gathered<'_, Live>) -> Decided<Live> {
        let (context, task) = (&self.scope.context, &gathered.task.0);
        let pods: Vec<PodFacts> = gathered.pods.iter().map(|pod| pod.facts.clone()).collect();
        let injection = context.injection.get();
        let observed = Observed {
            task,
            pods: &pods,
            configuration: gathered.configuration,
            injection: &injection,
            obstacle: gathered.obstacle.cloned(),
            previous_pod: gathered.previous_pod.clone(),
            refused: gathered.refused.cloned(),
            was_started: gathered.was_started,
            is_gone: gathered.pod_is_gone,
            pvc_is_checked: gathered.pvc_is_checked,
            now: Timestamp::now(),
        };
        let uid = task.uid().unwrap_or_default();
        let decision = match context.serving.decide(&observed, context.rules.decide) {
            Served::Here(decision) => {
                self.scope.elsewhere.forget(&uid);
                decision
            }
            Served::Elsewhere { release, decision } => {
                if self.scope.elsewhere.note(&uid, &release) {
                    warn!(release, "another release serves this task; leaving it alone");
                    context
                        .events
                        .publish(task.object_ref(&()), context.serving.served_by_another_event(&release));
                }
                decision
            }
        };
        Decided {
            status: decision.status.map(Handle::new),
            actions: decision.actions,
            requeue_after: decision.requeue_after,
        }
    }

    fn cached_pods(&self, task: &Handle<AgentTask>) -> Vec<Handle<CachedPod>> {
        self.scope.pods.of_task(&task.uid().unwrap_or_default()).into_iter().map(Handle).collect()
    }

    fn silent_pod(&self, task: &Handle<AgentTask>, pods: &[Handle<CachedPod>]) -> Option<PodRef> {
        if self.serving().other_release(task).is_some() {
            return None;
        }
        let now = Timestamp::now();
        let active = pods.iter().find(|pod| pod.facts.relation(task) == Relation::Active)?;
        active.facts.is_silent_for(now).map(|_| PodRef::from(&active.facts))
    }

    fn is_newer_task(&self, one: &Handle<AgentTask>, other: &Handle<AgentTask>) -> bool {
        one.meta().uid == other.meta().uid && is_newer(version(one), version(other))
    }

    fn generation(&self, task: &Handle<AgentTask>) -> i64 {
        task.metadata.generation.unwrap_or_default()
    }

    fn active(&self, task: &Handle<AgentTask>) -> Option<ActiveIteration> {
        task.status.as_ref()?.active.clone()
    }

    fn active_pod_name(&self, task: &Handle<AgentTask>) -> String {
        self.active(task).map(|active| active.pod_name).unwrap_or_default()
    }

    fn may_start(&self, task: &Handle<AgentTask>, pod: &PodRef) -> bool {
        decide::may_start(task, &pod.name, self.serving())
    }

    fn belongs_to(&self, pod: &Handle<CachedPod>, task: &Handle<AgentTask>) -> bool {
        pod.facts.task_uid == task.uid()
    }

    fn is_same_pod(&self, one: &Handle<CachedPod>, other: &Handle<CachedPod>) -> bool {
        one.facts.uid == other.facts.uid
    }

    fn is_newer_pod(&self, one: &Handle<CachedPod>, other: &Handle<CachedPod>) -> bool {
        is_newer(one.version, other.version)
    }

    fn is_version_of(&self, pod: &Handle<CachedPod>, id: &PodRef) -> bool {
        pod.facts.uid == id.uid
    }

    fn relation(&self, task: &Handle<AgentTask>, pod: &Handle<CachedPod>) -> Relation {
        pod.facts.relation(task)
    }

    fn has_ended(&self, pod: &Handle<CachedPod>) -> bool {
        pod.facts.ended().is_some()
    }

    fn is_being_removed(&self, pod: &Handle<CachedPod>) -> bool {
        pod.facts.deletion.is_some() && !pod.has_finalizers
    }

    fn wants_pvc(&self, task: &Handle<AgentTask>) -> bool {
        task.spec.workspace.volume_claim_template.is_some()
    }

    fn pvc_name(&self, task: &Handle<AgentTask>) -> String {
        pod::pvc_name(&task.name_any(), &task.uid().unwrap_or_default())
    }

    fn is_owner_settled(&self, task: &Handle<AgentTask>, pvc: &Handle<PersistentVolumeClaim>) -> bool {
        pod::is_pvc_owner_settled(task, &pvc.metadata)
    }

    fn mark_stale(&self, configuration: &mut Handle<Configuration>) {
        if configuration.consistent {
            *configuration = Handle::new(Configuration { consistent: false, ..(*configuration.0).clone() });
        }
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn since(&self, time: &Instant) -> SignedDuration {
        SignedDuration::try_from(time.elapsed()).unwrap_or(SignedDuration::MAX)
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.late_from
    }
}

impl OrphanEnvironment<Live> for Caches<'_> {
    fn has_finalizer(&self, pod: &Handle<CachedPod>) -> bool {
        pod.facts.has_finalizer
    }

    fn reserved_for(&self, pod: &Handle<CachedPod>) -> Option<Duration> {
        let served_by = self.scope.elsewhere.of(pod.facts.task_uid.as_deref().unwrap_or_default());
        self.serving().pod_reserved_for(served_by.as_deref(), &pod.facts, Timestamp::now())
    }

    fn stop(&self, pod: &Handle<CachedPod>) -> Vec<Action> {
        (self.scope.context.rules.stop_all)(std::slice::from_ref(&pod.facts)).actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(version: Option<&str>) -> AgentTask {
        let mut task = AgentTask::new("t", agentloop_core::api::AgentTaskSpec::default());
        task.metadata.resource_version = version.map(str::to_owned);
        task
    }

    #[test]
    fn only_a_version_that_is_known_to_be_greater_is_newer() {
        let is_newer = |one, other| is_newer(version(&task(one)), version(&task(other)));
        assert!(is_newer(Some("10"), Some("9")), "versions are numbers");
        assert!(!is_newer(Some("9"), Some("10")));
        assert!(!is_newer(Some("9"), Some("9")));
        for unknown in [None, Some("opaque")] {
            assert!(!is_newer(Some("9"), unknown) && !is_newer(unknown, Some("9")), "{unknown:?}");
        }
    }
}
