//! The `AgentTask` resource: what users write, what the operator answers, and the schema of both.

mod crd;
mod schema;
mod spec;
mod status;
mod text;
mod words;

pub use crd::{KNOWN_VALUES, crd, crd_document};
pub use schema::{PodTemplate, PvcTemplate};
pub use spec::{
    AgentTask, AgentTaskSpec, Breaker, Completion, CompletionPolicy, ExistingPvc, KeySelector, LoopContext,
    PromptSource, Verify, WhenDeleted, Workspace,
};
pub use status::{
    ActiveIteration, AgentTaskStatus, BreakerStatus, CompletionGate, IterationOutcome, PastIteration, Phase,
    Stop, StopReason, Threshold, ThresholdSource, Thresholds, Usage, WaitReason, Waiting, WorkspaceChange,
};
pub use text::{JsonText, Unparsed};

pub use words::Word;

/// Condition types of an `AgentTask`.
pub mod condition {
    /// True once the task is done, False while it has Failed, Unknown before that.
    pub const SUCCEEDED: &str = "Succeeded";
    /// True while the task has Failed, False once it is done, Unknown before that.
    pub const FAILED: &str = "Failed";
    /// True while `spec.suspend` holds the task.
    pub const SUSPENDED: &str = "Suspended";
    /// True for every stop, good or bad; its reason is the stop's phase.
    pub const STOPPED: &str = "Stopped";
    /// True while `spec.maxIterations` asks for more than the hard limit allows.
    pub const LIMIT_CLAMPED: &str = "LimitClamped";
    /// kstatus: work towards the spec is under way.
    pub const RECONCILING: &str = "Reconciling";
    /// kstatus: a person must act.
    pub const STALLED: &str = "Stalled";
}

/// The hard limit's own upper bound, and so the largest `maxIterations` that the schema takes.
pub const MAX_ITERATIONS: i32 = 10_000;

/// Longest name of a task, so that it fits a label and a pod's name keeps its numbers.
pub const MAX_NAME_CHARS: usize = 63;
