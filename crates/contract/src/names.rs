//! Stable names: the labels, annotations, paths and variables that pods, users and both programs rely on.

/// Label of an iteration's pod: the task's name, cut to 63 characters.
pub const LABEL_TASK: &str = "agentloop.dev/task";
/// Label of an iteration's pod: the task's uid.
pub const LABEL_TASK_UID: &str = "agentloop.dev/task-uid";
/// Label of an iteration's pod: the number of the iteration, from 1.
pub const LABEL_ITERATION: &str = "agentloop.dev/iteration";
/// Label of an iteration's pod: the number of the attempt at this iteration, from 0.
pub const LABEL_ATTEMPT: &str = "agentloop.dev/attempt";
/// Finalizer that keeps an ended pod until its outcome is recorded in the task's status.
pub const FINALIZER_SETTLE: &str = "agentloop.dev/settle";
/// Scheduling gate that keeps a pod from being scheduled until the operator has confirmed that its iteration is active.
pub const GATE_START: &str = "agentloop.dev/start";
/// Annotation of a pod: the prompt, if the task gives it inline.
pub const ANNOTATION_PROMPT: &str = "agentloop.dev/prompt";
/// Annotation of a pod: the [`Context`](crate::context::Context) as JSON.
pub const ANNOTATION_CONTEXT: &str = "agentloop.dev/context";
/// Annotation of a pod: a hash of everything that the pod was created from.
pub const ANNOTATION_TEMPLATE_HASH: &str = "agentloop.dev/template-hash";
/// Annotation of a pod: a hash of the goal and the completion policy when the pod was created.
pub const ANNOTATION_COMPLETION_HASH: &str = "agentloop.dev/completion-hash";
/// Annotation of a pod: a hash of the runner's image and its pull policy, and the injection method.
pub const ANNOTATION_RUNNER: &str = "agentloop.dev/runner";
/// Annotation of a pod: the name of the container that runs the agent.
pub const ANNOTATION_AGENT: &str = "agentloop.dev/agent-container";
/// Annotation of the workspace PVC: the generation of the task's spec for which the PVC's owner was set.
pub const ANNOTATION_OWNER_GENERATION: &str = "agentloop.dev/owner-generation";

/// Folder with the runner's executable.
pub const RUNNER_DIR: &str = "/agentloop/bin";
/// The runner's executable.
pub const RUNNER_FILE: &str = "/agentloop/bin/agentloop-runner";
/// Read-only folder with the runner's inputs.
pub const INPUT_DIR: &str = "/agentloop/input";
/// File name of the context, in [`INPUT_DIR`].
pub const CONTEXT_FILE: &str = "context.json";
/// File name of the user's prompt, in [`INPUT_DIR`]; absent if the task has none.
pub const PROMPT_FILE: &str = "prompt";
/// The runner's own writable folder, in memory. The rendered prompt is written here.
pub const SCRATCH_DIR: &str = "/agentloop/run";
/// File name of the rendered prompt, in [`SCRATCH_DIR`].
pub const PROMPT_RENDERED: &str = "prompt.md";
/// Folder in the workspace that belongs to agentloop and never counts as a change.
pub const WORKSPACE_DIR: &str = ".agentloop";
/// The file from which the kubelet reads the report.
pub const TERMINATION_LOG: &str = "/dev/termination-log";

/// Variables that the agent finds in its environment.
pub mod env {
    /// `namespace/name` of the task.
    pub const TASK: &str = "AGENTLOOP_TASK";
    /// This iteration's number, from 1.
    pub const ITERATION: &str = "AGENTLOOP_ITERATION";
    /// The limit in force.
    pub const MAX_ITERATIONS: &str = "AGENTLOOP_MAX_ITERATIONS";
    /// File with the rendered prompt, the same bytes as on standard input.
    pub const PROMPT_FILE: &str = "AGENTLOOP_PROMPT_FILE";
    /// File with the context as JSON.
    pub const CONTEXT_FILE: &str = "AGENTLOOP_CONTEXT_FILE";
    /// Where the workspace is mounted.
    pub const WORKSPACE: &str = "AGENTLOOP_WORKSPACE";
    /// The key that authenticates the runner's report. Only the runner sees it: it removes the variable from the
    /// environment of every process that it starts.
    pub const REPORT_KEY: &str = "AGENTLOOP_REPORT_KEY";
}
