//! What the agents really did: the driver plays the kubelet, so it knows.

use std::sync::Mutex;

use crate::lock;

/// What became of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It ended by itself.
    Ended {
        /// It changed the workspace.
        changed: bool,
        /// Its error.
        error: Option<u8>,
        /// It said that the work is done.
        ready: bool,
        /// It exited with the code that fails a task.
        fatal: bool,
    },
    /// It was told to stop before it had ended.
    Interrupted,
    /// It was ended from outside, and nothing is known of its work.
    Cut,
    /// Its container was killed and left no report, which is an error of its own.
    Killed,
    /// The provider refused, and it changed nothing: uncharged.
    Refused,
    /// It never started: uncharged.
    NeverStarted,
}

impl Truth {
    /// Whether the iteration counts.
    pub fn is_charged(&self) -> bool {
        !matches!(self, Self::Refused | Self::NeverStarted)
    }
}

/// One pod that was bound to the node.
#[derive(Clone, Debug)]
pub struct Run {
    /// The task's uid.
    pub task: String,
    /// The pod's uid.
    pub pod: String,
    /// The iteration.
    pub iteration: i32,
    /// The attempt.
    pub attempt: i32,
    /// The agent was executed.
    pub executed: bool,
    /// Another agent of a task of this name ran at that moment.
    pub beside: Option<String>,
    /// What became of it; `None` while it runs.
    pub truth: Option<Truth>,
}

/// All runs of a plan.
#[derive(Default)]
pub struct Truths(Mutex<Vec<Run>>);

impl Truths {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Run>> {
        lock(&self.0)
    }

    /// A pod was bound.
    pub fn bound(&self, task: &str, pod: &str, iteration: i32, attempt: i32) {
        let run = Run {
            task: task.to_owned(),
            pod: pod.to_owned(),
            iteration,
            attempt,
            executed: false,
            beside: None,
            truth: None,
        };
        self.lock().push(run);
    }

    /// Its agent is executed now.
    pub fn executed(&self, pod: &str) {
        let mut runs = self.lock();
        let other = runs.iter().find(|run| run.executed && run.truth.is_none() && run.pod != pod);
        let beside = other.map(|run| format!("iteration {}, attempt {}", run.iteration, run.attempt));
        for run in runs.iter_mut().filter(|run| run.pod == pod) {
            run.executed = true;
            run.beside.clone_from(&beside);
        }
    }

    /// This became of it.
    pub fn ended(&self, pod: &str, truth: &Truth) {
        for run in self.lock().iter_mut().filter(|run| run.pod == pod) {
            run.truth = Some(truth.clone());
        }
    }

    /// All of them, in the order in which they were bound.
    pub fn all(&self) -> Vec<Run> {
        self.lock().clone()
    }
}
