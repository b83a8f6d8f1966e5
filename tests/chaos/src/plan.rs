//! A plan: one task, what its agents do, and everything that goes wrong meanwhile.
//!
//! A plan depends only on a seed and a number; `Plan::of` generates it. Faults happen at moments that the operator or the
//! kubelet reaches, never at a time, so that a plan that found a bug finds it again.

use std::collections::BTreeMap;
use std::fmt;

/// A task, its surroundings, and their faults.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed of its random choices.
    pub seed: u64,
    /// Which of the seed's plans it is.
    pub number: u64,
    /// What it tests.
    pub kind: PlanKind,
    /// What the user asks for.
    pub task: PlannedTask,
    /// What the agent of each iteration does. Later ones change something.
    pub works: Vec<AgentWork>,
    /// The fault of the pod of an iteration's first attempt.
    pub pod_faults: BTreeMap<i32, PodFault>,
    /// How many operators work from the start.
    pub operators: usize,
    /// Whether the operators share a Lease, as installed ones do.
    pub lease: bool,
    /// How many seconds the first operator's clock is ahead.
    pub clock: i64,
    /// The faults, and when each happens.
    pub faults: Vec<PlannedFault>,
}

/// What the user asks for.
#[derive(Clone, Copy, Debug)]
pub struct PlannedTask {
    /// `spec.maxIterations`.
    pub limit: i32,
    /// `spec.breaker.noChangeThreshold`.
    pub no_change: i32,
    /// `spec.breaker.sameErrorThreshold`.
    pub same_error: i32,
    /// `spec.podHistoryLimit`.
    pub history_limit: i32,
}

/// The exit code in `spec.failOnExitCodes` of every plan.
pub const FATAL: i32 = 42;

/// What an agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentWork {
    /// Changes the workspace and exits 0.
    Changed,
    /// Changes nothing and exits 0.
    Unchanged,
    /// Changes the workspace and ends in this error.
    Error(u8),
    /// Changes the workspace and reports that the work is done.
    Ready,
    /// Is refused by the provider at its first attempt, and changes the workspace at the next.
    Refused,
    /// Exits with [`FATAL`].
    Fatal,
}

/// A fault of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodFault {
    /// The kubelet reports nothing before the end.
    Late,
    /// The agent takes a while to stop.
    Slow,
    /// An init container fails: the agent never starts.
    NeverStarted,
    /// The kubelet evicts the pod while the agent runs.
    Evicted,
    /// The container is killed for memory and leaves no report.
    Killed,
    /// The node becomes unreachable while the agent runs; the pod is deleted and later collected as garbage.
    NodeLost,
}

/// A fault and its moment.
#[derive(Clone, Debug)]
pub struct PlannedFault {
    /// When it happens.
    pub at: Moment,
    /// The fault.
    pub fault: InjectedFault,
}

/// A kind of request. Leases and Events do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RequestKind {
    /// Any write.
    Write,
    /// Any read of an object or a list, but not a watch.
    Read,
    /// A status write.
    Status,
    /// The creation of a pod.
    Create,
    /// The patch that removes the scheduling gate.
    RemoveSchedulingGate,
    /// The patch that removes the finalizer.
    RemoveFinalizer,
}

/// A moment in the life of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The n-th request of this kind has arrived at the proxy and is not passed on yet.
    Before(RequestKind, u32),
    /// The request was carried out, and the response is on its way.
    After(RequestKind, u32),
    /// The agent of this iteration runs.
    Running(i32),
    /// The task has stopped for the n-th time, and no fault is in progress.
    Stopped(u32),
}

