//! Hand-written schemas for the parts of a task that are passed on to Kubernetes.
//!
//! With a schema derived from the Rust types of pods, the API server would drop every field that is newer than these
//! types, and the CRD would be too large for the annotation of client-side apply. So these objects stay JSON, kept as
//! text. Unknown fields are preserved, and only the fields that validation rules need are declared.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::text::JsonText;

/// Maximum containers and init containers of a template. The kubelet limits the termination messages of all containers
/// together. With this number of containers, and those that webhooks add, the report still fits.
const MAX_CONTAINERS: u32 = 10;
const MAX_INIT_CONTAINERS: u32 = 8;

/// A pod template as the user wrote it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PodTemplate(pub JsonText);

/// A PVC template as the user wrote it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PvcTemplate(pub JsonText);

/// Maximum total size of the texts below, which become annotations of a pod. All annotations together may have 256 KiB;
/// 32 KiB are left for those of agentloop (names, hashes, the last iterations) and of webhooks.
const MAX_ANNOTATION_BYTES: u32 = 224 << 10;

// Some fields are nullable, because they are null in common manifests: kubectl writes a null creationTimestamp, and a
// Helm template with an empty list leaves a key without a value. The API server drops a null when an object is created,
// but in server-side apply it rejects a null unless the field is nullable.

/// Labels and annotations. The API server drops other fields, and kubectl warns about them.
fn metadata(description: &str) -> Value {
    let texts = |max: u32, bytes: u32| {
        json!({
            "type": "object",
            "nullable": true,
            "maxProperties": max,
            "additionalProperties": { "type": "string", "maxLength": bytes },
        })
    };
    json!({
        "type": "object",
        "description": description,
        "properties": {
            "labels": texts(64, 63),
            "annotations": texts(64, 131_072),
            "creationTimestamp": {
                "type": "string",
                "nullable": true,
                "maxLength": 64,
                "description": "Ignored. kubectl writes a null here when it generates a manifest.",
            },
        },
    })
}

/// Mounts or devices of a container. The rules need their paths.
fn mounts(path: &str) -> Value {
    json!({
        "type": "array",
        "nullable": true,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": [path],
        "maxItems": 128,
        "items": {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": true,
            "required": [path],
            "properties": { path: { "type": "string", "maxLength": 1024 } },
        },
    })
}

fn containers(description: &str, min: u32, max: u32) -> Value {
    json!({
        "type": "array",
        "description": description,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "minItems": min,
        "maxItems": max,
        "items": {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": true,
            "required": ["name"],
            "properties": {
                "name": { "type": "string", "maxLength": 63 },
                "image": { "type": "string", "maxLength": 1024 },
                "command": {
                    "type": "array",
                    "x-kubernetes-list-type": "atomic",
                    "maxItems": 64,
                    "items": { "type": "string", "maxLength": 32768 },
                },
                "volumeMounts": mounts("mountPath"),
                "volumeDevices": mounts("devicePath"),
                "restartPolicy": { "type": "string", "maxLength": 32 },
                "restartPolicyRules": {
                    "type": "array",
                    "x-kubernetes-list-type": "atomic",
                    "maxItems": 20,
                    "items": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": true,
                        "properties": { "action": { "type": "string", "maxLength": 64 } },
                    },
                },
            },
            "x-kubernetes-validations": [rule(
                "has(self.image) && self.image != '' && self.image.trim() == self.image",
                "every container needs an image, without leading or trailing spaces",
                ".image",
                "Required",
            )],
        },
    })
}

/// A validation rule: the expression, the message if it is false, the field, and the reason (`Invalid`, `Required` or
/// `Forbidden`).
fn rule(rule: &str, message: &str, field: &str, reason: &str) -> Value {
    json!({ "rule": rule, "message": message, "fieldPath": field, "reason": format!("FieldValue{reason}") })
}

/// True for the agent's container `c`, in a rule on the pod's spec.
const IS_AGENT: &str = "(self.containers.size() == 1 || c.name == 'agent')";

