//! The init container that copies the runner, where the cluster has no image volumes.

use agentloop_contract::names::RUNNER_DIR;
use serde_json::{Map, Value, json};

use super::{BIN_VOLUME, Injection};

/// What the copy needs follows the agent's container, so that it passes whatever that passes, a LimitRange
/// and the pod's quality of service among it. It costs nothing: a pod needs the most of what its init
/// containers need one after the other and its containers together.
const FOLLOWED: &[&str] = &["cpu", "memory", "ephemeral-storage"];

/// The name of that container.
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
    let followed = agent.map(follow).filter(|value| value.as_object().is_some_and(|map| !map.is_empty()));
    match (configured, followed) {
        // A Guaranteed pod stays one.
        (Some(configured), Some(followed)) if is_guaranteed(&followed) && !is_guaranteed(&configured) => {
            Some(followed)
        }
        (configured, followed) => configured.or(followed),
    }
}

fn follow(agent: &Value) -> Value {
    let mut resources = Map::new();
    for kind in ["requests", "limits"] {
        let Some(all) = agent.get(kind).and_then(Value::as_object) else { continue };
        let kept: Map<String, Value> = all
            .iter()
            .filter(|(name, _)| FOLLOWED.contains(&name.as_str()))
            .map(|(name, quantity)| (name.clone(), quantity.clone()))
            .collect();
        if !kept.is_empty() {
            resources.insert(kind.to_owned(), Value::Object(kept));
        }
    }
    Value::Object(resources)
}

/// Limits of both kinds, and requests that are absent, which means the same, or equal as written.
fn is_guaranteed(resources: &Value) -> bool {
    ["cpu", "memory"].iter().all(|kind| {
        let of = |which: &str| resources.get(which).and_then(|map| map.get(*kind));
        of("limits").is_some() && of("requests").is_none_or(|request| Some(request) == of("limits"))
    })
}

/// As restricted as can be. The user is the pod's or the image's, so that ranges of users are kept.
fn security(injection: &Injection, pod: Option<&Value>) -> Value {
    let mut security = Map::new();
    let mut set = |key: &str, value: Value| security.insert(key.to_owned(), value);
    set("allowPrivilegeEscalation", json!(false));
    set("capabilities", json!({ "drop": ["ALL"] }));
    set("readOnlyRootFilesystem", json!(true));
    set("seccompProfile", json!({ "type": "RuntimeDefault" }));
    let of_pod = |key: &str| pod.and_then(|pod| pod.get(key));
    let is_root = of_pod("runAsUser").and_then(Value::as_i64) == Some(0)
        || of_pod("runAsNonRoot").and_then(Value::as_bool) == Some(false);
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
