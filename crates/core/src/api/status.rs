//! What the operator answers.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::words::words;

/// Where a task's loop stands. Written by the operator alone; bounded to stay under 16 KiB.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(!has(oldSelf.observedGeneration) && (!has(oldSelf.iterations) || oldSelf.iterations == 0)) || (has(self.iterations) && (self.iterations == oldSelf.iterations || self.iterations == oldSelf.iterations + 1))").message("status.iterations must stay the same or grow by one").reason(Reason::FieldValueInvalid).field_path(".iterations"),
    validation = Rule::new("!has(oldSelf.phase) || oldSelf.phase != 'Succeeded' || (has(self.phase) && self.phase == 'Succeeded')").message("Succeeded is final").reason(Reason::FieldValueForbidden).field_path(".phase"),
)]
pub struct AgentTaskStatus {
    /// The spec's generation that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Where the loop stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,

    /// Why it waits or stopped, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,

    /// What happened and how to go on, for people; derived from the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,

    /// Iterations settled and charged; it only ever grows by one.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub iterations: i32,

    /// The limit in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_iterations: Option<i32>,

    /// Iterations and limit, such as `4/10`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub progress: Option<String>,

    /// The claimed iteration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<ActiveIteration>,

    /// The attempt that the next claim of this iteration takes.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub next_attempt: i32,

    /// Attempts at the next iteration whose agent had started and that were not charged, because the
    /// provider refused and nothing was touched. A bounded number of them is free.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub free_attempts: i32,

    /// Refusals of the provider in a row, charged or not: the delays grow with them.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub refusals: i32,

    /// What holds the next iteration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,

    /// The circuit breaker's streaks.
    #[serde(default)]
    pub breaker: BreakerStatus,

    /// The last iterations that were charged, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["iteration"]))]
    pub history: Vec<PastIteration>,

    /// What all iterations cost together, where the agent's output tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,

    /// The thresholds in force and where each came from; frozen while stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<Thresholds>,

    /// The stop that holds until the spec changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,

    /// The last `spec.resetToken` that was acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub last_handled_reset_token: Option<String>,

    /// Succeeded, Failed, Suspended, Stopped, LimitClamped, Reconciling, Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// When the first iteration was claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,

    /// When an iteration was first seen to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_run_time: Option<Time>,

    /// When the task Succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,

    /// The release of agentloop that serves this task, as namespace/name; every other one leaves it alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 317))]
    pub served_by: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

words! {
    /// Where a loop stands.
    pub enum Phase {
        /// No operator has seen it yet: the API server's own answer.
        Pending,
        /// An iteration is in flight.
        Running,
        /// Something outside holds the next iteration; it goes on by itself once that is gone.
        Waiting,
        /// `spec.suspend` is true.
        Suspended,
        /// The limit is reached; a higher `maxIterations` goes on. Not a failure.
        IterationLimitReached,
        /// The circuit breaker tripped; a threshold above the streak, or a new `resetToken`, goes on.
        CircuitOpen,
        /// An exit code of `failOnExitCodes`, or a refused credential; a new `resetToken` goes on.
        Failed,
        /// Done; final.
        Succeeded,
    }
}

/// A claimed iteration: it ends only by settling its pod.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActiveIteration {
    /// Its number, from 1.
    #[schemars(range(min = 1))]
    pub iteration: i32,
    /// The attempt's number, from 0; it only grows within an iteration.
    #[schemars(range(min = 0))]
    pub attempt: i32,
    /// Its pod.
    #[schemars(length(max = 63))]
    pub pod_name: String,
    /// The spec's generation at the claim.
    #[serde(default)]
    pub generation: i64,
    /// The operator was uninstalled while this was in flight and has let its pod go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub orphaned: bool,
}

/// What holds the next iteration.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// What it is.
    pub reason: WaitReason,
    /// The cause in words, from whoever told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub message: Option<String>,
    /// Since when.
    pub start_time: Time,
    /// Nothing is tried before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_time: Option<Time>,
}

words! {
    /// What a task can wait for.
    pub enum WaitReason {
        /// No node takes the pod.
        Unschedulable,
        /// A scheduling gate of somebody else holds the pod.
        SchedulingGated,
        /// An image cannot be pulled.
        ImagePullFailed,
        /// A ResourceQuota refuses the pod.
        QuotaExceeded,
        /// The API server, or an admission webhook, refuses the pod.
        PodRejected,
        /// A volume is not there yet.
        VolumePending,
        /// The ConfigMap, Secret or key of `promptFrom` is not there.
        PromptMissing,
        /// The pod ended before the agent started, or a sidecar does not start.
        StartFailed,
        /// The model provider refuses for now.
        RateLimited,
        /// The model provider fails: an error of its own, or no connection.
        ProviderUnavailable,
        /// The pod's node is silent; whether the agent still runs is not known.
        NodeLost,
        /// A pod of somebody else has the name of the next pod.
        NameConflict,
        /// A pod of an earlier task of the same name still runs.
        PreviousPodRunning,
        /// The operator's configuration is refused.
        ConfigInvalid,
        /// An administrator paused all loops.
        Paused,
    }
}

