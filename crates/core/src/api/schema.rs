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
pub struct ClaimTemplate(pub JsonText);

fn metadata() -> Value {
    json!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "description": "Labels and annotations.",
    })
}

fn containers(description: &str, least: u32, most: u32) -> Value {
    json!({
        "type": "array",
        "description": description,
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
                    "maxItems": 64,
                    "items": { "type": "string", "maxLength": 32768 },
                },
                "restartPolicy": { "type": "string", "maxLength": 32 },
                "restartPolicyRules": {
                    "type": "array",
                    "maxItems": 20,
                    "items": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": true,
                        "properties": { "action": { "type": "string", "maxLength": 64 } },
                    },
                },
            },
        },
    })
}

/// A validation rule: the expression and what to say where it is false.
fn rule(rule: &str, message: &str) -> Value {
    json!({ "rule": rule, "message": message })
}

/// True of the container that is the agent, in a rule on the pod's spec.
const IS_AGENT: &str = "(self.containers.size() == 1 || c.name == 'agent')";

fn pod_rules() -> Value {
    let no_restart_all = |list: &str| {
        format!(
            "!has(self.{list}) || self.{list}.all(c, !has(c.restartPolicyRules) || \
             c.restartPolicyRules.all(r, !has(r.action) || r.action != 'RestartAllContainers'))"
        )
    };
    json!([
        rule(
            "self.containers.size() == 1 || self.containers.exists_one(c, c.name == 'agent')",
            "with several containers, name the one that runs the agent 'agent'",
        ),
        rule(
            &format!("self.containers.all(c, !{IS_AGENT} || (has(c.command) && c.command.size() > 0))"),
            "the agent's container needs a command: the image is never looked up, so write out what its entrypoint is",
        ),
        rule(
            &format!(
                "self.containers.all(c, !{IS_AGENT} || (!has(c.restartPolicyRules) && \
                 (!has(c.restartPolicy) || c.restartPolicy == 'Never')))"
            ),
            "the agent's container must not be restarted in place: every run is an iteration that is counted; drop restartPolicy and restartPolicyRules",
        ),
        rule(
            &no_restart_all("containers"),
            "restartPolicyRules must not use RestartAllContainers: it would run the agent again uncounted",
        ),
        rule(
            &no_restart_all("initContainers"),
            "restartPolicyRules must not use RestartAllContainers: it would run the agent again uncounted",
        ),
        rule(
            "!has(self.restartPolicy) || self.restartPolicy == 'Never'",
            "restartPolicy must be Never or absent: agentloop starts a fresh pod for every iteration",
        ),
        rule(
            "!has(self.nodeName)",
            "nodeName cannot be used with a pod that waits for its start; use nodeSelector or affinity",
        ),
    ])
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

impl JsonSchema for ClaimTemplate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ClaimTemplate".into()
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
