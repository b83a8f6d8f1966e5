//! The handles by which the operator's machine names the objects of the modelled world, and what is behind them.

use std::time::Duration;

use agentloop_core::decide::Action;
use agentloop_core::facts::Relation;
use agentloop_core::sync::{Decided, Environment, Gathered, Handles, OrphanEnvironment};
use jiff::SignedDuration;

use crate::decision::{self, Decider, Question};
use crate::state::{Attempt, Operator, Pod, PodId, Pvc, Read, Settings, StatusId, Task, Workspace};
use crate::statuses;
use crate::variants::Variant;

/// Names modelled objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Modelled;

impl Handles for Modelled {
    type Task = Read;
    type Status = StatusId;
    type Active = Attempt;
    type Pod = Pod;
    type PodId = PodId;
    type Pvc = Pvc;
    type Configuration = Settings;
    type Time = ();
}

/// What one operator sees.
pub struct Sight<'a> {
    pub decider: &'a Decider,
    pub release: u8,
    pub pods: &'a [Pod],
}

impl<'a> Sight<'a> {
    pub fn of(decider: &'a Decider, operator: &'a Operator) -> Self {
        Self { decider, release: operator.release, pods: &operator.pods }
    }

    fn variant(&self) -> Variant {
        self.decider.variant
    }
}

impl From<&Pod> for PodId {
    fn from(pod: &Pod) -> Self {
        Self { uid: pod.uid, of: pod.of }
    }
}

/// The attempt that a task's status shows as active.
pub fn active(task: &Task) -> Option<Attempt> {
    let (iteration, attempt) = statuses::get(task.status).active?;
    Some(Attempt { task: task.uid, iteration, attempt })
}

impl Environment<Modelled> for Sight<'_> {
    fn decide(&self, gathered: &Gathered<'_, Modelled>) -> Decided<Modelled> {
        let Some(task) = gathered.task.task else {
            return Decided { status: None, actions: Vec::new(), requeue_after: None };
        };
        let answer = self.decider.ask(Question {
            release: self.release,
            task,
            pods: gathered.pods.to_vec(),
            settings: *gathered.configuration,
            previous_pod: gathered.previous_pod.clone(),
            rejected: gathered.refused.cloned(),
            was_started: gathered.was_started,
            pod_is_gone: gathered.pod_is_gone,
            pvc_is_checked: gathered.pvc_is_checked,
        });
        Decided {
            status: answer.status,
            actions: answer.actions.clone(),
            requeue_after: answer.timer.then_some(Duration::ZERO),
        }
    }

    fn cached_pods(&self, task: &Read) -> Vec<Pod> {
        let uid = task.task.map(|task| task.uid);
        self.pods.iter().filter(|pod| Some(pod.of.task) == uid).copied().collect()
    }

    fn silent_pod(&self, _: &Read, _: &[Pod]) -> Option<PodId> {
        None
    }

    fn is_newer_task(&self, one: &Read, other: &Read) -> bool {
        let uid = |read: &Read| read.task.map(|task| task.uid);
        uid(one) == uid(other) && one.version > other.version
    }

    fn generation(&self, task: &Read) -> i64 {
        task.task.map_or(0, |task| task.generation.into())
    }

    fn active(&self, task: &Read) -> Option<Attempt> {
        active(task.task.as_ref()?)
    }

    fn active_pod_name(&self, _: &Read) -> String {
        String::new()
    }

    fn may_start(&self, task: &Read, pod: &PodId) -> bool {
        let is_broken = self.variant() == Variant::StartUnconfirmed;
        is_broken || task.task.is_some_and(|task| self.decider.may_start(self.release, &task, pod.of))
    }

    fn belongs_to(&self, pod: &Pod, task: &Read) -> bool {
        task.task.is_some_and(|task| task.uid == pod.of.task)
    }

    fn is_same_pod(&self, one: &Pod, other: &Pod) -> bool {
        one.uid == other.uid
    }

    fn is_newer_pod(&self, one: &Pod, other: &Pod) -> bool {
        one.version > other.version
    }

    fn is_version_of(&self, pod: &Pod, id: &PodId) -> bool {
        pod.uid == id.uid
    }

    fn relation(&self, task: &Read, pod: &Pod) -> Relation {
        task.task.map_or(Relation::Foreign, |task| self.decider.relation(&task, pod))
    }

    fn has_ended(&self, pod: &Pod) -> bool {
        pod.has_ended()
    }

    fn is_being_removed(&self, pod: &Pod) -> bool {
        pod.deletion != crate::state::Deletion::No && !pod.held
    }

    fn wants_pvc(&self, task: &Read) -> bool {
        task.task.is_some_and(|task| task.spec.workspace != Workspace::None)
    }

    fn pvc_name(&self, _: &Read) -> String {
        String::new()
    }

    fn is_owner_settled(&self, task: &Read, pvc: &Pvc) -> bool {
        let Some(task) = task.task else { return true };
        let is_right = pvc.is_owned == (task.spec.workspace == Workspace::Deleted);
        match self.variant() {
            Variant::PvcGoesBack => is_right,
            _ => pvc.generation > task.generation || (pvc.generation == task.generation && is_right),
        }
    }

    fn mark_stale(&self, settings: &mut Settings) {
        settings.consistent &= self.variant() == Variant::ConsistentAcrossReads;
    }

    fn now(&self) {}

    fn since(&self, (): &()) -> SignedDuration {
        SignedDuration::ZERO
    }

    fn is_late(&self) -> bool {
        false
    }
}

impl OrphanEnvironment<Modelled> for Sight<'_> {
    fn has_finalizer(&self, pod: &Pod) -> bool {
        pod.held && self.variant() != Variant::SweepLooksOnce
    }

    fn reserved_for(&self, _: &Pod) -> Option<Duration> {
        None
    }

    fn stop(&self, pod: &Pod) -> Vec<Action<PodId>> {
        decision::stop(pod)
    }
}
