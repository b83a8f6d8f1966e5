//! The pod of one iteration, and the workspace PVC of a task.
//!
//! Both are built as JSON: everything that a user wrote in a template reaches the API server unchanged, including
//! fields that are newer than our types.

mod agent;
mod context;
mod install;
mod paths;
mod runner;
mod variables;
mod volumes;

use agentloop_contract::{
    context::Context,
    hex,
    names::{
        ANNOTATION_AGENT, ANNOTATION_COMPLETION_HASH, ANNOTATION_CONTEXT, ANNOTATION_OWNER_GENERATION,
        ANNOTATION_PROMPT, ANNOTATION_RUNNER, ANNOTATION_TEMPLATE_HASH, FINALIZER_SETTLE, GATE_START,
        LABEL_ATTEMPT, LABEL_ITERATION, LABEL_TASK, LABEL_TASK_UID,
    },
    text::cut_name,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    api::{ActiveIteration, AgentTask, AgentTaskSpec, BreakerStatus, PastIteration, Thresholds, WhenDeleted},
    settings::Settings,
};

pub(crate) use runner::waits_for_the_runners_image;

/// The volume with the workspace. Users mount it by this name in their own init containers.
pub const WORKSPACE_VOLUME: &str = "workspace";
/// The volume with the runner's inputs.
pub const INPUT_VOLUME: &str = "agentloop-input";
const BIN_VOLUME: &str = "agentloop-bin";
const SCRATCH_VOLUME: &str = "agentloop-run";

/// How many seconds the pod's deadline is longer than all timeouts of the runner together. The deadline includes the
/// time to pull images, and a slow pull must not cost an iteration.
const BACKSTOP_SECONDS: i64 = 1800;
/// Kubernetes' default for `terminationGracePeriodSeconds`.
const DEFAULT_GRACE_SECONDS: i64 = 30;
/// Default for `completion.verify.timeoutSeconds`.
const DEFAULT_VERIFY_SECONDS: i64 = 600;
/// Maximum characters of a pod's name, because it is also its host name and the value of a label.
const MAX_POD_NAME: usize = 63;

/// How a pod gets the runner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Injection {
    /// The runner's image.
    pub image: String,
    /// Its pull policy; absent: Kubernetes' default.
    pub pull_policy: Option<String>,
    /// Whether the image is mounted as a volume. Otherwise an init container copies the runner.
    pub image_volume: bool,
    /// The resources of that init container; absent: those of the agent's container.
    pub resources: Option<Map<String, Value>>,
    /// Changes to its security context, which is the most restricted one; null removes a field.
    pub security_context: Option<Map<String, Value>>,
}

/// Why no pod can be built from a task's template. The CRD's validation rejects such templates at `kubectl apply`, but
/// an object may have been stored under another version of the CRD.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    /// The pod template.
    #[error("spec.template: {0}")]
    Pod(String),
    /// The PVC template.
    #[error("spec.workspace.volumeClaimTemplate: {0}")]
    Pvc(String),
    /// The workspace.
    #[error("spec.workspace: {0}")]
    Workspace(String),
}

impl InvalidTemplate {
    fn pod(why: &impl ToString) -> Self {
        Self::Pod(why.to_string())
    }
}

/// Eight hex digits of the SHA-256 of a task's uid. They distinguish tasks with the same name.
pub fn uid_hash(uid: &str) -> String {
    digest(uid.as_bytes(), 4)
}

/// The first bytes of a SHA-256, in hex.
fn digest(bytes: &[u8], count: usize) -> String {
    hex::encode(Sha256::digest(bytes).get(..count).unwrap_or_default())
}

/// The name of an attempt's pod.
pub fn pod_name(task: &str, uid: &str, iteration: i32, attempt: i32) -> String {
    let tail = format!("-{}-{iteration}-{attempt}", uid_hash(uid));
    format!("{}{tail}", cut_name(task, MAX_POD_NAME.saturating_sub(tail.len())))
}

/// The name of the PVC that is created for a task.
pub fn pvc_name(task: &str, uid: &str) -> String {
    let tail = format!("-{}", uid_hash(uid));
    format!("{}{tail}", cut_name(task, MAX_POD_NAME.saturating_sub(tail.len())))
}