// Regular expressions for paths, as the kernel resolves them: `(\.?/)*` is any number of `/` and `./`. They are
// equivalent to `pod::paths`, which checks again when a pod is built.
const GOES_UP: &str = r"(^|/)\.\.(/|$)";
const RESERVED: &str = r"^(\.?/)*(\.?$|(agentloop|proc|sys|dev)(/|$))";
const TERMINATION_LOG: &str = r"^(\.?/)*dev/(\.?/)*termination-log(/|$)";
/// Like `RESERVED`, but without the paths below `/dev/` and `/sys/`.
const COVERS: &str = r"^(\.?/)*(\.?$|(agentloop|proc)(/|$)|(dev|sys)(/(\.?/)*\.?)?$)";
const BELOW_SYS: &str = r"^(\.?/)*sys/";
const BELOW_SYS_FS: &str = r"^(\.?/)*sys/(\.?/)*fs/(\.?/)*([^./]|\.[^/])";

/// True for a workspace path that hides neither the runner nor what it relies on.
pub(super) fn workspace_rule() -> String {
    format!("!self.matches(r'{GOES_UP}|{RESERVED}')")
}

/// The message of [`workspace_rule`].
pub(super) const WORKSPACE_MESSAGE: &str =
    "workspace.mountPath must not contain '..', and must not be / or in /agentloop, /proc, /sys or /dev";

/// Rules that no mount of the agent's container hides the runner or what it relies on. A single rule would exceed the
/// cost that the API server allows for a rule.
fn mount_rules(list: &str, path: &str) -> [Value; 3] {
    let (up_or_log, path) = (format!("{GOES_UP}|{TERMINATION_LOG}"), format!("m.{path}"));
    [
        format!("!{path}.matches(r'{up_or_log}')"),
        format!("!{path}.matches(r'{COVERS}')"),
        format!("!{path}.matches(r'{BELOW_SYS}') || {path}.matches(r'{BELOW_SYS_FS}')"),
    ]
    .map(|good| {
        let every =
            format!("self.containers.all(c, !{IS_AGENT} || !has(c.{list}) || dyn(c.{list}) == null || c.{list}.all(m, {good}))");
        rule(&every, MOUNTS_MESSAGE, ".containers", "Invalid")
    })
}

/// The total bytes of all texts that become annotations of a pod, in a rule on the spec.
///
/// Texts in the context are JSON: a quote, a backslash and a line end take two bytes, another control character six. A
/// rule cannot count them, so a text with at least one of them counts as if all its bytes were like that.
fn annotation_bytes() -> String {
    let json_bytes = |list: &str| {
        format!(
            "{list}.map(t, 3 + size(bytes(t)) * (t.matches(r'[\\x00-\\x08\\x0b\\x0e-\\x1f]') ? 6 : \
             t.matches(r'[\\x00-\\x1f\\x22\\x5c]') ? 2 : 1)).sum()"
        )
    };
    let command = "self.completion.verify.command";
    let ignore = "self.workspace.ignore";
    let annotations = "self.template.metadata.annotations";
    format!(
        "(has(self.prompt) ? size(bytes(self.prompt)) : 0) + \
         (has(self.completion) && has(self.completion.verify) ? {} : 0) + \
         (has(self.workspace) && has({ignore}) ? {} : 0) + \
         (has(self.template.metadata) && has({annotations}) && dyn({annotations}) != null ? \
         {annotations}.map(k, size(bytes(k)) + size(bytes({annotations}[k]))).sum() : 0)",
        json_bytes(command),
        json_bytes(ignore),
    )
}

/// True for a spec whose texts fit into the annotations of a pod, or whose texts have not changed: so an older task
/// with more text can still be suspended.
pub(super) fn annotations_rule() -> String {
    let same = ["prompt", "completion", "workspace", "template.metadata"].map(|part| {
        let (now, before) = (format!("self.{part}"), format!("oldSelf.value().{part}"));
        format!("has({now}) == has({before}) && (!has({now}) || {now} == {before})")
    });
    format!(
        "{} <= {MAX_ANNOTATION_BYTES} || (oldSelf.hasValue() && {})",
        annotation_bytes(),
        same.join(" && ")
    )
}

/// The message of [`annotations_rule`].
pub(super) const ANNOTATIONS_MESSAGE: &str = "prompt, completion.verify.command, workspace.ignore and the template's annotations must not exceed 224 KiB together, because they become annotations of the pod; put text into files in the workspace, or use promptFrom";

