//! What the agents really did. The campaign knows it, because it simulates the kubelet.

use parking_lot::{Mutex, MutexGuard};

/// How an agent ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// It exited by itself.
    Ended {
        /// It changed the workspace.
        changed: bool,
        /// Its error.
        error: Option<u8>,
        /// It reported that the work is done.
        ready: bool,
        /// It exited with the code that fails a task.
        fatal: bool,
    },
    /// It was stopped before it had exited.
    Interrupted,
    /// It was terminated from outside, and nothing is known about its work.
    Cut,
    /// Its container was killed without a report, which counts as a separate error.
    Killed,
    /// The provider refused, and it changed nothing: not charged.
    Refused,
    /// It never started: not charged.
    NeverStarted,
}

impl RunEnd {
    /// Whether the iteration counts.
    pub fn is_charged(&self) -> bool {
        !matches!(self, Self::Refused | Self::NeverStarted)
    }
}

/// One pod that was bound to the node.
#[derive(Clone, Debug)]
pub struct AgentRun {
    /// The task's uid.
    pub task: String,
    /// The pod's uid.
    pub pod: String,
    /// The iteration.
    pub iteration: i32,
    /// The attempt.
    pub attempt: i32,
    /// Whether the agent was executed.
    pub executed: bool,
    /// The agent of a task of this name that was already running at that moment.
    pub beside: Option<String>,
    /// How it ended; `None` while it runs.
    pub end: Option<RunEnd>,
}

/// All agents of a plan.
#[derive(Default)]
pub struct GroundTruth(Mutex<Vec<AgentRun>>);

impl GroundTruth {
    fn lock(&self) -> MutexGuard<'_, Vec<AgentRun>> {
        self.0.lock()
    }

    /// A pod was bound.
    pub fn bound(&self, task: &str, pod: &str, iteration: i32, attempt: i32) {
        let run = AgentRun {
            task: task.to_owned(),
            pod: pod.to_owned(),
            iteration,
            attempt,
            executed: false,
            beside: None,
            end: None,
        };
        self.lock().push(run);
    }

    /// The pod's agent is executed now.
    pub fn executed(&self, pod: &str) {
        let mut runs = self.lock();
        let other = runs.iter().find(|run| run.executed && run.end.is_none() && run.pod != pod);
        let beside = other.map(|run| format!("iteration {}, attempt {}", run.iteration, run.attempt));
        for run in runs.iter_mut().filter(|run| run.pod == pod) {
            run.executed = true;
            run.beside.clone_from(&beside);
        }
    }

    /// The pod's agent has ended like this.
    pub fn ended(&self, pod: &str, end: &RunEnd) {
        for run in self.lock().iter_mut().filter(|run| run.pod == pod) {
            run.end = Some(end.clone());
        }
    }

    /// All of them, in the order in which they were bound.
    pub fn all(&self) -> Vec<AgentRun> {
        self.lock().clone()
    }
}
