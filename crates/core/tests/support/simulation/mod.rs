//! A simulation of one task: an API server in memory, an operator that drives the machine of `agentloop_core::sync`
//! with the rules of this crate, and users and kubelets that do what a test says. Every write is checked against the
//! protocol's invariants.

mod handles;
mod invariants;
mod operator;
mod outside;
mod perform;
mod server;

use std::collections::{BTreeMap, BTreeSet};

use agentloop_core::{
    api::{AgentTask, AgentTaskStatus, Phase, WaitReason},
    decide::served::Serving,
    facts::Obstacle,
    pod::Injection,
    settings::Configuration,
    sync::{Failure, Memory, OrphanMemory},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use serde_json::Value;

use super::{injection, start, task};
pub use handles::{CachedPod, Handle, Simulated};
pub use operator::{Call, server_error};
use operator::{Fault, Running};
use server::ApiServer;

/// What the operator's caches show, if they lag.
struct Cache {
    /// The task, if its cache lags as well.
    task: Option<AgentTask>,
    pods: Vec<Handle<CachedPod>>,
}

impl Cache {
    fn shows_end_of(&self, pod: &str) -> bool {
        self.pods.iter().any(|cached| cached.facts.name == pod && cached.facts.ended().is_some())
    }
}

pub struct Simulation {
    server: ApiServer,
    pub now: Timestamp,
    /// What the operator's cache shows of the ConfigMap, and what the API server has.
    pub cached: Configuration,
    pub real: Configuration,
    configurations: u64,
    /// What the API server answers to every request to create a pod.
    pub refusal: Option<Failure>,
    /// How the operator gets the runner into pods.
    pub injection: Injection,
    /// What Events report.
    pub events: Option<Obstacle>,
    /// Pods that were created, by iteration and attempt.
    pub created: Vec<(i32, i32)>,
    /// Agents that started.
    pub ran: BTreeSet<(i32, i32)>,
    /// Attempts that no one can prove to be free.
    pub charged: BTreeSet<(i32, i32)>,
    /// Attempts that are free only if the operator's cache still shows their pods.
    unsure: BTreeSet<(i32, i32)>,
    /// Writes of the status.
    pub writes: usize,
    /// When the operator reconciles again, even if nothing changes.
    pub requeue_at: Option<Timestamp>,
    /// The requests that the operator has sent.
    pub requests: Vec<Call>,
    /// From then on a reconcile has taken too long.
    pub late_from: Option<Timestamp>,
    pub memory: Memory<Simulated>,
    /// What the cleanup remembers of its writes, by the pods' uids.
    pub orphan_memories: BTreeMap<String, OrphanMemory<Simulated>>,
    serving: Serving,
    /// The other release that served the task when it was there.
    pub served_by: Option<String>,
    faults: Vec<(Call, Fault)>,
    running: Option<Running>,
    cache: Option<Cache>,
}

impl Simulation {
    /// The task dev/x with this in its spec.
    pub fn new(spec: &Value) -> Self {
        Self {
            server: ApiServer::new(task(spec)),
            now: start(),
            cached: Configuration::absent(),
            real: Configuration::absent(),
            configurations: 0,
            refusal: None,
            injection: injection(),
            events: None,
            created: Vec::new(),
            ran: BTreeSet::new(),
            charged: BTreeSet::new(),
            unsure: BTreeSet::new(),
            writes: 0,
            requeue_at: None,
            requests: Vec::new(),
            late_from: None,
            memory: Memory::default(),
            orphan_memories: BTreeMap::new(),
            serving: operator::serving(),
            served_by: None,
            faults: Vec::new(),
            running: None,
            cache: None,
        }
    }

    // === What tests read ===

    pub fn task(&self) -> &AgentTask {
        self.server.task()
    }

    pub fn is_task_gone(&self) -> bool {
        self.server.is_task_gone
    }

    pub fn status(&self) -> AgentTaskStatus {
        self.task().status.clone().unwrap_or_default()
    }

    pub fn phase(&self) -> Phase {
        self.status().phase.unwrap()
    }

    pub fn reason(&self) -> String {
        self.status().reason.unwrap_or_default()
    }

    pub fn message(&self) -> String {
        self.status().message.unwrap_or_default()
    }

    pub fn iterations(&self) -> i32 {
        self.status().iterations
    }

    pub fn waits_for(&self) -> Option<WaitReason> {
        self.status().waiting.map(|waiting| waiting.reason)
    }

    /// Seconds from now until the next try.
    pub fn seconds_until_retry(&self) -> i64 {
        let until = self.status().waiting.and_then(|waiting| waiting.retry_time).unwrap().0;
        until.duration_since(self.now).as_secs()
    }

    pub fn active(&self) -> Option<(i32, i32)> {
        self.status().active.map(|active| (active.iteration, active.attempt))
    }

    pub fn condition(&self, type_: &str) -> (String, String) {
        let found = self.status().conditions.into_iter().find(|c| c.type_ == type_).unwrap();
        (found.status, found.reason)
    }

    pub fn pods(&self) -> &[Pod] {
        self.server.pods()
    }

    /// The name of the active iteration's pod.
    pub fn pod_name(&self) -> String {
        self.status().active.expect("an iteration is active").pod_name
    }

    /// The active iteration's pod.
    pub fn pod(&self) -> &Pod {
        self.server.pod(&self.pod_name()).expect("its pod exists")
    }

    pub fn has_pod(&self) -> bool {
        let active = self.status().active;
        active.is_some_and(|active| self.server.pod(&active.pod_name).is_some())
    }

    /// The workspace's PVC.
    pub fn pvc(&self) -> Option<&PersistentVolumeClaim> {
        let name = agentloop_core::pod::pvc_name(&self.task().name_any(), &self.task().uid().unwrap());
        self.server.pvc(&name).ok()
    }

    // === What tests change directly ===

    pub fn task_mut(&mut self) -> &mut AgentTask {
        self.server.task_mut()
    }

    pub fn pods_mut(&mut self) -> &mut Vec<Pod> {
        self.server.pods_mut()
    }

    /// The active iteration's pod.
    pub fn pod_mut(&mut self) -> &mut Pod {
        let name = self.pod_name();
        self.server.pod_mut(&name).expect("its pod exists")
    }
}
