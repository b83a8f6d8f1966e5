//! A state of the modelled world: small numbers only, so that millions fit into memory.

use std::sync::Arc;

use agentloop_core::sync::{self, Memory, OrphanRequest, OrphanSync, TaskSync};

use crate::handles::Modelled;
use agentloop_test_support::invariants::Invariant;

/// A status, by its place in the table of all statuses that were ever seen ([`crate::statuses`]).
pub type StatusId = u32;
/// An operator, by its place.
pub type Who = usize;

/// What a user can change in a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spec {
    /// `maxIterations`; 0 where it is absent.
    pub limit: u8,
    pub suspend: bool,
    /// `resetToken`; 0 where it is absent.
    pub token: u8,
    /// Which of several templates.
    pub template: u8,
    /// Which of several goals, and so what completes the task. It only grows.
    pub goal: u8,
    /// `podHistoryLimit`.
    pub keep: u8,
    pub workspace: Workspace,
}

/// The task, as one version of it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Task {
    pub uid: u8,
    pub generation: u8,
    pub spec: Spec,
    pub deleting: bool,
    pub status: StatusId,
}

/// A version of the task's name: of the task, or of its absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Read {
    pub version: u8,
    pub task: Option<Task>,
}

/// One attempt at an iteration of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(clippy::struct_field_names)] // its number is called so everywhere
pub struct Attempt {
    pub task: u8,
    pub iteration: u8,
    pub attempt: u8,
}

/// When a pod's deletion was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Deletion {
    No,
    Asked,
    /// So long ago that its node is called silent.
    LongAgo,
}

/// How a pod ended, as its status tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    /// The agent changed the workspace.
    Changed,
    /// The agent changed nothing.
    Unchanged,
    /// The agent changed something and ended in an error.
    Error,
    /// The gate says that the work is done.
    Ready,
    /// The provider refused, and nothing was touched: free.
    Refused,
    /// The provider refused, and only something was touched that does not count as a change: charged.
    Touched,
    /// The agent wrote a report that the work is done, and had its runner killed.
    Forged,
    /// An exit code that fails the task.
    Fatal,
    /// Told to stop.
    Interrupted,
    /// Killed with its container, without a report.
    Killed,
    /// The agent's container never started: free.
    NeverStarted,
    /// The pod garbage collector wrote the end: the node is gone.
    Collected,
}

/// What the API shows of a pod's progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shown {
    Pending,
    Running,
    Ended(End),
}

/// A pod, as the API shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(clippy::struct_excessive_bools)] // Kubernetes' facts, each for itself
pub struct Pod {
    pub uid: u8,
    /// Grows with each change.
    pub version: u8,
    /// The attempt that its name is made of.
    pub of: Attempt,
    /// Somebody else's: no owner, none of our labels.
    pub foreign: bool,
    pub gated: bool,
    pub held: bool,
    pub deletion: Deletion,
    pub bound: bool,
    pub template: u8,
    /// The goal that it was made from.
    pub goal: u8,
    pub shown: Shown,
}

/// Several pods; caches that hold the same share it.
pub type Pods = Arc<Vec<Pod>>;

/// What really happens on a pod's node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub pod: u8,
    pub agent: Agent,
    /// The node says nothing.
    pub silent: bool,
}

/// An agent on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Agent {
    NotYet,
    Runs,
    Over,
}

/// An agent that really ran, whatever anybody saw of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ran {
    pub of: Attempt,
    /// The goal that it was given.
    pub goal: u8,
    /// How it ended, as its kubelet told.
    pub end: Option<End>,
}

impl Ran {
    /// It is proven to have cost nothing.
    pub fn free(self) -> bool {
        self.end == Some(End::Refused)
    }
}

/// The operator's view of the ConfigMap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Settings {
    pub newest: u8,
    /// The last good one, counted from 1; 0: the defaults.
    pub last_good: u8,
    pub consistent: bool,
}

/// A pod, whatever its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodId {
    pub uid: u8,
    /// The attempt that its name is made of.
    pub of: Attempt,
}

/// The PVC of a task's workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pvc {
    /// The task that it was made for: its name has its uid in it.
    pub task: u8,
    /// Grows with each change.
    pub version: u8,
    /// The task owns it.
    pub is_owned: bool,
    /// The generation of the spec that its owner was set by.
    pub generation: u8,
}

/// What becomes of a task's PVC when the task is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Workspace {
    /// There is none.
    None,
    Retained,
    Deleted,
}

/// A reconcile under way: the operator's own machine, and what it asks for next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    pub sync: TaskSync<Modelled>,
    pub request: sync::Request<Modelled>,
}

/// An orphaned pod that is looked at, and what is asked for next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sweep {
    pub sync: OrphanSync<Modelled>,
    pub request: OrphanRequest<Modelled>,
}