/// A fault that the nemesis injects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InjectedFault {
    /// The operator that sent the request is killed and started again.
    Kill,
    /// The same, but its first lists of tasks and pods are those of the last [`InjectedFault::KeepLists`], and its watches
    /// are delayed by a second.
    KillAndServeStaleLists,
    /// The current lists of tasks and pods are kept, as in a server that falls behind from now on.
    KeepLists,
    /// The response is lost.
    Lose,
    /// The request is refused with this code and not carried out.
    Refuse(u16),
    /// Every status write is refused with this code for this many milliseconds, and the operator's requests are
    /// counted.
    RefuseStatuses(u16, u64),
    /// The request gets no response and is not carried out.
    Stall,
    /// The request is carried out much later, and the operator gets no response.
    Defer(Until, Meanwhile),
    /// The creation is carried out after its iteration is over and its pod is gone, and an operator that starts at that
    /// moment is served earlier lists.
    DelayCreate,
    /// The request or its response is delayed for a while.
    Pause(Until),
    /// The operator's process is stopped for a while.
    Freeze(Until),
    /// All watches end.
    CutWatches,
    /// All watches end with 410 Gone.
    ExpireWatches,
    /// All watches are delayed by this many milliseconds from now on.
    DelayWatches(u64),
    /// All traffic is blocked for this many milliseconds.
    CutNetwork(u64),
    /// A second operator starts.
    StartSecondOperator,
    /// The operator's clock steps to this many seconds ahead.
    Clock(i64),
    /// The user does something.
    User(UserAction),
}

/// How long something is delayed: at most ten seconds, or two minutes for [`InjectedFault::Defer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// For this many milliseconds.
    Millis(u64),
    /// Until the task has advanced by an iteration or an attempt, or has stopped.
    MovedOn,
    /// Until the task has stopped.
    Stopped,
    /// Until this many more writes have arrived.
    Writes(u32),
}

/// What happens to the operator whose request is deferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meanwhile {
    /// Its connection breaks immediately.
    Cut,
    /// It waits until its own timeout.
    Wait,
    /// It is killed and started again.
    Kill,
}

/// What the user does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserAction {
    /// Sets `maxIterations`.
    Limit(i32),
    /// Suspends the task, and resumes it once it is suspended.
    Suspend,
    /// Sets a new `resetToken`.
    Token,
    /// Deletes the task.
    Delete,
    /// Deletes the task and creates it again.
    Recreate,
    /// Deletes the newest pod, by force if true.
    DeletePod(bool),
    /// Creates a foreign pod with the name that the operator is about to use, and deletes it later.
    ForeignPod,
}

/// What a plan tests; the report counts plans by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the printed names are the documentation")]
pub enum PlanKind {
    Calm,
    KillBefore,
    KillAfter,
    KillTwice,
    LostAnswer,
    RefusedWrite,
    RefusedForLong,
    RefusedRead,
    DeferredCreate,
    DeferredWrite,
    DeferredForMinutes,
    Watches,
    StaleLists,
    DelayedCreate,
    Network,
    Freeze,
    FreezeAndSecond,
    TwoOperators,
    Takeover,
    Clock,
    Limit,
    Suspend,
    Token,
    Delete,
    Recreate,
    DeletedPod,
    Kubelet,
    ForeignPod,
    Mixed,
}

impl PlanKind {
    /// Its name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Calm => "no fault",
            Self::KillBefore => "killed before a write",
            Self::KillAfter => "killed after a write",
            Self::KillTwice => "killed at two writes",
            Self::LostAnswer => "response lost",
            Self::RefusedWrite => "write refused or timed out",
            Self::RefusedForLong => "status refused for a while",
            Self::RefusedRead => "read refused or timed out",
            Self::DeferredCreate => "creation arrives late",
            Self::DeferredWrite => "write arrives late",
            Self::DeferredForMinutes => "creation arrives minutes late",
            Self::Watches => "watches cut or late",
            Self::StaleLists => "stale lists after a restart",
            Self::DelayedCreate => "late creation and stale lists",
            Self::Network => "network cut",
            Self::Freeze => "frozen and thawed",
            Self::FreezeAndSecond => "frozen while another works",
            Self::TwoOperators => "two operators without a Lease",
            Self::Takeover => "Lease taken over",
            Self::Clock => "clock steps",
            Self::Limit => "limit changed",
            Self::Suspend => "suspended and resumed",
            Self::Token => "reset token",
            Self::Delete => "task deleted",
            Self::Recreate => "task deleted and created again",
            Self::DeletedPod => "pod deleted by hand",
            Self::Kubelet => "kubelet and node",
            Self::ForeignPod => "foreign pod",
            Self::Mixed => "several at once",
        }
    }
}

