//! The objects of a simulation, as the operator's machine names them, and what the operator knows about them.

use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use agentloop_core::{
    api::{ActiveIteration, AgentTask, AgentTaskStatus},
    decide::{
        Action, Observed, PodRef, decide, may_start,
        served::{Served, Serving},
        stop_all,
    },
    facts::{PodFacts, Relation},
    pod::{self, Injection},
    settings::Configuration,
    sync::{Decided, Environment, Gathered, Handles, OrphanEnvironment},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{Resource, ResourceExt};

/// One version of an object. Two handles are equal if they share it.
#[derive(Debug)]
pub struct Handle<T>(Arc<T>);

impl<T> Handle<T> {
    pub fn new(object: T) -> Self {
        Self(Arc::new(object))
    }
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Handle<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> PartialEq for Handle<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Eq for Handle<T> {}

impl<T> Hash for Handle<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// One version of a pod, as the operator's cache keeps it.
#[derive(Debug)]
pub struct CachedPod {
    pub facts: PodFacts,
    pub version: u64,
    pub has_finalizers: bool,
}

impl From<&Pod> for CachedPod {
    fn from(pod: &Pod) -> Self {
        Self {
            facts: PodFacts::of(pod),
            version: version(pod),
            has_finalizers: pod.metadata.finalizers.iter().flatten().count() > 0,
        }
    }
}

/// An object's resourceVersion.
pub fn version<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().map_or(0, |version| version.parse().unwrap())
}

/// Names simulated objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Simulated;

impl Handles for Simulated {
    type Task = Handle<AgentTask>;
    type Status = Handle<AgentTaskStatus>;
    type Active = ActiveIteration;
    type Pod = Handle<CachedPod>;
    type PodId = PodRef;
    type Pvc = Handle<PersistentVolumeClaim>;
    type Configuration = Handle<Configuration>;
    type Time = Timestamp;
}

/// What the operator knows without asking the API server.
pub struct Known<'a> {
    /// The pods in its cache.
    pub pods: Vec<Handle<CachedPod>>,
    pub injection: &'a Injection,
    pub serving: &'a Serving,
    /// The other release that served the task when it was there.
    pub served_by: Option<&'a str>,
    pub now: Timestamp,
    /// From then on a reconcile has taken too long.
    pub late_from: Option<Timestamp>,
}

impl Environment<Simulated> for Known<'_> {
    fn decide(&self, gathered: &Gathered<'_, Simulated>) -> Decided<Simulated> {
        let pods: Vec<PodFacts> = gathered.pods.iter().map(|pod| pod.facts.clone()).collect();
        let observed = Observed {
            task: gathered.task,
            pods: &pods,
            configuration: gathered.configuration,
            injection: self.injection,
            obstacle: gathered.obstacle.cloned(),
            previous_pod: gathered.previous_pod.clone(),
            refused: gathered.refused.cloned(),
            was_started: gathered.was_started,
            is_gone: gathered.pod_is_gone,
            pvc_is_checked: gathered.pvc_is_checked,
            now: self.now,
        };
        let (Served::Here(decision) | Served::Elsewhere { decision, .. }) =
            self.serving.decide(&observed, decide);
        let needs_a_read = decision.actions.iter().any(Action::is_a_read);
        assert!(!needs_a_read || decision.status.is_none(), "nothing is written before it is read");
        Decided {
            status: decision.status.map(Handle::new),
            actions: decision.actions,
            requeue_after: decision.requeue_after,
        }
    }

    fn cached_pods(&self, task: &Handle<AgentTask>) -> Vec<Handle<CachedPod>> {
        self.pods.iter().filter(|pod| self.belongs_to(pod, task)).cloned().collect()
    }

    fn silent_pod(&self, task: &Handle<AgentTask>, pods: &[Handle<CachedPod>]) -> Option<PodRef> {
        let active = pods.iter().find(|pod| pod.facts.relation(task) == Relation::Active)?;
        active.facts.is_silent_for(self.now).map(|_| PodRef::from(&active.facts))
    }

    fn is_newer_task(&self, one: &Handle<AgentTask>, other: &Handle<AgentTask>) -> bool {
        one.uid() == other.uid() && version(&**one) > version(&**other)
    }

    fn generation(&self, task: &Handle<AgentTask>) -> i64 {
        task.metadata.generation.unwrap()
    }

    fn active(&self, task: &Handle<AgentTask>) -> Option<ActiveIteration> {
        task.status.as_ref()?.active.clone()
    }

    fn active_pod_name(&self, task: &Handle<AgentTask>) -> String {
        self.active(task).unwrap().pod_name
    }

    fn may_start(&self, task: &Handle<AgentTask>, pod: &PodRef) -> bool {
        may_start(task, &pod.name, self.serving)
    }

    fn belongs_to(&self, pod: &Handle<CachedPod>, task: &Handle<AgentTask>) -> bool {
        pod.facts.task_uid == task.uid()
    }

    fn is_same_pod(&self, one: &Handle<CachedPod>, other: &Handle<CachedPod>) -> bool {
        one.facts.uid == other.facts.uid
    }

    fn is_newer_pod(&self, one: &Handle<CachedPod>, other: &Handle<CachedPod>) -> bool {
        one.version > other.version
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
        pod::pvc_name(&task.name_any(), &task.uid().unwrap())
    }

    fn is_owner_settled(&self, task: &Handle<AgentTask>, pvc: &Handle<PersistentVolumeClaim>) -> bool {
        pod::is_pvc_owner_settled(task, &pvc.metadata)
    }

    fn mark_stale(&self, configuration: &mut Handle<Configuration>) {
        *configuration = Handle::new(Configuration { consistent: false, ..(**configuration).clone() });
    }

    fn now(&self) -> Timestamp {
        self.now
    }

    fn since(&self, time: &Timestamp) -> SignedDuration {
        self.now.duration_since(*time)
    }

    fn is_late(&self) -> bool {
        self.late_from.is_some_and(|late| self.now >= late)
    }
}

impl OrphanEnvironment<Simulated> for Known<'_> {
    fn has_finalizer(&self, pod: &Handle<CachedPod>) -> bool {
        pod.facts.has_finalizer
    }

    fn reserved_for(&self, pod: &Handle<CachedPod>) -> Option<Duration> {
        self.serving.pod_reserved_for(self.served_by, &pod.facts, self.now)
    }

    fn stop(&self, pod: &Handle<CachedPod>) -> Vec<Action> {
        stop_all(std::slice::from_ref(&pod.facts)).actions
    }
}
