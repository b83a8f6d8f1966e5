//! A pod as the caches keep it: the facts that the rules use, and the metadata that identifies it.
//!
//! A pod takes up to a hundred times more memory than its facts: containers, volumes, prompts. A list is decoded
//! straight into this type, so that only one whole pod exists at a time.

use agentloop_contract::names::LABEL_TASK;
use agentloop_core::api::AgentTask;
use agentloop_core::facts::PodFacts;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Deserializer};

use super::object_cache::{CachedObject, ObjectName, Received};
use crate::wire::Lean;

/// What is kept of a pod.
#[derive(Clone, Debug)]
pub(super) struct CachedPod {
    pub(super) name: ObjectName,
    /// The resourceVersion as a number: those of one kind of object can be compared (KEP-5504).
    pub(super) version: Option<u64>,
    /// The task that the pod belongs to, whether or not it still exists.
    pub(super) task: Option<ObjectName>,
    /// What the rules use.
    pub(super) facts: PodFacts,
    /// It has finalizers, ours or others.
    pub(super) has_finalizers: bool,
}

/// The name of the task that controls the pod, or else the one in its label.
fn task_of(metadata: &ObjectMeta) -> Option<String> {
    let kind = AgentTask::kind(&());
    let owners = metadata.owner_references.iter().flatten();
    let owner = owners.filter(|owner| owner.kind == kind).find(|owner| owner.controller == Some(true));
    let label = || metadata.labels.as_ref()?.get(LABEL_TASK).cloned();
    owner.map(|owner| owner.name.clone()).or_else(label)
}

impl From<&Pod> for CachedPod {
    fn from(pod: &Pod) -> Self {
        let metadata = &pod.metadata;
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        Self {
            name: ObjectName::of(metadata),
            version: metadata.resource_version.as_deref().and_then(|version| version.parse().ok()),
            task: task_of(metadata).map(|task| ObjectName::new(namespace, &task)),
            facts: PodFacts::of(pod),
            has_finalizers: !pod.finalizers().is_empty(),
        }
    }
}

impl CachedObject for CachedPod {
    type Kind = Pod;

    fn receive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Received<Self>, D::Error> {
        let Lean(pod) = Lean::<Pod>::deserialize(deserializer)?;
        Ok(Received::new(&pod.metadata, Self::from(&pod)))
    }

    fn name(&self) -> &ObjectName {
        &self.name
    }

    fn task_uid(&self) -> Option<&str> {
        self.facts.task_uid.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod() -> Value {
        json!({
            "metadata": {
                "name": "p", "namespace": "n", "uid": "pod", "resourceVersion": "7",
                "labels": { "agentloop.dev/task": "by-label", "agentloop.dev/task-uid": "t", "other": "x" },
                "annotations": { "agentloop.dev/prompt": "long", "agentloop.dev/template-hash": "h" },
                "ownerReferences": [
                    { "apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "c", "controller": false },
                    {
                        "apiVersion": "agentloop.dev/v1alpha1", "kind": "AgentTask", "name": "by-owner",
                        "controller": true, "uid": "t",
                    },
                ],
            },
            "spec": { "containers": [{ "name": "agent", "command": ["/agentloop/bin/agentloop-runner"] }] },
            "status": { "phase": "Failed", "reason": "Evicted", "message": "m" },
        })
    }

    fn received(pod: &Value) -> Received<CachedPod> {
        serde_json::from_str(&pod.to_string()).expect("a pod")
    }

    #[test]
    fn everything_that_the_rules_use_of_a_pod_is_kept_and_nothing_else() {
        let whole: Pod = serde_json::from_value(pod()).expect("a pod");
        let received = received(&pod());
        assert_eq!(received.kept.facts, PodFacts::of(&whole));
        assert_eq!((received.kept.name.to_string().as_str(), received.kept.version), ("n/p", Some(7)));
        let metadata = received.meta().clone();
        let ObjectMeta { name, namespace, uid, resource_version, .. } = metadata.clone();
        assert_eq!(metadata, ObjectMeta { name, namespace, uid, resource_version, ..ObjectMeta::default() });
    }

    #[test]
    fn a_pods_task_is_its_controller_or_else_the_one_that_its_label_names() {
        let mut orphan = pod();
        orphan["metadata"]["ownerReferences"] = json!([]);
        for (pod, name) in [(&pod(), "n/by-owner"), (&orphan, "n/by-label")] {
            assert_eq!(received(pod).kept.task.expect("a task").to_string(), name);
        }
        orphan["metadata"]["labels"] = json!({});
        assert_eq!(received(&orphan).kept.task, None);
    }
}
