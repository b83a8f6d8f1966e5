//! The status, which the operator writes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::open_enum::open_enum;

/// Status of the loop. Only the operator writes it. Its size is bounded (16 KiB).
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(!has(oldSelf.observedGeneration) && (!has(oldSelf.iterations) || oldSelf.iterations == 0)) || (has(self.iterations) && (self.iterations == oldSelf.iterations || self.iterations == oldSelf.iterations + 1))").message("status.iterations must stay the same or grow by one").reason(Reason::FieldValueInvalid).field_path(".iterations"),
    validation = Rule::new("!has(oldSelf.phase) || oldSelf.phase != 'Succeeded' || (has(self.phase) && self.phase == 'Succeeded')").message("Succeeded is final").reason(Reason::FieldValueForbidden).field_path(".phase"),
)]
pub struct AgentTaskStatus {
    /// Generation of the spec that the operator observed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Phase of the loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,

    /// Why the task is waiting or stopped, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,

    /// What happened and how to resume the task, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,

    /// Number of counted iterations. It never decreases, and grows by one at a time.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub iterations: i32,

    /// Limit of iterations in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_iterations: Option<i32>,

    /// Counted iterations and limit, such as `4/10`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub progress: Option<String>,

    /// The active iteration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<ActiveIteration>,

    /// Number of the next attempt at the next iteration.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub next_attempt: i32,

    /// Number of attempts at the next iteration that were not charged although their agent had started, because the
    /// provider refused and nothing was touched. Only a limited number of attempts is free.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub free_attempts: i32,

    /// Number of consecutive refusals of the provider, charged or not. The delays grow with it.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub refusals: i32,

    /// What the next iteration is waiting for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,

    /// Streaks of the circuit breaker.
    #[serde(default)]
    pub breaker: BreakerStatus,

    /// The last counted iterations, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["iteration"]))]
    pub history: Vec<PastIteration>,

    /// Total cost of all iterations, if the agent reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,

    /// Thresholds in force, each with its source. They do not change while the task is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<Thresholds>,

    /// The stop. It stays in effect until the spec changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,

    /// The last `spec.resetToken` that was handled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub last_handled_reset_token: Option<String>,

    /// Conditions: Succeeded, Failed, Suspended, Stopped, LimitClamped, Reconciling, Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// When the first iteration started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,

    /// When an agent was first observed running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_run_time: Option<Time>,

    /// When the task succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,

    /// Helm release of agentloop that serves this task, as namespace/name. Other releases leave the task alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 317))]
    pub served_by: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

open_enum! {
    /// Phase of a loop.
    pub enum Phase {
        /// No operator has seen the task yet.
        Pending,
        /// An iteration is running.
        Running,
        /// Something outside the loop blocks the next iteration. The task continues by itself when the cause is gone.
        Waiting,
        /// `spec.suspend` is true.
        Suspended,
        /// The limit of iterations is reached. This is not a failure. A higher `maxIterations` resumes the task.
        IterationLimitReached,
        /// The circuit breaker stopped the loop. A new `resetToken`, or a threshold above the streak, resumes it.
        CircuitOpen,
        /// The agent exited with a code in `failOnExitCodes`, or a credential was refused. A new `resetToken` resumes
        /// the task.
        Failed,
        /// The task is done. This is final.
        Succeeded,
    }
}

/// The active iteration. It stays active until its pod is settled.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActiveIteration {
    /// Number of the iteration, from 1.
    #[schemars(range(min = 1))]
    pub iteration: i32,
    /// Number of the attempt, from 0. It only grows within an iteration.
    #[schemars(range(min = 0))]
    pub attempt: i32,
    /// Name of its pod.
    #[schemars(length(max = 63))]
    pub pod_name: String,
    /// Generation of the spec when the iteration became active.
    #[serde(default)]
    pub generation: i64,
    /// The operator was uninstalled while the iteration was active, and removed the finalizer of its pod.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub orphaned: bool,
}

/// What the next iteration is waiting for.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// Reason of the wait.
    pub reason: WaitReason,
    /// The cause, as reported by the component that noticed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub message: Option<String>,
    /// When the wait began.
    pub start_time: Time,
    /// When the next try is due. Absent if the end of the wait does not depend on time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_time: Option<Time>,
}

open_enum! {
    /// Reasons to wait.
    pub enum WaitReason {
        /// The pod cannot be scheduled.
        Unschedulable,
        /// The pod has a scheduling gate of another controller.
        SchedulingGated,
        /// An image cannot be pulled.
        ImagePullFailed,
        /// A ResourceQuota has no room for the pod or the PVC.
        QuotaExceeded,
        /// The API server or an admission webhook rejected the pod or the PVC, or a webhook changed the pod so that it
        /// must not be started.
        PodRejected,
        /// A volume is not ready.
        VolumePending,
        /// The ConfigMap, Secret or key in `promptFrom` does not exist.
        PromptMissing,
        /// The pod ended before the agent started, or a sidecar does not start.
        StartFailed,
        /// The model provider limits the use: a rate limit, a quota or overload.
        RateLimited,
        /// The model provider is unavailable: it failed or there was no connection.
        ProviderUnavailable,
        /// The pod's node does not respond. The agent may still be running.
        NodeLost,
        /// Another pod has the name of the next pod.
        NameConflict,
        /// A pod of a previous task with the same name is still running.
        PreviousPodRunning,
        /// The operator's configuration is invalid, and the task has no earlier thresholds.
        ConfigInvalid,
        /// An administrator paused all loops.
        Paused,
    }
}

