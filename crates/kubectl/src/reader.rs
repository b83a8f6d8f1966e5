//! The pod that reads a workspace: what it is made of, and the commands that it runs.
//!
//! It has the task's own image and user, so that it may read what the agent wrote; a read-only mount; no ServiceAccount
//! token and no Secret; and no more privileges than the profile `restricted` allows.

use agentloop_contract::names::WORKSPACE_DIR;
use agentloop_contract::text::cut_name;
use agentloop_core::api::{AgentTask, WorkspaceChange};
use agentloop_core::pod::pvc_name;
use kube::{Resource, ResourceExt};
use serde_json::{Map, Value, json};

/// Seconds after which the pod ends by itself, whatever became of the plugin.
pub const LIFETIME: i64 = 900;
/// Label of these pods.
pub const LABEL: (&str, &str) = ("app.kubernetes.io/managed-by", "kubectl-agentloop");
/// The only container.
pub const CONTAINER: &str = "reader";

/// The PVC with the workspace, or why there is none.
pub fn claim(task: &AgentTask) -> Result<String, String> {
    let workspace = &task.spec.workspace;
    match (&workspace.persistent_volume_claim, &workspace.volume_claim_template) {
        (Some(existing), _) => Ok(existing.claim_name.clone()),
        (None, Some(_)) => Ok(pvc_name(&task.name_any(), &task.uid().unwrap_or_default())),
        (None, None) => Err("its workspace is an emptyDir, which is gone with each pod: set \
             spec.workspace.volumeClaimTemplate in the next task to keep the work"
            .to_owned()),
    }
}

/// The pod. On a node where another pod has mounted the volume, it must run on the same one.
pub fn pod(task: &AgentTask, node: Option<&str>) -> Result<Value, String> {
    let claim = claim(task)?;
    let template =
        task.spec.template.0.parse().map_err(|error| format!("its template cannot be read: {error}"))?;
    let spec = template.get("spec").cloned().unwrap_or_default();
    let containers = spec.get("containers").and_then(Value::as_array).cloned().unwrap_or_default();
    let is_agent = |container: &&Value| container.get("name").and_then(Value::as_str) == Some("agent");
    let agent = containers.iter().find(is_agent).or(containers.first()).cloned().unwrap_or_default();
    let path = &task.spec.workspace.mount_path;

    let mut security =
        picked(agent.get("securityContext"), &["runAsUser", "runAsGroup", "runAsNonRoot", "seLinuxOptions"]);
    security.insert("allowPrivilegeEscalation".to_owned(), false.into());
    security.insert("readOnlyRootFilesystem".to_owned(), true.into());
    security.insert("capabilities".to_owned(), json!({ "drop": ["ALL"] }));
    let mut pod_security = picked(
        spec.get("securityContext"),
        &["runAsUser", "runAsGroup", "runAsNonRoot", "fsGroup", "supplementalGroups", "seLinuxOptions"],
    );
    pod_security.insert("fsGroupChangePolicy".to_owned(), "OnRootMismatch".into());
    pod_security.insert("seccompProfile".to_owned(), json!({ "type": "RuntimeDefault" }));

    let mut own = picked(
        Some(&spec),
        &["imagePullSecrets", "nodeSelector", "tolerations", "affinity", "runtimeClassName", "schedulerName"],
    );
    if let Some(node) = node {
        own.insert("nodeName".to_owned(), node.into());
    }
    own.extend(object(json!({
        "restartPolicy": "Never",
        "activeDeadlineSeconds": LIFETIME,
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "securityContext": pod_security,
        "containers": [{
            "name": CONTAINER,
            "image": agent.get("image").cloned().unwrap_or_default(),
            "imagePullPolicy": agent.get("imagePullPolicy").cloned().unwrap_or_else(|| "IfNotPresent".into()),
            "command": ["sleep", LIFETIME.to_string()],
            "workingDir": path,
            "securityContext": security,
            "resources": {
                "requests": { "cpu": "10m", "memory": "32Mi" },
                "limits": { "cpu": "1", "memory": "1Gi" },
            },
            "volumeMounts": [{ "name": "workspace", "mountPath": path, "readOnly": true }],
        }],
        "volumes": [{ "name": "workspace", "persistentVolumeClaim": { "claimName": claim } }],
    })));
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": format!("{}-reader-", cut_name(&task.name_any(), 40)),
            "namespace": task.namespace(),
            "labels": { (LABEL.0): LABEL.1 },
            // Never outlives the task.
            "ownerReferences": [{
                "apiVersion": AgentTask::api_version(&()),
                "kind": AgentTask::kind(&()),
                "name": task.name_any(),
                "uid": task.uid().unwrap_or_default(),
            }],
        },
        "spec": own,
    }))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn picked(from: Option<&Value>, keys: &[&str]) -> Map<String, Value> {
    let from = from.and_then(Value::as_object);
    let found = keys.iter().filter_map(|key| Some(((*key).to_owned(), from?.get(*key)?.clone())));
    found.filter(|(_, value)| !value.is_null()).collect()
}

