//! The spec, which users write.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::{self, PodTemplate, PvcTemplate};
use super::status::AgentTaskStatus;

/// Spec of an AgentTask: the goal, the pod that works on it, and the bounds of the loop.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "agentloop.dev",
    version = "v1alpha1",
    kind = "AgentTask",
    namespaced,
    shortname = "agt",
    category = "agentloop",
    status = "AgentTaskStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "AgentTask runs an autonomous coding agent on one goal, in a new pod for each iteration, until it is done or a bound stops it.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "Phase of the loop"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress", description = "Counted iterations / limit in force"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason", description = "Why the task is waiting or stopped"),
    printcolumn(name = "Cost", type_ = "string", json_path = ".status.usage.costUSD", description = "Cost of all iterations in US dollars, if the agent reports it"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "No-Change", type_ = "integer", priority = 1, json_path = ".status.breaker.consecutiveNoChange", description = "Iterations in a row that changed nothing"),
    printcolumn(name = "Same-Error", type_ = "integer", priority = 1, json_path = ".status.breaker.consecutiveSameError", description = "Iterations in a row with the same error"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1, description = "What happened, and the command that resumes the task"),
    validation = Rule::new("self.metadata.name.size() <= 63").message("the name must have at most 63 characters: it becomes a label and a part of pod names").reason(Reason::FieldValueInvalid),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.observedGeneration) || (has(self.status) && has(self.status.observedGeneration))").message("status cannot be removed: it has the count of iterations").reason(Reason::FieldValueRequired).field_path(".status"),
    validation = Rule::new("!has(self.status) || !has(self.status.active) || (has(oldSelf.status) && has(oldSelf.status.active) && oldSelf.status.active.iteration == self.status.active.iteration && oldSelf.status.active.attempt == self.status.active.attempt) || (self.status.active.iteration == self.status.iterations + 1 && has(self.status.maxIterations) && self.status.active.iteration <= self.status.maxIterations && (!has(self.spec.maxIterations) || self.status.active.iteration <= self.spec.maxIterations))").message("a new active iteration must be the next one, within the limit").reason(Reason::FieldValueInvalid).field_path(".status.active")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.prompt) && has(self.promptFrom))").message("set prompt or promptFrom, not both").reason(Reason::FieldValueForbidden).field_path(".promptFrom"),
    validation = Rule::new("!has(self.completion) || !has(self.completion.policy) || self.completion.policy != 'Verify' || has(self.completion.verify)").message("completion.policy Verify needs completion.verify.command").reason(Reason::FieldValueRequired).field_path(".completion.verify"),
    validation = Rule { optional_old_self: Some(true), ..Rule::new(schema::annotations_rule()).message(schema::ANNOTATIONS_MESSAGE).reason(Reason::FieldValueInvalid) },
)]
pub struct AgentTaskSpec {
    /// Maximum number of iterations of this task, counted from its first. If it is above the administrator's hard limit
    /// (50), the hard limit applies. A higher value resumes a task that has reached its limit. Defaults to the
    /// operator's setting (10).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub max_iterations: Option<i32>,

    /// If true, the running pod is stopped and no other is started. Setting it to false resumes the task where it was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,

    /// The goal. The agent reads it from standard input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 131_072))]
    #[x_kube(validation = Rule::new("size(bytes(self)) <= 131072").message("prompt must have at most 131072 bytes: put longer text into a file in the workspace, or use promptFrom").reason(Reason::FieldValueInvalid))]
    pub prompt: Option<String>,

    /// The goal, from a ConfigMap or a Secret in the task's namespace. The operator does not read it; the kubelet
    /// mounts it into the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_from: Option<PromptSource>,

    /// Whether the prompt ends with a section about the loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loop_context: Option<LoopContext>,

    /// The pod that runs one iteration. The container named `agent`, or else the only one, runs the agent; its
    /// `command` is required.
    pub template: PodTemplate,

    /// The workspace: the folder that the agent works in, and the volume that keeps it from one iteration to the next.
    #[serde(default)]
    pub workspace: Workspace,

    /// When the task is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion: Option<Completion>,

    /// Thresholds of the circuit breaker for this task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Breaker>,

    /// Any text. A new value sets both streaks to zero and resumes a task that is CircuitOpen or Failed. Setting the
    /// same value again has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub reset_token: Option<String>,

    /// Maximum duration of an iteration in seconds. After that the agent is stopped, and the iteration is counted.
    /// Defaults to the operator's setting (3600).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub iteration_timeout_seconds: Option<i32>,

    /// Exit codes of the agent that stop the task as Failed immediately, for example because a credential is invalid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(range(min = 1, max = 255)), extend("x-kubernetes-list-type" = "set"))]
    pub fail_on_exit_codes: Vec<i32>,

    /// Exit codes of the agent that mean "try again later". Defaults to 75 (EX_TEMPFAIL in sysexits.h).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), inner(range(min = 1, max = 255)), extend("x-kubernetes-list-type" = "set"))]
    pub retry_on_exit_codes: Option<Vec<i32>>,

    /// Number of settled pods to keep for their logs. Defaults to 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub pod_history_limit: Option<i32>,

    /// Seconds after which a task that Succeeded is deleted. A task that stopped for another reason is not deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub ttl_seconds_after_succeeded: Option<i32>,
}

/// Source of a prompt. Exactly one of its fields must be set.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.configMapKeyRef) != has(self.secretKeyRef)").message("promptFrom needs exactly one of configMapKeyRef and secretKeyRef").reason(Reason::FieldValueInvalid))]
pub struct PromptSource {
    /// A key of a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeySelector>,
    /// A key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeySelector>,
}

