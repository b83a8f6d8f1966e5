//! What a user writes.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::{self, PodTemplate, PvcTemplate};
use super::status::AgentTaskStatus;

/// One goal for an autonomous coding agent, and the bounds within which it may be tried: every iteration
/// is one fresh pod.
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
    doc = "One goal for an autonomous coding agent, run in fresh pods until it is done or a bound stops it.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "Where the loop stands"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress", description = "Iterations done / limit in force"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason", description = "Why it waits or stopped"),
    printcolumn(name = "Cost", type_ = "string", json_path = ".status.usage.costUSD", description = "Cost of all iterations in US dollars, if the agent reports it"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "No-Change", type_ = "integer", priority = 1, json_path = ".status.breaker.consecutiveNoChange", description = "Iterations in a row that changed nothing"),
    printcolumn(name = "Same-Error", type_ = "integer", priority = 1, json_path = ".status.breaker.consecutiveSameError", description = "Iterations in a row with the same error"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1, description = "What happened, and the command that goes on"),
    validation = Rule::new("self.metadata.name.size() <= 63").message("the name must have at most 63 characters: it becomes a label and a part of pod names").reason(Reason::FieldValueInvalid),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.observedGeneration) || (has(self.status) && has(self.status.observedGeneration))").message("status cannot be removed: it has the count of iterations").reason(Reason::FieldValueRequired).field_path(".status"),
    validation = Rule::new("!has(self.status) || !has(self.status.active) || (has(oldSelf.status) && has(oldSelf.status.active) && oldSelf.status.active.iteration == self.status.active.iteration && oldSelf.status.active.attempt == self.status.active.attempt) || (self.status.active.iteration == self.status.iterations + 1 && has(self.status.maxIterations) && self.status.active.iteration <= self.status.maxIterations && (!has(self.spec.maxIterations) || self.status.active.iteration <= self.spec.maxIterations))").message("a new active iteration must be the next one, within the limit").reason(Reason::FieldValueInvalid).field_path(".status.active")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.prompt) && has(self.promptFrom))").message("set prompt or promptFrom, not both").reason(Reason::FieldValueForbidden).field_path(".promptFrom"),
    validation = Rule::new("!has(self.completion) || !has(self.completion.policy) || self.completion.policy != 'Verify' || has(self.completion.verify)").message("completion.policy Verify needs completion.verify.command").reason(Reason::FieldValueRequired).field_path(".completion.verify"),
    validation = Rule { optional_old_self: Some(true), ..Rule::new(schema::notes_rule()).message(schema::NOTES_MESSAGE).reason(Reason::FieldValueInvalid) },
)]
pub struct AgentTaskSpec {
    /// Most iterations this task may have, counted from its first. Absent: the configured default (10).
    /// The administrator's hard limit (50) binds above it. Raising it resumes a task that reached it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub max_iterations: Option<i32>,

    /// True stops the running pod and starts no other; false goes on. Nothing is lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,

    /// The goal, in the words that the agent gets on its standard input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 131_072))]
    #[x_kube(validation = Rule::new("size(bytes(self)) <= 131072").message("prompt must have at most 131072 bytes: put longer text into a file in the workspace, or use promptFrom").reason(Reason::FieldValueInvalid))]
    pub prompt: Option<String>,

    /// The goal, from a ConfigMap or a Secret of the task's namespace; the operator never reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_from: Option<PromptSource>,

    /// Whether the prompt that the agent gets ends with a short section on the loop: which iteration this
    /// is, what the last one left, and how to say that the work is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loop_context: Option<LoopContext>,

    /// The pod that runs one iteration. The container named `agent`, or else the only one, is the agent;
    /// its `command` is required. Passed on as it is, but for what agentloop sets itself.
    pub template: PodTemplate,

    /// Where the agent works, and what survives from one iteration to the next.
    #[serde(default)]
    pub workspace: Workspace,

    /// What completes the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion: Option<Completion>,

    /// The circuit breaker's thresholds, where they differ from the configured ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Breaker>,

    /// Any string. A new value clears both streaks and lifts CircuitOpen and Failed; the same value twice
    /// does nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub reset_token: Option<String>,

    /// One iteration's wall clock in seconds; then the agent is stopped and the iteration counted.
    /// Absent: the configured one (3600).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub iteration_timeout_seconds: Option<i32>,

    /// Exit codes of the agent that stop the task as Failed at once, such as a refused credential.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(range(min = 1, max = 255)), extend("x-kubernetes-list-type" = "set"))]
    pub fail_on_exit_codes: Vec<i32>,

    /// Exit codes of the agent that mean "not now, come back later". Absent: 75 (EX_TEMPFAIL of sysexits).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), inner(range(min = 1, max = 255)), extend("x-kubernetes-list-type" = "set"))]
    pub retry_on_exit_codes: Option<Vec<i32>>,