/// The folder with the records of a task's iterations, as the runner names it.
pub fn records(task: &AgentTask) -> String {
    let path = task.spec.workspace.mount_path.trim_end_matches('/');
    format!("{path}/{WORKSPACE_DIR}/{}-{}/iterations", task.name_any(), task.uid().unwrap_or_default())
}

/// Iteration and attempt of a folder with records: `0007`, `0007-1`.
pub fn record(folder: &str) -> Option<(i32, i32)> {
    let (iteration, attempt) = folder.split_once('-').unwrap_or((folder, "0"));
    Some((iteration.parse().ok().filter(|number| *number > 0)?, attempt.parse().ok()?))
}

/// The name of such a folder.
pub fn folder(iteration: i32, attempt: i32) -> String {
    if attempt == 0 { format!("{iteration:04}") } else { format!("{iteration:04}-{attempt}") }
}

/// A command that prints the repositories of a workspace: the workspace itself, or folders in it.
pub fn find_repositories(workspace: &str) -> Vec<String> {
    let script = "for git in \"$1\"/.git \"$1\"/*/.git; do \
        if [ -e \"$git\" ]; then printf '%s\\n' \"${git%/.git}\"; fi; done";
    ["sh", "-c", script, "sh", workspace].map(str::to_owned).to_vec()
}

/// git in a repository of an agent. Nothing that the repository configures is executed where that can be switched off;
/// filters cannot, which is one reason why this runs in a pod without credentials.
pub fn git(repository: &str, arguments: &[&str]) -> Vec<String> {
    let mut command: Vec<String> =
        ["git", "-C", repository, "--no-pager", "--no-optional-locks"].map(str::to_owned).to_vec();
    for setting in [
        "safe.directory=*",
        "core.fsmonitor=false",
        "core.hooksPath=/dev/null",
        "core.pager=cat",
        "core.quotePath=true",
        "submodule.recurse=false",
        "protocol.allow=never",
    ] {
        command.extend(["-c".to_owned(), setting.to_owned()]);
    }
    command.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    command
}

/// The flags of every diff.
pub const DIFF: [&str; 5] =
    ["diff", "--no-ext-diff", "--no-textconv", "--no-color", "--ignore-submodules=dirty"];

