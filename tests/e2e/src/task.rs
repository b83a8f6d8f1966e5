//! Tasks for tests, with the scripted agent of `hack/images/test-agent`.

use serde_json::{Map, Value, json};

/// The scripted agent.
pub(crate) const AGENT_IMAGE: &str = "localhost/agentloop-test-agent:1";

/// Builds an `AgentTask`.
#[derive(Clone, Debug)]
pub struct TaskManifest {
    name: String,
    spec: Value,
}

/// A small PVC that a test creates itself.
pub fn pvc(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": { "name": name },
        "spec": pvc_spec(),
    })
}

fn pvc_spec() -> Value {
    json!({ "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "16Mi" } } })
}

/// The security context that the restricted pod security standard requires.
pub(crate) fn restricted() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
        "runAsUser": 65532,
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

/// A container of the test agent's image; not root, on a read-only root file system.
pub(crate) fn container(name: &str, command: &[&str]) -> Value {
    json!({
        "name": name,
        "image": AGENT_IMAGE,
        "command": command,
        "securityContext": restricted(),
        "resources": { "requests": { "cpu": "5m" } },
    })
}

impl TaskManifest {
    /// A task whose agent performs these actions, one after the other, in every iteration. Its pods stop quickly.
    pub fn new(name: &str, actions: &[&str]) -> Self {
        let command: Vec<&str> = ["/bin/agent"].into_iter().chain(actions.iter().copied()).collect();
        let spec = json!({
            "prompt": "Reach the goal.",
            "workspace": {},
            "template": { "spec": {
                "containers": [container("agent", &command)],
                "terminationGracePeriodSeconds": 4,
            } },
        });
        Self { name: name.to_owned(), spec }
    }

    /// A task whose agent is this shell script with these arguments. It starts in the container's working directory, like
    /// any command of a user.
    pub fn script(name: &str, script: &str, arguments: &[&str]) -> Self {
        let command: Vec<&str> =
            ["/bin/sh", "-c", script, "agent"].into_iter().chain(arguments.iter().copied()).collect();
        Self::new(name, &[]).with("template/spec/containers/0/command", json!(command))
    }

    /// The task's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets the value at a JSON pointer into the spec, and creates the objects that contain it.
    #[must_use]
    pub fn with(mut self, pointer: &str, value: Value) -> Self {
        let mut place = &mut self.spec;
        for part in pointer.trim_start_matches('/').split('/') {
            if let Ok(index) = part.parse::<usize>()
                && let Value::Array(list) = place
            {
                while list.len() <= index {
                    list.push(json!({}));
                }
                let Some(entry) = list.get_mut(index) else { return self };
                place = entry;
                continue;
            }
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            let Value::Object(map) = place else { return self };
            place = map.entry(part).or_insert(Value::Null);
        }
        *place = value;
        self
    }

    /// Limits the iterations.
    #[must_use]
    pub fn max(self, iterations: i32) -> Self {
        self.with("maxIterations", json!(iterations))
    }

    /// Gives it a workspace PVC that is deleted with the task.
    #[must_use]
    pub fn pvc(self) -> Self {
        self.with("workspace/volumeClaimTemplate", json!({ "spec": pvc_spec() }))
            .with("workspace/whenDeleted", json!("Delete"))
    }

    /// Adds a container beside the agent's, with a shell command.
    #[must_use]
    pub fn beside(self, name: &str, line: &str) -> Self {
        self.with("template/spec/containers/1", container(name, &["/bin/sh", "-c", line]))
    }

    /// The whole object.
    pub fn manifest(&self) -> Value {
        json!({
            "apiVersion": "agentloop.dev/v1alpha1",
            "kind": "AgentTask",
            "metadata": { "name": self.name },
            "spec": self.spec,
        })
    }
}
