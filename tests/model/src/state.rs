//! A state of the modelled world.

use std::collections::BTreeMap;

use agentloop_core::sync::{
    Memory, OrphanMemory, OrphanRequest, OrphanSync, Request, TaskSync, UninstallRequest, UninstallSync,
};
use agentloop_test_support::invariants::Invariant;

use crate::api::{
    AgentRun, Attempt, KnownConfiguration, ModelPod, ModelPods, ModelPvc, PodExecution, TaskVersion,
    WriteRequest,
};
use crate::handles::Modelled;

/// A reconcile in progress: the operator's own machine, and its next request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PendingReconcile {
    pub sync: TaskSync<Modelled>,
    pub request: Request<Modelled>,
}

/// A check of an orphaned pod in progress: the operator's own machine, and its next request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PendingOrphanCheck {
    pub sync: OrphanSync<Modelled>,
    pub request: OrphanRequest<Modelled>,
}

/// An uninstall in progress: its own machine, and its next request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PendingUninstall {
    pub sync: UninstallSync<Modelled>,
    pub request: UninstallRequest<Modelled>,
    /// 1 once the tasks were listed, for the broken variants.
    pub lists: u8,
}

/// How far the uninstall is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UninstallProgress {
    NotBegun,
    Running(Box<PendingUninstall>),
    /// It reported success.
    Complete,
}

/// Whether an operator's process exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProcessState {
    NotInstalled,
    Running,
    Stopped,
}

/// One operator: its caches, its memory, its requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelOperator {
    pub process: ProcessState,
    /// Its release.
    pub release: u8,
    pub task: TaskVersion,
    pub pods: ModelPods,
    pub configuration: KnownConfiguration,
    /// What it remembers from one reconcile to the next.
    pub memory: Memory<Modelled>,
    /// Something has changed since its last reconcile.
    pub woken: bool,
    /// It will reconcile again after a while.
    pub timer: bool,
    pub reconcile: Option<Box<PendingReconcile>>,
    /// Pods whose task may be gone.
    pub orphans_to_check: Vec<u8>,
    /// Pods that are checked again after a while.
    pub orphans_to_recheck: Vec<u8>,
    pub orphan_check: Option<Box<PendingOrphanCheck>>,
    /// What it remembers of each pod from one check to the next, by the pod's uid.
    pub orphan_memories: BTreeMap<u8, OrphanMemory<Modelled>>,
}

impl ModelOperator {
    pub fn is_running(&self) -> bool {
        self.process == ProcessState::Running
    }
}

/// How many more faults of each kind, and user actions, may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Crashes of operators and of the uninstall.
    pub crashes: u8,
    /// Requests without an answer, carried out or not.
    pub lost: u8,
    /// Writes that the sender gives up on, and that are carried out much later.
    pub delayed: u8,
    /// Pods or PVCs that the API server refuses to create.
    pub refusals: u8,
    /// Patches of pods that the API server gives up on because other writes were faster.
    pub patch_conflicts: u8,
    pub user_actions: u8,
    /// Pods that end before their agents start.
    pub failed_starts: u8,
    /// Agents that end in another way than the usual one.
    pub odd_ends: u8,
    /// Nodes that go silent.
    pub silent_nodes: u8,
    /// Moments at which a replica of the API server stops following.
    pub frozen_replicas: u8,
    /// Answers that are forgotten before the caches have caught up.
    pub forgotten: u8,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelState {
    // The API server.
    pub task: TaskVersion,
    pub pods: ModelPods,
    pub pvcs: Vec<ModelPvc>,
    /// The version of the ConfigMap.
    pub config_map: u8,
    /// Writes whose senders gave up on them, and that are not carried out yet.
    pub delayed_writes: Vec<WriteRequest>,
    /// What a replica that stopped following still shows: a restarted operator may list from it.
    pub replica: Option<Box<(TaskVersion, ModelPods)>>,
    pub next_pod: u8,
    pub next_task: u8,

    // The nodes.
    pub executions: Vec<PodExecution>,

    pub operators: Vec<ModelOperator>,
    pub uninstall: UninstallProgress,
    pub budget: Budget,

    /// How many refused attempts at one iteration are free, in every version of the ConfigMap.
    pub free_attempts: u8,

    // What really happened, for the invariants.
    pub agent_runs: Vec<AgentRun>,
    /// The last attempt of each task that became active.
    pub last_started: Vec<Attempt>,
    pub violation: Option<(Invariant, &'static str)>,
}

impl ModelState {
    pub fn pod(&self, uid: u8) -> Option<&ModelPod> {
        self.pods.iter().find(|pod| pod.uid == uid)
    }

    /// The pod of this attempt's name.
    pub fn pod_named(&self, of: Attempt) -> Option<&ModelPod> {
        self.pods.iter().find(|pod| pod.of == of)
    }

    pub fn execution(&self, pod: u8) -> Option<&PodExecution> {
        self.executions.iter().find(|execution| execution.pod == pod)
    }

    /// Every version of the task that anyone knows, except the statuses of delayed writes.
    pub fn each_task(&mut self, mut f: impl FnMut(&mut TaskVersion)) {
        f(&mut self.task);
        self.replica.iter_mut().for_each(|replica| f(&mut replica.0));
        for ModelOperator { task, memory, reconcile, .. } in &mut self.operators {
            f(task);
            memory.answers().0.into_iter().for_each(&mut f);
            for PendingReconcile { sync, request } in reconcile.iter_mut().map(AsMut::as_mut) {
                f(sync.task_mut());
                if let Request::WriteStatus { task, .. } | Request::DeleteTask(task) = request {
                    f(task);
                }
            }
        }
        if let UninstallProgress::Running(uninstall) = &mut self.uninstall {
            uninstall.sync.tasks_mut().for_each(&mut f);
            if let UninstallRequest::WriteStatus { task, .. } | UninstallRequest::ReadTask(task) =
                &mut uninstall.request
            {
                f(task);
            }
        }
    }

    /// Versions are compared and never counted, so small ones do.
    pub fn renumber(&mut self) {
        let mut known: Vec<u8> = Vec::with_capacity(8);
        self.each_version(|version| known.push(*version));
        known.sort_unstable();
        known.dedup();
        self.each_version(|version| {
            let index = known.binary_search(version).unwrap_or_default();
            *version = u8::try_from(index).unwrap_or(u8::MAX);
        });
    }

    fn each_version(&mut self, mut f: impl FnMut(&mut u8)) {
        self.each_task(|task| f(&mut task.version));
        for request in &mut self.delayed_writes {
            if let WriteRequest::Status { version, .. } | WriteRequest::Mark { version, .. } = request {
                f(version);
            }
        }
    }
}