/// What an iteration changed, in words, from the count and the names in its report.
pub fn changed(changed: WorkspaceChange, count: Option<i64>, named: usize) -> Option<String> {
    let total = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(named);
    match changed {
        WorkspaceChange::Unchanged => Some("it changed nothing".to_owned()),
        _ if total > named => Some(format!("and {} more, whose names are not recorded", total - named)),
        _ if named == 0 => Some("the names of what it changed are not recorded".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::task;

    fn with(workspace: &Value, spec: &Value) -> AgentTask {
        task(&json!({ "spec": { "workspace": workspace, "template": { "spec": spec } } }))
    }

    fn template() -> Value {
        json!({ "spec": { "accessModes": ["ReadWriteOnce"] } })
    }

    #[test]
    fn the_pod_reads_with_the_agents_image_and_user_and_can_do_nothing_else() {
        let task = with(
            &json!({ "mountPath": "/work", "volumeClaimTemplate": template() }),
            &json!({
                "serviceAccountName": "powerful",
                "securityContext": { "runAsUser": 1000, "fsGroup": 2000, "sysctls": [] },
                "imagePullSecrets": [{ "name": "registry" }],
                "volumes": [{ "name": "token", "secret": { "secretName": "key" } }],
                "containers": [
                    { "name": "sidecar", "image": "other" },
                    {
                        "name": "agent", "image": "the-image", "command": ["agent"],
                        "env": [{ "name": "KEY", "value": "secret" }],
                        "securityContext": { "privileged": true, "runAsUser": 1001, "capabilities": { "add": ["SYS_ADMIN"] } },
                    },
                ],
            }),
        );
        let pod = pod(&task, Some("node-1")).expect("a pod");
        let (spec, container) = (&pod["spec"], &pod["spec"]["containers"][0]);
        assert_eq!((&spec["nodeName"], &container["image"]), (&json!("node-1"), &json!("the-image")));
        assert_eq!(
            spec["securityContext"],
            json!({
                "runAsUser": 1000, "fsGroup": 2000, "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": { "type": "RuntimeDefault" },
            })
        );
        assert_eq!(
            container["securityContext"],
            json!({
                "runAsUser": 1001, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] },
            })
        );
        assert_eq!(
            container["volumeMounts"],
            json!([{ "name": "workspace", "mountPath": "/work", "readOnly": true }])
        );
        assert_eq!(spec["automountServiceAccountToken"], false);
        assert_eq!((&spec["serviceAccountName"], &container["env"]), (&Value::Null, &Value::Null));
        assert_eq!(spec["volumes"].as_array().map(Vec::len), Some(1), "no Secret");
        let claim = spec["volumes"][0]["persistentVolumeClaim"]["claimName"].as_str().expect("a PVC");
        assert!(claim.starts_with("idle-"), "{claim}");
        let labels = pod["metadata"]["labels"].as_object().expect("labels");
        assert!(
            !labels.keys().any(|label| label.starts_with("agentloop.dev/")),
            "the operator does not count it"
        );
    }

    #[test]
    fn a_workspace_without_a_volume_is_gone_with_its_pod() {
        let refused = pod(&with(&json!({}), &json!({ "containers": [] })), None).expect_err("no volume");
        assert!(refused.contains("emptyDir"), "{refused}");
        let existing = with(&json!({ "persistentVolumeClaim": { "claimName": "mine" } }), &json!({}));
        assert_eq!(claim(&existing), Ok("mine".to_owned()));
    }

    #[test]
    fn folders_of_records_are_named_as_the_runner_names_them() {
        assert_eq!((folder(7, 0), folder(12_345, 2)), ("0007".to_owned(), "12345-2".to_owned()));
        for (iteration, attempt) in [(7, 0), (7, 1), (12_345, 2)] {
            assert_eq!(record(&folder(iteration, attempt)), Some((iteration, attempt)));
        }
        for other in ["", "x", "0000", "0007-x", "../.."] {
            assert_eq!(record(other), None, "{other}");
        }
        let task = with(&json!({ "mountPath": "/code/" }), &json!({}));
        assert_eq!(records(&task), "/code/.agentloop/idle-7f0c2c1e-0000-4000-8000-000000000000/iterations");
    }

    #[test]
    fn what_is_not_recorded_is_counted() {
        assert_eq!(changed(WorkspaceChange::Changed, Some(2), 2), None);
        assert_eq!(
            changed(WorkspaceChange::Changed, Some(9), 2).as_deref(),
            Some("and 7 more, whose names are not recorded")
        );
        assert_eq!(changed(WorkspaceChange::Unchanged, None, 0).as_deref(), Some("it changed nothing"));
        assert!(
            changed(WorkspaceChange::Unknown, None, 0).is_some_and(|words| words.contains("not recorded"))
        );
    }
}