impl InjectedFault {
    /// Its name in reports.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillAndServeStaleLists => "kill, stale lists",
            Self::KeepLists => "lists kept",
            Self::Lose => "response lost",
            Self::Refuse(409) => "refused with 409",
            Self::Refuse(429) => "refused with 429",
            Self::Refuse(500) => "refused with 500",
            Self::Refuse(_) => "refused with 503",
            Self::RefuseStatuses(..) => "statuses refused for a while",
            Self::Stall => "timed out",
            Self::Defer(..) => "carried out late",
            Self::DelayCreate => "carried out late, stale lists",
            Self::Pause(_) => "request paused",
            Self::Freeze(_) => "process frozen",
            Self::CutWatches => "watches cut",
            Self::ExpireWatches => "watches expired",
            Self::DelayWatches(_) => "watches late",
            Self::CutNetwork(_) => "network cut",
            Self::StartSecondOperator => "second operator",
            Self::Clock(_) => "clock stepped",
            Self::User(act) => match act {
                UserAction::Limit(_) => "user: limit",
                UserAction::Suspend => "user: suspend and resume",
                UserAction::Token => "user: reset token",
                UserAction::Delete => "user: delete",
                UserAction::Recreate => "user: delete and create",
                UserAction::DeletePod(false) => "user: delete the pod",
                UserAction::DeletePod(true) => "user: delete the pod by force",
                UserAction::ForeignPod => "user: a pod of the same name",
            },
        }
    }

    /// Whether it stops the running pod.
    pub fn stops_the_pod(&self) -> bool {
        matches!(
            self,
            Self::User(
                UserAction::Suspend | UserAction::Delete | UserAction::Recreate | UserAction::DeletePod(_)
            )
        )
    }
}

impl PodFault {
    /// Its name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Late => "kubelet: late status",
            Self::Slow => "kubelet: agent slow to stop",
            Self::NeverStarted => "kubelet: agent never started",
            Self::Evicted => "kubelet: evicted",
            Self::Killed => "kubelet: killed without a report",
            Self::NodeLost => "node lost, garbage collected",
        }
    }
}

impl Plan {
    /// What the agent of an attempt does.
    pub fn work(&self, iteration: i32, attempt: i32) -> AgentWork {
        let at = usize::try_from(iteration.saturating_sub(1)).unwrap_or(0);
        match self.works.get(at).copied().unwrap_or(AgentWork::Changed) {
            AgentWork::Refused if attempt > 0 => AgentWork::Changed,
            work => work,
        }
    }

    /// The fault of an attempt's pod.
    pub fn pod_fault(&self, iteration: i32, attempt: i32) -> Option<PodFault> {
        self.pod_faults.get(&iteration).copied().filter(|_| attempt == 0)
    }

    /// Whether the user deletes the task without creating it again.
    pub fn ends_in_deletion(&self) -> bool {
        self.faults.iter().any(|planned| planned.fault == InjectedFault::User(UserAction::Delete))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = |kind: &RequestKind| match kind {
            RequestKind::Write => "write",
            RequestKind::Read => "read",
            RequestKind::Status => "status write",
            RequestKind::Create => "creation of a pod",
            RequestKind::RemoveSchedulingGate => "removal of a scheduling gate",
            RequestKind::RemoveFinalizer => "removal of a finalizer",
        };
        match self {
            Self::Before(kind, n) => write!(out, "before {} {n}", what(kind)),
            Self::After(kind, n) => write!(out, "after {} {n}", what(kind)),
            Self::Running(n) => write!(out, "while iteration {n} runs"),
            Self::Stopped(n) => write!(out, "at stop {n}"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PlannedTask { limit, no_change, same_error, history_limit } = self.task;
        writeln!(out, "plan {} of seed {}: {}", self.number, self.seed, self.kind.as_str())?;
        writeln!(
            out,
            "  task: maxIterations {limit}, noChangeThreshold {no_change}, sameErrorThreshold {same_error}, podHistoryLimit {history_limit}"
        )?;
        writeln!(out, "  agents: {:?}", self.works)?;
        for (iteration, pod_fault) in &self.pod_faults {
            writeln!(out, "  iteration {iteration}: {}", pod_fault.as_str())?;
        }
        let lease = if self.lease { "with a Lease" } else { "without a Lease" };
        writeln!(out, "  operators: {} {lease}", self.operators)?;
        if self.clock != 0 {
            writeln!(out, "  the operator's clock is {} s ahead", self.clock)?;
        }
        for planned in &self.faults {
            writeln!(out, "  {}: {:?}", planned.at, planned.fault)?;
        }
        Ok(())
    }
}
