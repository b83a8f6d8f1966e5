//! The `AgentTask` resource: the spec that users write, the status that the operator writes, and the schema of both.

mod crd;
mod open_enum;
mod schema;
mod spec;
mod status;
mod text;

pub use crd::{KNOWN_VALUES, crd, crd_document};
pub use open_enum::UnknownValue;
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

/// Condition types of an `AgentTask`.
pub mod condition {
    /// True once the task is done, False while it has Failed, Unknown before that.
    pub const SUCCEEDED: &str = "Succeeded";
    /// True while the task has Failed, False once it is done, Unknown before that.
    pub const FAILED: &str = "Failed";
    /// True while the task is suspended by `spec.suspend`.
    pub const SUSPENDED: &str = "Suspended";
    /// True for every stop, including success. Its reason is the phase of the stop.
    pub const STOPPED: &str = "Stopped";
    /// True while `spec.maxIterations` is above the hard limit.
    pub const LIMIT_CLAMPED: &str = "LimitClamped";
    /// kstatus: the operator is working towards the spec.
    pub const RECONCILING: &str = "Reconciling";
    /// kstatus: a person must act.
    pub const STALLED: &str = "Stalled";
}

/// The maximum of the hard limit, and of `maxIterations` in the schema.
pub const MAX_ITERATIONS: i32 = 10_000;

/// Maximum characters of a task's name, so that it fits into a label.
pub const MAX_NAME_CHARS: usize = 63;