/// One operator: its caches, what it remembers, what it does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Operator {
    /// Which release it is of.
    pub release: u8,
    pub task: Read,
    pub pods: Pods,
    pub settings: Settings,
    /// What it remembers from one reconcile to the next.
    pub memory: Memory<Modelled>,
    /// Something has changed since it last looked at the task.
    pub woken: bool,
    /// It will look again after a while.
    pub timer: bool,
    pub run: Option<Box<Run>>,
    /// Pods that the sweep has been told of.
    pub to_sweep: Vec<u8>,
    /// Pods that the sweep will look at again after a while.
    pub sweep_later: Vec<u8>,
    pub sweep: Option<Box<Sweep>>,
}

/// A write, with what it is guarded by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Request {
    /// The task's uid is told for traces only; the version guards.
    Status {
        uid: u8,
        version: u8,
        before: StatusId,
        after: StatusId,
    },
    Create {
        of: Attempt,
        template: u8,
        goal: u8,
    },
    Start {
        pod: u8,
        of: Attempt,
    },
    Hold {
        pod: u8,
        of: Attempt,
    },
    Delete {
        pod: u8,
        of: Attempt,
    },
    CreatePvc {
        task: u8,
        is_owned: bool,
        generation: u8,
    },
    SetPvcOwner {
        task: u8,
        version: u8,
        is_owned: bool,
        generation: u8,
    },
    Release {
        pod: u8,
        of: Attempt,
    },
}

/// How many more faults of each kind may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Operators that die.
    pub crashes: u8,
    /// Requests that get no answer, done or not.
    pub lost: u8,
    /// Writes that are given up on and done much later.
    pub delayed: u8,
    /// Pods that the API server refuses to create.
    pub refusals: u8,
    /// Patches of pods that the API server gives up on, because others kept overtaking them.
    pub overtaken: u8,
    /// Acts of users.
    pub acts: u8,
    /// Pods that end before their agents start.
    pub failed_starts: u8,
    /// Agents that end in another way than the usual one.
    pub odd_ends: u8,
    /// Nodes that go silent.
    pub silences: u8,
    /// Moments at which a replica of the API server stops following.
    pub snapshots: u8,
    /// Answers that are forgotten before the caches have caught up.
    pub forgotten: u8,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    // The API server.
    pub task: Read,
    pub pods: Pods,
    pub pvcs: Vec<Pvc>,
    pub settings: u8,
    /// Writes that nobody waits for any more, and that are not done yet.
    pub late: Vec<Request>,
    /// What a replica that follows no more still shows: a restarted operator may list from it.
    pub replica: Option<Box<(Read, Pods)>>,
    pub next_pod: u8,
    pub next_task: u8,

    // The nodes.
    pub places: Vec<Place>,

    pub operators: Vec<Operator>,
    pub budget: Budget,

    /// How many refused attempts at one iteration are free, in every version of the settings.
    pub free: u8,

    // What really happened, for the invariants.
    pub ran: Vec<Ran>,
    /// The last attempt that was claimed, of each task.
    pub claimed: Vec<Attempt>,
    pub broken: Option<(Invariant, &'static str)>,
}

impl Pod {
    /// As the API shows it: nothing of it runs or ever will.
    pub fn has_ended(&self) -> bool {
        matches!(self.shown, Shown::Ended(_)) || (self.deletion != Deletion::No && !self.bound)
    }

    /// Its status proves that it cost nothing.
    pub fn is_proven_free(&self) -> bool {
        self.has_ended()
            && (!self.bound || matches!(self.shown, Shown::Ended(End::NeverStarted | End::Refused)))
    }
}

impl State {
    pub fn pod(&self, uid: u8) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.uid == uid)
    }

    pub fn named(&self, of: Attempt) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.of == of)
    }

    pub fn place(&self, pod: u8) -> Option<&Place> {
        self.places.iter().find(|place| place.pod == pod)
    }

    /// Versions are compared and never counted: small ones do.
    pub fn renumber(&mut self) {
        let mut known: Vec<u8> = Vec::with_capacity(8);
        self.each_version(|version| known.push(*version));
        known.sort_unstable();
        known.dedup();
        self.each_version(|version| {
            let place = known.binary_search(version).unwrap_or_default();
            *version = u8::try_from(place).unwrap_or(u8::MAX);
        });
    }

    fn each_version(&mut self, mut f: impl FnMut(&mut u8)) {
        f(&mut self.task.version);
        for operator in &mut self.operators {
            f(&mut operator.task.version);
            operator.memory.answers().0.into_iter().for_each(|read| f(&mut read.version));
            if let Some(run) = &mut operator.run {
                f(&mut run.sync.task_mut().version);
                each_version_in(&mut run.request, &mut f);
            }
        }
        for request in &mut self.late {
            if let Request::Status { version, .. } = request {
                f(version);
            }
        }
        if let Some(replica) = &mut self.replica {
            f(&mut replica.0.version);
        }
    }
}

/// The versions of the task in what is asked for.
pub fn each_task_in(request: &mut sync::Request<Modelled>, mut f: impl FnMut(&mut Read)) {
    match request {
        sync::Request::WriteStatus { task, .. } | sync::Request::DeleteTask(task) => f(task),
        _ => {}
    }
}

fn each_version_in(request: &mut sync::Request<Modelled>, mut f: impl FnMut(&mut u8)) {
    each_task_in(request, |read| f(&mut read.version));
}
