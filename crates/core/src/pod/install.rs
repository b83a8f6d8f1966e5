//! The init container that copies the runner, if the cluster has no image volumes.

use agentloop_contract::names::RUNNER_DIR;
use serde_json::{Map, Value, json};

use super::{BIN_VOLUME, Injection};

/// The resources that the init container copies from the agent's container, so that it satisfies the same LimitRange
/// and the pod keeps its quality of service class. This does not increase the pod's request, which is the maximum of
/// the largest init container and the sum of all containers.
const COPIED: &[&str] = &["cpu", "memory", "ephemeral-storage"];

/// Its name.
pub(super) const NAME: &str = "agentloop-install";

pub(super) fn container(
    injection: &Injection,
    agent: &Map<String, Value>,
    pod_security: Option<&Value>,
) -> Value {
    let mut container = Map::new();
    let mut set = |key: &str, value: Value| container.insert(key.to_owned(), value);
    set("name", json!(NAME));
    set("image", json!(injection.image));
    set("command", json!(["/agentloop-runner", "install", RUNNER_DIR]));
    set("volumeMounts", json!([{ "name": BIN_VOLUME, "mountPath": RUNNER_DIR }]));
    if let Some(policy) = &injection.pull_policy {
        set("imagePullPolicy", json!(policy));
    }
    if let Some(resources) = resources(injection, agent.get("resources")) {
        set("resources", resources);
    }
    set("securityContext", security(injection, pod_security));
    Value::Object(container)
}

fn resources(injection: &Injection, agent: Option<&Value>) -> Option<Value> {
    let configured = injection.resources.clone().filter(|map| !map.is_empty()).map(Value::Object);
    let copied =
        agent.map(copied_resources).filter(|value| value.as_object().is_some_and(|map| !map.is_empty()));
    match (configured, copied) {
        // A pod of the class Guaranteed must stay in it.
        (Some(configured), Some(copied)) if is_guaranteed(&copied) && !is_guaranteed(&configured) => {
            Some(copied)
        }
        (configured, copied) => configured.or(copied),
    }
}

fn copied_resources(agent: &Value) -> Value {
    let mut resources = Map::new();
    for kind in ["requests", "limits"] {
        let Some(all) = agent.get(kind).and_then(Value::as_object) else { continue };
        let kept: Map<String, Value> = all
            .iter()
            .filter(|(name, _)| COPIED.contains(&name.as_str()))
            .map(|(name, quantity)| (name.clone(), quantity.clone()))
            .collect();
        if !kept.is_empty() {
            resources.insert(kind.to_owned(), Value::Object(kept));
        }
    }
    Value::Object(resources)
}

/// Whether the container is in the class Guaranteed: it has limits for CPU and memory, and its requests are absent or
/// literally equal to the limits.
fn is_guaranteed(resources: &Value) -> bool {
    ["cpu", "memory"].iter().all(|kind| {
        let value = |which: &str| resources.get(which).and_then(|map| map.get(*kind));
        value("limits").is_some() && value("requests").is_none_or(|request| Some(request) == value("limits"))
    })
}

/// The most restricted security context. It does not set the user, which stays that of the pod or the image, because a
/// namespace may restrict user ids.
fn security(injection: &Injection, pod: Option<&Value>) -> Value {
    let mut security = Map::new();
    let mut set = |key: &str, value: Value| security.insert(key.to_owned(), value);
    set("allowPrivilegeEscalation", json!(false));
    set("capabilities", json!({ "drop": ["ALL"] }));
    set("readOnlyRootFilesystem", json!(true));
    set("seccompProfile", json!({ "type": "RuntimeDefault" }));
    let from_pod = |key: &str| pod.and_then(|pod| pod.get(key));
    let is_root = from_pod("runAsUser").and_then(Value::as_i64) == Some(0)
        || from_pod("runAsNonRoot").and_then(Value::as_bool) == Some(false);
    if !is_root {
        set("runAsNonRoot", json!(true));
    }
    for (key, value) in injection.security_context.iter().flatten() {
        if value.is_null() {
            security.remove(key);
        } else {
            security.insert(key.clone(), value.clone());
        }
    }
    Value::Object(security)
}