const MOUNTS_MESSAGE: &str = "paths of mounts and devices in the agent's container must not contain '..', and must not be /, /dev/termination-log, or in /agentloop, /proc, /sys or /dev, except below /dev/ and /sys/fs/";

fn pod_rules() -> Value {
    let no_restart_all = |list: &str| {
        format!(
            "!has(self.{list}) || self.{list}.all(c, !has(c.restartPolicyRules) || \
             c.restartPolicyRules.all(r, !has(r.action) || r.action != 'RestartAllContainers'))"
        )
    };
    let own = [
        rule(
            "self.containers.size() == 1 || self.containers.exists_one(c, c.name == 'agent')",
            "with several containers, the one that runs the agent must be named 'agent'",
            ".containers",
            "Invalid",
        ),
        rule(
            &format!("self.containers.all(c, !{IS_AGENT} || (has(c.command) && c.command.size() > 0))"),
            "the agent's container needs a command: agentloop does not read the image's entrypoint, so repeat it here",
            ".containers",
            "Required",
        ),
        rule(
            &format!(
                "self.containers.all(c, !{IS_AGENT} || (!has(c.restartPolicyRules) && \
                 (!has(c.restartPolicy) || c.restartPolicy == 'Never')))"
            ),
            "the agent's container must not be restarted in place, because every run is a counted iteration: remove restartPolicy and restartPolicyRules",
            ".containers",
            "Forbidden",
        ),
        rule(
            &no_restart_all("containers"),
            "restartPolicyRules must not use RestartAllContainers: it would run the agent again without counting it",
            ".containers",
            "Forbidden",
        ),
        rule(
            &no_restart_all("initContainers"),
            "restartPolicyRules must not use RestartAllContainers: it would run the agent again without counting it",
            ".initContainers",
            "Forbidden",
        ),
        rule(
            "!has(self.restartPolicy) || self.restartPolicy == 'Never'",
            "restartPolicy must be Never or absent: agentloop creates a new pod for every iteration",
            ".restartPolicy",
            "Forbidden",
        ),
        rule(
            "!has(self.nodeName)",
            "nodeName cannot be set, because pods are created with a scheduling gate: use nodeSelector or affinity",
            ".nodeName",
            "Forbidden",
        ),
    ];
    let mounts = [mount_rules("volumeMounts", "mountPath"), mount_rules("volumeDevices", "devicePath")];
    own.into_iter().chain(mounts.into_iter().flatten()).collect()
}

impl JsonSchema for PodTemplate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PodTemplate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "required": ["spec"],
            "properties": {
                "metadata": metadata("Labels and annotations of each pod."),
                "spec": {
                    "type": "object",
                    "description": "Spec of each pod: a Kubernetes PodSpec. It is passed on unchanged, except for what agentloop sets.",
                    "x-kubernetes-preserve-unknown-fields": true,
                    "required": ["containers"],
                    "properties": {
                        "containers": containers("Containers of each pod. The one named `agent`, or else the only one, runs the agent.", 1, MAX_CONTAINERS),
                        "initContainers": containers("Init containers, which run before the agent in every iteration.", 0, MAX_INIT_CONTAINERS),
                        "nodeName": { "type": "string", "maxLength": 253 },
                        "restartPolicy": { "type": "string", "maxLength": 32 },
                    },
                    "x-kubernetes-validations": pod_rules(),
                },
            },
        })
    }
}

impl JsonSchema for PvcTemplate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PvcTemplate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "required": ["spec"],
            "properties": {
                "metadata": metadata("Labels and annotations of the PVC."),
                "spec": {
                    "type": "object",
                    "description": "Spec of the PVC: a Kubernetes PersistentVolumeClaimSpec. It is passed on unchanged.",
                    "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {
                        "accessModes": {
                            "type": "array",
                            "x-kubernetes-list-type": "atomic",
                            "maxItems": 8,
                            "items": { "type": "string", "maxLength": 32 },
                        },
                        "storageClassName": { "type": "string", "maxLength": 253 },
                    },
                },
            },
        })
    }
}