    /// Settled pods kept for their logs. Absent: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub pod_history_limit: Option<i32>,

    /// Seconds after which a task that Succeeded is deleted. No other stop starts this clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub ttl_seconds_after_succeeded: Option<i32>,
}

/// Where a prompt comes from: exactly one of the two.
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
    /// The object's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in its data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// How the agent is told about the loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LoopContext {
    /// In the prompt, after the user's text.
    #[default]
    InPrompt,
    /// In the file named by AGENTLOOP_CONTEXT_FILE alone.
    FileOnly,
}

/// Where the agent works.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.volumeClaimTemplate) && has(self.persistentVolumeClaim))").message("set volumeClaimTemplate or persistentVolumeClaim, not both").reason(Reason::FieldValueForbidden).field_path(".persistentVolumeClaim"),
    validation = Rule::new("self.mountPath == oldSelf.mountPath").message("workspace.mountPath cannot be changed: create another task").reason(Reason::FieldValueForbidden).field_path(".mountPath"),
    validation = Rule::new("has(self.volumeClaimTemplate) == has(oldSelf.volumeClaimTemplate) && (!has(self.volumeClaimTemplate) || self.volumeClaimTemplate == oldSelf.volumeClaimTemplate)").message("workspace.volumeClaimTemplate cannot be changed: create another task").reason(Reason::FieldValueForbidden).field_path(".volumeClaimTemplate"),
    validation = Rule::new("has(self.persistentVolumeClaim) == has(oldSelf.persistentVolumeClaim) && (!has(self.persistentVolumeClaim) || self.persistentVolumeClaim == oldSelf.persistentVolumeClaim)").message("workspace.persistentVolumeClaim cannot be changed: create another task").reason(Reason::FieldValueForbidden).field_path(".persistentVolumeClaim"),
)]
pub struct Workspace {
    /// Where it is mounted in the agent's container.
    #[serde(default = "default_mount_path")]
    #[schemars(length(min = 2, max = 512), regex(pattern = "^/[^:]*$"))]
    #[x_kube(validation = Rule::new(schema::workspace_rule()).message(schema::WORKSPACE_MESSAGE).reason(Reason::FieldValueInvalid))]
    pub mount_path: String,

    /// A claim that is made once for this task. Neither this nor persistentVolumeClaim: an emptyDir, and
    /// nothing survives an iteration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_claim_template: Option<PvcTemplate>,

    /// A claim that exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ExistingPvc>,

    /// What becomes of the claim made from volumeClaimTemplate when the task is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_deleted: Option<WhenDeleted>,

    /// Gitignore patterns of files that do not count as change.
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

/// A volume claim that exists.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExistingPvc {
    /// Its name, in the task's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
}

/// What becomes of a task's volume claim when the task is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenDeleted {
    /// It stays until somebody deletes it: work is not thrown away with the task.
    #[default]
    Retain,
    /// It goes with the task.
    Delete,
}

/// What completes a task.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completion {
    /// Whose word counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<CompletionPolicy>,
    /// A command that must pass as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
}

/// Whose word completes a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CompletionPolicy {
    /// The completion gate says ready and the agent exited 0.
    #[default]
    Gate,
    /// The agent exited 0.
    ExitCode,
    /// The verify command passes, whatever the agent says.
    Verify,
}

/// A command run in the agent's container that decides whether the work is done.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verify {
    /// The command and its arguments; no shell is implied. Exit code 0 passes.
    #[schemars(length(min = 1, max = 64), inner(length(max = 4096)), extend("x-kubernetes-list-type" = "atomic"))]
    pub command: Vec<String>,
    /// Its wall clock in seconds; then it has failed. Absent: 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub timeout_seconds: Option<i32>,
}

/// The circuit breaker's thresholds.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Breaker {
    /// Iterations in a row without a change that stop the loop. Absent: the configured number (3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub no_change_threshold: Option<i32>,
    /// Iterations in a row with the same error that stop the loop. Absent: the configured number (5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub same_error_threshold: Option<i32>,
}

impl AgentTaskSpec {
    /// Exit codes that mean "not now".
    pub fn retry_on_exit_codes(&self) -> &[i32] {
        const EX_TEMPFAIL: &[i32] = &[75];
        self.retry_on_exit_codes.as_deref().unwrap_or(EX_TEMPFAIL)
    }

    /// Settled pods to keep.
    pub fn pod_history_limit(&self) -> usize {
        usize::try_from(self.pod_history_limit.unwrap_or(10)).unwrap_or(0)
    }

    /// Whose word completes the task.
    pub fn policy(&self) -> CompletionPolicy {
        self.completion.as_ref().and_then(|c| c.policy).unwrap_or_default()
    }

    /// The verify command, if any.
    pub fn verify(&self) -> Option<&Verify> {
        self.completion.as_ref().and_then(|c| c.verify.as_ref())
    }
}
