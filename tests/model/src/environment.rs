//! What is behind the handles: the view of one operator, and that of an uninstall.

use std::time::Duration;

use agentloop_core::decide::Action;
use agentloop_core::facts::Relation;
use agentloop_core::sync::{Decided, Environment, Gathered, Mark, OrphanEnvironment, UninstallEnvironment};
use jiff::SignedDuration;

use crate::api::{
    Attempt, Deletion, KnownConfiguration, ModelPod, ModelPodId, ModelPvc, StatusId, TaskVersion,
    WorkspacePolicy,
};
use crate::decision::{self, Decider, DecisionInput};
use crate::handles::Modelled;
use crate::state::ModelOperator;
use crate::statuses::active_attempt;
use crate::variants::Variant;

/// What one operator sees.
pub struct OperatorView<'a> {
    decider: &'a Decider,
    release: u8,
    pods: &'a [ModelPod],
}

impl<'a> OperatorView<'a> {
    pub fn of(decider: &'a Decider, operator: &'a ModelOperator) -> Self {
        Self { decider, release: operator.release, pods: &operator.pods }
    }

    fn variant(&self) -> Variant {
        self.decider.variant
    }
}

impl Environment<Modelled> for OperatorView<'_> {
    fn decide(&self, gathered: &Gathered<'_, Modelled>) -> Decided<Modelled> {
        let Some(task) = gathered.task.task else {
            return Decided { status: None, actions: Vec::new(), requeue_after: None };
        };
        let decision = self.decider.decide(DecisionInput {
            release: self.release,
            task,
            pods: gathered.pods.to_vec(),
            configuration: *gathered.configuration,
            previous_pod: gathered.previous_pod.clone(),
            refused: gathered.refused.cloned(),
            was_started: gathered.was_started,
            pod_is_gone: gathered.pod_is_gone,
            pvc_is_checked: gathered.pvc_is_checked,
        });
        Decided {
            status: decision.status,
            actions: decision.actions.clone(),
            requeue_after: decision.timer.then_some(Duration::ZERO),
        }
    }

    fn cached_pods(&self, task: &TaskVersion) -> Vec<ModelPod> {
        let uid = task.task.map(|task| task.uid);
        self.pods.iter().filter(|pod| Some(pod.of.task) == uid).copied().collect()
    }

    fn silent_pod(&self, _: &TaskVersion, _: &[ModelPod]) -> Option<ModelPodId> {
        None
    }

    fn is_newer_task(&self, one: &TaskVersion, other: &TaskVersion) -> bool {
        let uid = |read: &TaskVersion| read.task.map(|task| task.uid);
        uid(one) == uid(other) && one.version > other.version
    }

    fn generation(&self, task: &TaskVersion) -> i64 {
        task.task.map_or(0, |task| task.generation.into())
    }

    fn active(&self, task: &TaskVersion) -> Option<Attempt> {
        active_attempt(task.task.as_ref()?)
    }

    fn active_pod_name(&self, _: &TaskVersion) -> String {
        String::new()
    }

    fn may_start(&self, task: &TaskVersion, pod: &ModelPodId) -> bool {
        let is_broken = self.variant() == Variant::StartUnconfirmed;
        is_broken || task.task.is_some_and(|task| self.decider.may_start(self.release, &task, pod.of))
    }

    fn belongs_to(&self, pod: &ModelPod, task: &TaskVersion) -> bool {
        task.task.is_some_and(|task| task.uid == pod.of.task)
    }

    fn is_same_pod(&self, one: &ModelPod, other: &ModelPod) -> bool {
        one.uid == other.uid
    }

    fn is_newer_pod(&self, one: &ModelPod, other: &ModelPod) -> bool {
        one.version > other.version && self.variant() != Variant::OrphanAnswersKept
    }

    fn is_version_of(&self, pod: &ModelPod, id: &ModelPodId) -> bool {
        pod.uid == id.uid
    }

    fn relation(&self, task: &TaskVersion, pod: &ModelPod) -> Relation {
        task.task.map_or(Relation::Foreign, |task| self.decider.relation(&task, pod))
    }

    fn has_ended(&self, pod: &ModelPod) -> bool {
        pod.has_ended()
    }

    fn is_being_removed(&self, pod: &ModelPod) -> bool {
        pod.deletion != Deletion::No && !pod.has_finalizer
    }

    fn wants_pvc(&self, task: &TaskVersion) -> bool {
        task.task.is_some_and(|task| task.spec.workspace != WorkspacePolicy::None)
    }

    fn pvc_name(&self, _: &TaskVersion) -> String {
        String::new()
    }

    fn is_owner_settled(&self, task: &TaskVersion, pvc: &ModelPvc) -> bool {
        let Some(task) = task.task else { return true };
        let is_right = pvc.is_owned == (task.spec.workspace == WorkspacePolicy::Delete);
        match self.variant() {
            Variant::PvcOwnerByOlderSpec => is_right,
            _ => pvc.generation > task.generation || (pvc.generation == task.generation && is_right),
        }
    }

    fn mark_stale(&self, configuration: &mut KnownConfiguration) {
        configuration.consistent &= self.variant() == Variant::ConsistentReadOutlivesTaskRead;
    }

    fn now(&self) {}

    fn since(&self, (): &()) -> SignedDuration {
        SignedDuration::ZERO
    }

    fn is_late(&self) -> bool {
        false
    }
}

impl OrphanEnvironment<Modelled> for OperatorView<'_> {
    fn has_finalizer(&self, pod: &ModelPod) -> bool {
        pod.has_finalizer && self.variant() != Variant::OrphansCheckedOnce
    }

    fn reserved_for(&self, _: &ModelPod) -> Option<Duration> {
        None
    }

    fn stop(&self, pod: &ModelPod) -> Vec<Action<ModelPodId>> {
        decision::stop(pod)
    }
}

/// What an uninstall of a release sees.
pub struct UninstallView<'a> {
    pub decider: &'a Decider,
    pub release: u8,
}

impl UninstallEnvironment<Modelled> for UninstallView<'_> {
    fn mark(&self, read: &TaskVersion) -> Mark<StatusId> {
        match read.task {
            Some(task) => self.decider.mark(self.release, &task),
            None => Mark::AsItIs,
        }
    }

    fn id(&self, read: &TaskVersion) -> Option<u8> {
        read.task.map(|task| task.uid)
    }

    fn task_of(&self, pod: &ModelPodId) -> Option<u8> {
        Some(pod.of.task)
    }

    fn is_late(&self) -> bool {
        false
    }
}