/// A hash of the parts of a task's spec that its pods are created from. If it changes, a pod that has not started is
/// replaced.
pub fn template_hash(spec: &AgentTaskSpec) -> String {
    let rest = json!([
        spec.prompt,
        spec.prompt_from,
        spec.loop_context,
        spec.completion,
        spec.retry_on_exit_codes,
        spec.iteration_timeout_seconds,
        spec.workspace.mount_path,
        spec.workspace.ignore,
    ])
    .to_string();
    // The hash is over the canonical text, because the order of keys does not matter.
    let made_from = format!("[{},{}", spec.template.0.canonical(), rest.get(1..).unwrap_or_default());
    digest(made_from.as_bytes(), 8)
}

/// A hash of the goal and the completion policy. If the hash that a pod was created with is not the current one, its
/// report cannot complete the task.
pub fn completion_hash(spec: &AgentTaskSpec) -> String {
    let verify = spec.verify().map(|verify| json!([verify.command, verify_timeout(verify)]));
    let made_from = json!([spec.policy(), verify, spec.prompt, spec.prompt_from]);
    digest(made_from.to_string().as_bytes(), 8)
}

fn owner(task: &AgentTask) -> Value {
    json!({
        "apiVersion": AgentTask::api_version(&()),
        "kind": AgentTask::kind(&()),
        "name": task.name_any(),
        "uid": task.uid().unwrap_or_default(),
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

fn labels(task: &AgentTask) -> Map<String, Value> {
    let name = task.name_any();
    let pairs = [
        (LABEL_TASK, cut_name(&name, 63).to_owned()),
        (LABEL_TASK_UID, task.uid().unwrap_or_default()),
        ("app.kubernetes.io/managed-by", "agentloop".to_owned()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), Value::String(value))).collect()
}

/// The PVC of a task, or `None` if the task has no template for one. The task owns it only if it must be deleted with
/// the task.
///
/// # Errors
/// The template is too large or not an object.
pub fn pvc(task: &AgentTask) -> Result<Option<Value>, InvalidTemplate> {
    let Some(template) = &task.spec.workspace.volume_claim_template else { return Ok(None) };
    let parsed = template.0.parse().map_err(|why| InvalidTemplate::Pvc(why.to_string()))?;
    let Value::Object(mut pvc) = parsed else {
        return Err(InvalidTemplate::Pvc("it is not an object".to_owned()));
    };
    let mut meta = take_object(&mut pvc, "metadata");
    meta.remove("creationTimestamp");
    meta.insert("name".to_owned(), json!(pvc_name(&task.name_any(), &task.uid().unwrap_or_default())));
    meta.insert("namespace".to_owned(), json!(task.namespace()));
    let mut own = take_object(&mut meta, "labels");
    own.extend(labels(task));
    meta.insert("labels".to_owned(), Value::Object(own));
    let mut annotations = take_object(&mut meta, "annotations");
    if let Value::Object(generation) = owner_generation(task) {
        annotations.extend(generation);
    }
    meta.insert("annotations".to_owned(), Value::Object(annotations));
    let owners: Vec<Value> = is_pvc_deleted_with(task).then(|| owner(task)).into_iter().collect();
    meta.insert("ownerReferences".to_owned(), json!(owners));
    pvc.insert("apiVersion".to_owned(), json!("v1"));
    pvc.insert("kind".to_owned(), json!("PersistentVolumeClaim"));
    pvc.insert("metadata".to_owned(), Value::Object(meta));
    Ok(Some(Value::Object(pvc)))
}

/// Whether the owners of the workspace PVC are what this version of the task, or a newer one, requires: the task is one
/// of them if and only if the PVC must be deleted with it.
pub fn is_pvc_owner_settled(task: &AgentTask, pvc: &ObjectMeta) -> bool {
    let known = pvc.annotations.as_ref().and_then(|annotations| annotations.get(ANNOTATION_OWNER_GENERATION));
    let known: i64 = known.and_then(|text| text.parse().ok()).unwrap_or(0);
    let generation = task.metadata.generation.unwrap_or_default();
    let uid = task.uid().unwrap_or_default();
    let is_owned = pvc.owner_references.iter().flatten().any(|owner| owner.uid == uid);
    known > generation || (known == generation && is_owned == is_pvc_deleted_with(task))
}

/// A merge patch of the PVC's metadata that adds the task to its owners or removes it. It names the PVC's version.
pub fn pvc_owner_patch(task: &AgentTask, pvc: &ObjectMeta) -> Value {
    let uid = task.uid().unwrap_or_default();
    let others = pvc.owner_references.iter().flatten().filter(|owner| owner.uid != uid);
    let mut owners: Vec<Value> = others.map(|owner| json!(owner)).collect();
    owners.extend(is_pvc_deleted_with(task).then(|| owner(task)));
    json!({
        "resourceVersion": pvc.resource_version,
        "ownerReferences": owners,
        "annotations": owner_generation(task),
    })
}

fn is_pvc_deleted_with(task: &AgentTask) -> bool {
    task.spec.workspace.when_deleted.unwrap_or_default() == WhenDeleted::Delete
}

/// The annotation with the generation of the spec for which the owner is set.
fn owner_generation(task: &AgentTask) -> Value {
    json!({ ANNOTATION_OWNER_GENERATION: task.metadata.generation.unwrap_or_default().to_string() })
}

/// Removes an object from the map, to change it; an empty one if there is none.
fn take_object(map: &mut Map<String, Value>, key: &str) -> Map<String, Value> {
    match map.remove(key) {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

/// Removes a list from the map, to change it; an empty one if there is none.
fn take_list(map: &mut Map<String, Value>, key: &str) -> Vec<Value> {
    match map.remove(key) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

/// What a pod is built from, besides its task.
#[derive(Clone, Copy, Debug)]
pub struct BuildInputs<'a> {
    /// How the pod gets the runner.
    pub injection: &'a Injection,
    /// The settings in force.
    pub settings: &'a Settings,
    /// A random key, different for each pod, that authenticates the runner's report.
    pub report_key: &'a str,
}

/// The pod of the active iteration. It is not scheduled until our scheduling gate is removed.
///
/// # Errors
/// The template has no container for the agent, the agent has no command, or a mount would hide the runner.
pub fn build(
    task: &AgentTask,
    active: &ActiveIteration,
    thresholds: &Thresholds,
    streaks: &BreakerStatus,
    history: &[PastIteration],
    inputs: &BuildInputs<'_>,
) -> Result<Value, InvalidTemplate> {
    let spec = &task.spec;
    if let Some(bad) = paths::bad_workspace(&spec.workspace.mount_path) {
        return Err(InvalidTemplate::Workspace(bad));
    }
    let Value::Object(mut pod) = spec.template.0.parse().map_err(|why| InvalidTemplate::pod(&why))? else {
        return Err(InvalidTemplate::pod(&"it is not an object"));
    };
    let injection = inputs.injection;
    let mut pod_spec = take_object(&mut pod, "spec");
    let mut containers = take_list(&mut pod_spec, "containers");
    let at = agent::position(&containers)?;
    let Some(Value::Object(agent)) = containers.get_mut(at) else {
        return Err(InvalidTemplate::pod(&"a container is not an object"));
    };
    let mut init_containers = take_list(&mut pod_spec, "initContainers");
    if !injection.image_volume {
        let security = pod_spec.get("securityContext");
        init_containers.insert(0, install::container(injection, agent, security));
    }
    let start_in_workspace = agent::has_no_working_dir(agent);
    let no_new_privileges = agent::denies_privileges(agent);
    agent::wrap(agent, task, active, thresholds, inputs.report_key)?;
    let name = agent.get("name").cloned().unwrap_or_default();

    let grace = pod_spec
        .get("terminationGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(DEFAULT_GRACE_SECONDS)
        .max(1);
    let from_pod = context::PodContext {
        grace,
        containers: containers.len().saturating_add(init_containers.len()),
        start_in_workspace,
        no_new_privileges,
    };
    let context = context::of(task, active, thresholds, streaks, history, inputs.settings, &from_pod);
    let timeout = i64::from(thresholds.iteration_timeout_seconds.value.max(1));
    let verify_timeout = spec.verify().map_or(0, verify_timeout);
    let deadline =
        timeout.saturating_add(verify_timeout).saturating_add(grace).saturating_add(BACKSTOP_SECONDS);
    pod_spec.insert("restartPolicy".to_owned(), json!("Never"));
    pod_spec.insert("activeDeadlineSeconds".to_owned(), json!(deadline));
    pod_spec.entry("automountServiceAccountToken").or_insert(json!(false));
    let mut gates = take_list(&mut pod_spec, "schedulingGates");
    gates.push(json!({ "name": GATE_START }));
    pod_spec.insert("schedulingGates".to_owned(), Value::Array(gates));
    let mut all_volumes = take_list(&mut pod_spec, "volumes");
    all_volumes.extend(volumes::volumes(task, injection));
    pod_spec.insert("volumes".to_owned(), Value::Array(all_volumes));
    if !init_containers.is_empty() {
        pod_spec.insert("initContainers".to_owned(), Value::Array(init_containers));
    }
    pod_spec.insert("containers".to_owned(), Value::Array(containers));

    let mut meta = take_object(&mut pod, "metadata");
    metadata(&mut meta, task, active, &context, name);
    set_runner(&mut meta, injection);
    pod.insert("apiVersion".to_owned(), json!("v1"));
    pod.insert("kind".to_owned(), json!("Pod"));
    pod.insert("metadata".to_owned(), Value::Object(meta));
    pod.insert("spec".to_owned(), Value::Object(pod_spec));
    Ok(Value::Object(pod))
}

/// Records the runner that the pod is created with. A pod that has not started is replaced if the image changes.
fn set_runner(meta: &mut Map<String, Value>, injection: &Injection) {
    let mut annotations = take_object(meta, "annotations");
    annotations.insert(ANNOTATION_RUNNER.to_owned(), json!(injection.mark()));
    meta.insert("annotations".to_owned(), Value::Object(annotations));
}

fn verify_timeout(verify: &crate::api::Verify) -> i64 {
    verify.timeout_seconds.map_or(DEFAULT_VERIFY_SECONDS, i64::from)
}

fn metadata(
    meta: &mut Map<String, Value>,
    task: &AgentTask,
    active: &ActiveIteration,
    context: &Context,
    agent: Value,
) {
    meta.insert("name".to_owned(), json!(active.pod_name));
    meta.remove("generateName");
    meta.insert("namespace".to_owned(), json!(task.namespace()));
    meta.insert("ownerReferences".to_owned(), json!([owner(task)]));
    meta.remove("creationTimestamp");
    let mut finalizers = take_list(meta, "finalizers");
    finalizers.push(json!(FINALIZER_SETTLE));
    meta.insert("finalizers".to_owned(), Value::Array(finalizers));
    let mut own = take_object(meta, "labels");
    own.extend(labels(task));
    own.insert(LABEL_ITERATION.to_owned(), json!(active.iteration.to_string()));
    own.insert(LABEL_ATTEMPT.to_owned(), json!(active.attempt.to_string()));
    meta.insert("labels".to_owned(), Value::Object(own));
    let mut annotations = take_object(meta, "annotations");
    // If an autoscaler evicted the pod, the money spent on the iteration would be lost.
    annotations.entry("cluster-autoscaler.kubernetes.io/safe-to-evict").or_insert(json!("false"));
    annotations.entry("karpenter.sh/do-not-disrupt").or_insert(json!("true"));
    annotations.insert(ANNOTATION_TEMPLATE_HASH.to_owned(), json!(template_hash(&task.spec)));
    annotations.insert(ANNOTATION_COMPLETION_HASH.to_owned(), json!(completion_hash(&task.spec)));
    annotations.insert(ANNOTATION_AGENT.to_owned(), agent);
    // Serialising strings and numbers does not fail. If it did, the runner would report the empty file.
    let context = serde_json::to_string(context).unwrap_or_default();
    annotations.insert(ANNOTATION_CONTEXT.to_owned(), json!(context));
    if let Some(prompt) = &task.spec.prompt {
        annotations.insert(ANNOTATION_PROMPT.to_owned(), json!(prompt));
    }
    meta.insert("annotations".to_owned(), Value::Object(annotations));
}
