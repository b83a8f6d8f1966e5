//! Hand-written schemas for what a task passes on to Kubernetes.
//!
//! A schema derived from our own pod types would drop every field that is newer than these types, and
//! would not fit the annotation of client-side apply. So these objects stay JSON, kept as text: unknown fields
//! are preserved, and only what a validation rule must see is declared.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::text::JsonText;

/// Containers and init containers that a template may have. The more there are, the less room the kubelet
/// leaves to each for its termination message: with these, and what webhooks add, the report still fits.
const MOST_CONTAINERS: u32 = 10;
const MOST_INIT_CONTAINERS: u32 = 8;

/// A pod template as the user wrote it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PodTemplate(pub JsonText);

/// A volume claim template as the user wrote it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PvcTemplate(pub JsonText);

/// The most that the texts below may have together: what a pod may bear in its annotations (256 KiB) without
/// 32 KiB for what agentloop adds (names, hashes, the last iterations) and what webhooks add.
const MOST_NOTES_BYTES: u32 = 224 << 10;

// What is nullable below is null in manifests that users have for Deployments: kubectl writes a null
// creationTimestamp, and a Helm template whose list is empty leaves a key without a value. The API server drops a
// null from an object that is created, but refuses it in server-side apply unless the field is nullable.

/// Labels and annotations, and nothing else: what else a user writes there is dropped, and named by kubectl.
fn metadata() -> Value {
    let texts = |most: u32, bytes: u32| {
        json!({
            "type": "object",
            "nullable": true,
            "maxProperties": most,
            "additionalProperties": { "type": "string", "maxLength": bytes },
        })
    };
    json!({
        "type": "object",
        "description": "Labels and annotations.",
        "properties": {
            "labels": texts(64, 63),
            "annotations": texts(64, 131_072),
            "creationTimestamp": {
                "type": "string",
                "nullable": true,
                "maxLength": 64,
                "description": "Ignored; kubectl writes null into what it generates.",
            },
        },
    })
}

/// Mounts or devices of a container, of which the rules see where they lie.
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

fn containers(description: &str, least: u32, most: u32) -> Value {
    json!({
        "type": "array",
        "description": description,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "minItems": least,
        "maxItems": most,
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

/// A validation rule: the expression, what to say if it is false, of which field, and what is wrong with that:
/// `Invalid`, `Required` or `Forbidden`.
fn rule(rule: &str, message: &str, field: &str, reason: &str) -> Value {
    json!({ "rule": rule, "message": message, "fieldPath": field, "reason": format!("FieldValue{reason}") })
}

/// True of the container that is the agent, in a rule on the pod's spec.
const IS_AGENT: &str = "(self.containers.size() == 1 || c.name == 'agent')";

// Paths as the kernel reads them, in regular expressions: `(\.?/)*` is any number of `/` and `./`. They say what
// `pod::paths` says, which looks again when a pod is built.
const GOES_UP: &str = r"(^|/)\.\.(/|$)";
const RESERVED: &str = r"^(\.?/)*(\.?$|(agentloop|proc|sys|dev)(/|$))";
const TERMINATION_LOG: &str = r"^(\.?/)*dev/(\.?/)*termination-log(/|$)";
/// As `RESERVED`, but for what lies below `/dev/` and `/sys/`.
const COVERS: &str = r"^(\.?/)*(\.?$|(agentloop|proc)(/|$)|(dev|sys)(/(\.?/)*\.?)?$)";
const BELOW_SYS: &str = r"^(\.?/)*sys/";
const BELOW_SYS_FS: &str = r"^(\.?/)*sys/(\.?/)*fs/(\.?/)*([^./]|\.[^/])";

/// True of a workspace's path that covers neither the runner nor what it relies on.
pub(super) fn workspace_rule() -> String {
    format!("!self.matches(r'{GOES_UP}|{RESERVED}')")
}

/// What to say of another.
pub(super) const WORKSPACE_MESSAGE: &str =
    "workspace.mountPath must not contain '..', and must not be / or in /agentloop, /proc, /sys or /dev";

/// Rules that no mount of the agent's container covers the runner, or what it relies on. They are several, as one
/// would cost more than the API server grants to a rule.
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

/// The bytes of all texts that become annotations of a pod, in a rule on the spec.
///
/// What stands in the context is JSON there: a quote, a backslash and a line end take two bytes, another control
/// character six. A text with one of them counts as if all its bytes were such, as rules cannot count them.
fn notes_bytes() -> String {
    let json_bytes = |list: &str| {
        format!(
            "{list}.map(t, 3 + size(bytes(t)) * (t.matches(r'[\\x00-\\x08\\x0b\\x0e-\\x1f]') ? 6 : \
             t.matches(r'[\\x00-\\x1f\\x22\\x5c]') ? 2 : 1)).sum()"
        )
    };
    let command = "self.completion.verify.command";
    let ignore = "self.workspace.ignore";
    let notes = "self.template.metadata.annotations";
    format!(
        "(has(self.prompt) ? size(bytes(self.prompt)) : 0) + \
         (has(self.completion) && has(self.completion.verify) ? {} : 0) + \
         (has(self.workspace) && has({ignore}) ? {} : 0) + \
         (has(self.template.metadata) && has({notes}) && dyn({notes}) != null ? \
         {notes}.map(k, size(bytes(k)) + size(bytes({notes}[k]))).sum() : 0)",
        json_bytes(command),
        json_bytes(ignore),
    )
}

/// True of a spec whose texts fit into a pod's annotations, and of one in which they are what they were: an
/// older task that has more can still be suspended.
pub(super) fn notes_rule() -> String {
    let same = ["prompt", "completion", "workspace", "template.metadata"].map(|part| {
        let (now, before) = (format!("self.{part}"), format!("oldSelf.value().{part}"));
        format!("has({now}) == has({before}) && (!has({now}) || {now} == {before})")
    });
    format!("{} <= {MOST_NOTES_BYTES} || (oldSelf.hasValue() && {})", notes_bytes(), same.join(" && "))
}

/// What to say of another.
pub(super) const NOTES_MESSAGE: &str = "prompt, completion.verify.command, workspace.ignore and the template's annotations must not exceed 224 KiB together, because they become annotations of the pod; put text into files in the workspace, or use promptFrom";

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
                "metadata": metadata(),
                "spec": {
                    "type": "object",
                    "description": "The pod's spec, passed on as it is; all fields of Kubernetes' PodSpec.",
                    "x-kubernetes-preserve-unknown-fields": true,
                    "required": ["containers"],
                    "properties": {
                        "containers": containers("The one named `agent`, or else the only one, runs the agent.", 1, MOST_CONTAINERS),
                        "initContainers": containers("Run before the agent, in every iteration.", 0, MOST_INIT_CONTAINERS),
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
                "metadata": metadata(),
                "spec": {
                    "type": "object",
                    "description": "The claim's spec, passed on as it is; all fields of Kubernetes' PersistentVolumeClaimSpec.",
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