/// The circuit breaker's streaks.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BreakerStatus {
    /// Iterations in a row that changed nothing.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub consecutive_no_change: i32,
    /// Iterations in a row that ended in the same error.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub consecutive_same_error: i32,
    /// Signature of that error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub error_signature: Option<String>,
}

/// One iteration that was charged.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PastIteration {
    /// Its number, from 1.
    pub iteration: i32,
    /// The attempt that was charged, from 0.
    pub attempt: i32,
    /// How it ended.
    pub outcome: IterationOutcome,
    /// The agent's exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Whether it changed the workspace.
    pub changed: WorkspaceChange,
    /// How many files it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub files_changed: Option<i32>,
    /// The completion gate that it printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<CompletionGate>,
    /// Its error in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub error: Option<String>,
    /// The folder that the agent started in, where that was not the workspace and nothing changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub started_in: Option<String>,
    /// What it cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// When the agent started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
}

words! {
    /// How a charged iteration ended.
    pub enum IterationOutcome {
        /// The agent ended by itself.
        Exited,
        /// The iteration's timeout ran out.
        TimedOut,
        /// The agent had started, then its pod was evicted, drained, deleted or suspended.
        Interrupted,
        /// The container was killed, for memory, by a failed probe, or for the disk that it used; or it left no
        /// readable report.
        Killed,
        /// The model provider refused, and the workspace may have changed.
        ProviderRefused,
        /// The agent's command is not there or cannot be executed.
        CommandNotFound,
        /// This attempt had already run on this workspace; nothing was executed.
        AlreadyRan,
        /// The runner failed; the error says why.
        RunnerFailed,
        /// The pod is gone without a trace: the operator was uninstalled meanwhile, or somebody took its
        /// finalizer off.
        PodLost,
    }
}

words! {
    /// Whether an iteration changed its workspace.
    pub enum WorkspaceChange {
        /// It did.
        Changed,
        /// It did not: the fingerprints are equal.
        Unchanged,
        /// Not known.
        Unknown,
    }
}

/// What the agent said of its own work.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompletionGate {
    /// The goal is reached.
    pub ready: bool,
    /// Why, or why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub reason: Option<String>,
    /// What the iteration achieved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub progress: Option<String>,
    /// What stands in the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3), inner(length(max = 200)), extend("x-kubernetes-list-type" = "atomic"))]
    pub blockers: Vec<String>,
}

/// What iterations cost.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Tokens read by the model, cached ones included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<i64>,
    /// Of these, tokens served from the provider's cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input_tokens: Option<i64>,
    /// Tokens written by the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<i64>,
    /// Cost in US dollars as a decimal number.
    #[serde(default, rename = "costUSD", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub cost_usd: Option<String>,
}

/// The thresholds in force.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Thresholds {
    /// The limit asked for; the hard limit binds above it.
    pub max_iterations: Threshold,
    /// The administrator's bound on every limit.
    pub hard_limit: Threshold,
    /// Iterations in a row without a change that stop the loop.
    pub no_change: Threshold,
    /// Iterations in a row with the same error that stop the loop.
    pub same_error: Threshold,
    /// One iteration's wall clock in seconds.
    pub iteration_timeout_seconds: Threshold,
    /// The configuration's resourceVersion; absent where there is no ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub config_version: Option<String>,
}

/// A number in force, and where it came from.
#[derive(KubeSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Threshold {
    /// The number.
    pub value: i32,
    /// Where it came from.
    pub from: ThresholdSource,
}

words! {
    /// Where a number came from.
    pub enum ThresholdSource {
        /// The task's own spec.
        Spec,
        /// The operator's ConfigMap.
        Config,
        /// agentloop's default.
        Default,
    }
}

/// A stop: it holds until the spec changes.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// The phase that it shows.
    pub phase: Phase,
    /// What caused it.
    pub reason: StopReason,
    /// The spec's generation at which it was decided.
    pub generation: i64,
}

words! {
    /// What stops a loop.
    pub enum StopReason {
        /// The task is done.
        Completed,
        /// The limit.
        IterationLimit,
        /// The breaker: nothing changed.
        NoChange,
        /// The breaker: the same error.
        SameError,
        /// An exit code of `failOnExitCodes`.
        ExitCode,
        /// The model provider refused the credential.
        Unauthenticated,
    }
}