/// Streaks of the circuit breaker.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BreakerStatus {
    /// Number of consecutive iterations that changed nothing.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub consecutive_no_change: i32,
    /// Number of consecutive iterations that ended with the same error.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub consecutive_same_error: i32,
    /// Signature of that error. It is the same for errors that differ only in times, ids and the like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub error_signature: Option<String>,
}

/// A counted iteration.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PastIteration {
    /// Number of the iteration, from 1.
    pub iteration: i32,
    /// Number of the attempt that was counted, from 0.
    pub attempt: i32,
    /// How it ended.
    pub outcome: IterationOutcome,
    /// Exit code of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Whether it changed the workspace.
    pub changed: WorkspaceChange,
    /// Number of files that it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub files_changed: Option<i32>,
    /// The completion gate that the agent printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<CompletionGate>,
    /// Its error, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub error: Option<String>,
    /// Folder that the agent started in, if it was not the workspace and nothing changed.
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

open_enum! {
    /// How a counted iteration ended.
    pub enum IterationOutcome {
        /// The agent ended by itself.
        Exited,
        /// The agent was stopped at the iteration's timeout.
        TimedOut,
        /// The agent had started when its pod was evicted, drained or deleted, or the task was suspended.
        Interrupted,
        /// The container was killed because memory ran out, a probe failed or the pod used too much disk; or it left no
        /// readable report.
        Killed,
        /// The model provider refused, and the workspace may have changed.
        ProviderRefused,
        /// The agent's command does not exist or cannot be executed.
        CommandNotFound,
        /// The attempt had already run on this workspace, so nothing was executed.
        AlreadyRan,
        /// The runner failed. The error says why.
        RunnerFailed,
        /// The pod is gone without a trace, because the operator was uninstalled meanwhile or a user removed the pod's
        /// finalizer.
        PodLost,
    }
}

open_enum! {
    /// Whether an iteration changed its workspace.
    pub enum WorkspaceChange {
        /// It changed something.
        Changed,
        /// It changed nothing: the fingerprints are equal.
        Unchanged,
        /// Unknown.
        Unknown,
    }
}

/// What the agent reported about its own work.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompletionGate {
    /// Whether the goal is reached.
    pub ready: bool,
    /// Why, or why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub reason: Option<String>,
    /// What the iteration achieved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub progress: Option<String>,
    /// What blocks the agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3), inner(length(max = 200)), extend("x-kubernetes-list-type" = "atomic"))]
    pub blockers: Vec<String>,
}

/// Cost of one or more iterations.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Tokens read by the model, including cached tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<i64>,
    /// Input tokens that were served from the provider's cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input_tokens: Option<i64>,
    /// Tokens written by the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<i64>,
    /// Cost in US dollars, as a decimal number.
    #[serde(default, rename = "costUSD", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub cost_usd: Option<String>,
}

/// Thresholds in force.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Thresholds {
    /// Requested limit of iterations. If it is above the hard limit, the hard limit applies.
    pub max_iterations: Threshold,
    /// The administrator's maximum for the limit of every task.
    pub hard_limit: Threshold,
    /// Number of consecutive iterations without a change that stops the loop.
    pub no_change: Threshold,
    /// Number of consecutive iterations with the same error that stops the loop.
    pub same_error: Threshold,
    /// Maximum duration of an iteration in seconds.
    pub iteration_timeout_seconds: Threshold,
    /// resourceVersion of the operator's configuration. Absent if there is no ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub config_version: Option<String>,
}

/// A number in force, and its source.
#[derive(KubeSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Threshold {
    /// The number.
    pub value: i32,
    /// Its source.
    pub from: ThresholdSource,
}

open_enum! {
    /// Source of a number.
    pub enum ThresholdSource {
        /// The task's spec.
        Spec,
        /// The operator's ConfigMap.
        Config,
        /// agentloop's default.
        Default,
    }
}

/// A stop. It stays in effect until the spec changes.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Phase of the task while it is stopped.
    pub phase: Phase,
    /// Cause of the stop.
    pub reason: StopReason,
    /// Generation of the spec at which the task stopped.
    pub generation: i64,
}

open_enum! {
    /// Causes of a stop.
    pub enum StopReason {
        /// The task is done.
        Completed,
        /// The limit of iterations is reached.
        IterationLimit,
        /// Circuit breaker: too many consecutive iterations changed nothing.
        NoChange,
        /// Circuit breaker: too many consecutive iterations ended with the same error.
        SameError,
        /// The agent exited with a code in `failOnExitCodes`.
        ExitCode,
        /// The model provider refused the credential.
        Unauthenticated,
    }
}