/// A key of a ConfigMap or Secret in the task's namespace.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySelector {
    /// Name of the ConfigMap or Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in its data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Whether the prompt ends with a short section about the loop: which iteration this is, what the last one reported,
/// and how to report that the work is done. Defaults to InPrompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LoopContext {
    /// The prompt ends with a section about the loop.
    #[default]
    InPrompt,
    /// The prompt is passed on unchanged. Only the file named by AGENTLOOP_CONTEXT_FILE describes the loop.
    FileOnly,
}

/// The workspace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.volumeClaimTemplate) && has(self.persistentVolumeClaim))").message("set volumeClaimTemplate or persistentVolumeClaim, not both").reason(Reason::FieldValueForbidden).field_path(".persistentVolumeClaim"),
    validation = Rule::new("self.mountPath == oldSelf.mountPath").message("workspace.mountPath cannot be changed: create another task").reason(Reason::FieldValueForbidden).field_path(".mountPath"),
    validation = Rule::new("has(self.volumeClaimTemplate) == has(oldSelf.volumeClaimTemplate) && (!has(self.volumeClaimTemplate) || self.volumeClaimTemplate == oldSelf.volumeClaimTemplate)").message("workspace.volumeClaimTemplate cannot be changed: create another task").reason(Reason::FieldValueForbidden).field_path(".volumeClaimTemplate"),
    validation = Rule::new("has(self.persistentVolumeClaim) == has(oldSelf.persistentVolumeClaim) && (!has(self.persistentVolumeClaim) || self.persistentVolumeClaim == oldSelf.persistentVolumeClaim)").message("workspace.persistentVolumeClaim cannot be changed: create another task").reason(Reason::FieldValueForbidden).field_path(".persistentVolumeClaim"),
)]
pub struct Workspace {
    /// Path at which the workspace is mounted in the agent's container. Cannot be changed.
    #[serde(default = "default_mount_path")]
    #[schemars(length(min = 2, max = 512), regex(pattern = "^/[^:]*$"))]
    #[x_kube(validation = Rule::new(schema::workspace_rule()).message(schema::WORKSPACE_MESSAGE).reason(Reason::FieldValueInvalid))]
    pub mount_path: String,

    /// Template of a PVC that is created once for this task. Cannot be changed. If neither this nor
    /// persistentVolumeClaim is set, the workspace is an emptyDir, and each iteration starts with an empty one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_claim_template: Option<PvcTemplate>,

    /// An existing PVC. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ExistingPvc>,

    /// What happens to that PVC when the task is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_deleted: Option<WhenDeleted>,

    /// Patterns, as in .gitignore, of files whose changes do not count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 256)), extend("x-kubernetes-list-type" = "atomic"))]
    pub ignore: Vec<String>,
}

fn default_mount_path() -> String {
    "/workspace".to_owned()
}

impl Default for Workspace {
    fn default() -> Self {
        Self {
            mount_path: default_mount_path(),
            volume_claim_template: None,
            persistent_volume_claim: None,
            when_deleted: None,
            ignore: Vec::new(),
        }
    }
}

/// An existing PVC.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExistingPvc {
    /// Name of the PVC, in the task's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
}

/// What happens to the PVC created from volumeClaimTemplate when the task is deleted. Defaults to Retain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenDeleted {
    /// The PVC stays until a user deletes it, so the work is not lost with the task.
    #[default]
    Retain,
    /// The PVC is deleted with the task.
    Delete,
}

/// When a task is done.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completion {
    /// What decides whether the task is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<CompletionPolicy>,
    /// A command that must also pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
}

/// What decides whether the task is done. Defaults to Gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CompletionPolicy {
    /// The agent printed a completion gate with `ready: true` and exited with 0.
    #[default]
    Gate,
    /// The agent exited with 0.
    ExitCode,
    /// The verify command passed, whatever the agent reports.
    Verify,
}

/// A command that checks in the agent's container whether the work is done.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verify {
    /// The command and its arguments, run without a shell. Exit code 0 means that it passed.
    #[schemars(length(min = 1, max = 64), inner(length(max = 4096)), extend("x-kubernetes-list-type" = "atomic"))]
    pub command: Vec<String>,
    /// Maximum duration in seconds. After that the command has failed. Defaults to 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub timeout_seconds: Option<i32>,
}

/// Thresholds of the circuit breaker.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Breaker {
    /// Number of consecutive iterations without a change that stops the loop. Defaults to the operator's setting (3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub no_change_threshold: Option<i32>,
    /// Number of consecutive iterations with the same error that stops the loop. Defaults to the operator's setting
    /// (5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub same_error_threshold: Option<i32>,
}

impl AgentTaskSpec {
    /// Exit codes that mean "try again later".
    pub fn retry_on_exit_codes(&self) -> &[i32] {
        const EX_TEMPFAIL: &[i32] = &[75];
        self.retry_on_exit_codes.as_deref().unwrap_or(EX_TEMPFAIL)
    }

    /// Number of settled pods to keep.
    pub fn pod_history_limit(&self) -> usize {
        usize::try_from(self.pod_history_limit.unwrap_or(10)).unwrap_or(0)
    }

    /// What decides whether the task is done.
    pub fn policy(&self) -> CompletionPolicy {
        self.completion.as_ref().and_then(|c| c.policy).unwrap_or_default()
    }

    /// The verify command, if any.
    pub fn verify(&self) -> Option<&Verify> {
        self.completion.as_ref().and_then(|c| c.verify.as_ref())
    }
}
