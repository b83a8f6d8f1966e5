//! A pod as the caches keep it: the facts that the rules use, and the metadata that identifies it.
//!
//! A pod takes up to a hundred times more memory than its facts: containers, volumes, prompts. A list is decoded
//! straight into this type, so that only one whole pod exists at a time.

use std::borrow::Cow;

use agentloop_contract::names::LABEL_TASK;
use agentloop_core::api::AgentTask;
use agentloop_core::facts::PodFacts;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Deserializer};

use super::guard::Guarded;

/// What is kept of a pod.
#[derive(Clone, Debug)]
pub(super) struct CachedPod {
    /// Name, namespace, uid and version.
    metadata: ObjectMeta,
    /// The name of its task.
    task: Option<String>,
    /// What the rules use.
    pub(super) facts: PodFacts,
    /// It has finalizers, ours or others.
    pub(super) has_finalizers: bool,
}

impl CachedPod {
    /// The task that the pod belongs to, whether or not it still exists.
    pub(super) fn task(&self) -> Option<ObjectRef<Guarded>> {
        Some(ObjectRef::new(self.task.as_deref()?).within(self.metadata.namespace.as_deref()?))
    }
}

/// The name of the task that controls the pod, or else the one in its label.
fn task_of(metadata: &ObjectMeta) -> Option<String> {
    let kind = AgentTask::kind(&());
    let owners = metadata.owner_references.iter().flatten();
    let owner = owners.filter(|owner| owner.kind == kind).find(|owner| owner.controller == Some(true));
    let label = || metadata.labels.as_ref()?.get(LABEL_TASK).cloned();
    owner.map(|owner| owner.name.clone()).or_else(label)
}

impl From<Pod> for CachedPod {
    fn from(pod: Pod) -> Self {
        let facts = PodFacts::of(&pod);
        let has_finalizers = !pod.finalizers().is_empty();
        let task = task_of(&pod.metadata);
        let ObjectMeta { name, namespace, uid, resource_version, .. } = pod.metadata;
        let metadata = ObjectMeta { name, namespace, uid, resource_version, ..ObjectMeta::default() };
        Self { metadata, task, facts, has_finalizers }
    }
}

impl<'de> Deserialize<'de> for CachedPod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Pod::deserialize(deserializer).map(Self::from)
    }
}

impl Resource for CachedPod {
    type DynamicType = ();
    type Scope = <Pod as Resource>::Scope;

    fn kind(kind: &()) -> Cow<'_, str> {
        Pod::kind(kind)
    }

    fn group(kind: &()) -> Cow<'_, str> {
        Pod::group(kind)
    }

    fn version(kind: &()) -> Cow<'_, str> {
        Pod::version(kind)
    }

    fn plural(kind: &()) -> Cow<'_, str> {
        Pod::plural(kind)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
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

    fn cached(pod: &Value) -> CachedPod {
        serde_json::from_str(&pod.to_string()).expect("a pod")
    }

    #[test]
    fn everything_that_the_rules_use_of_a_pod_is_kept_and_nothing_else() {
        let whole: Pod = serde_json::from_value(pod()).expect("a pod");
        let cached = cached(&pod());
        assert_eq!(cached.facts, PodFacts::of(&whole));
        assert_eq!(cached.resource_version().as_deref(), Some("7"));
        let metadata = cached.meta().clone();
        let ObjectMeta { name, namespace, uid, resource_version, .. } = metadata.clone();
        assert_eq!(metadata, ObjectMeta { name, namespace, uid, resource_version, ..ObjectMeta::default() });
    }

    #[test]
    fn a_pods_task_is_its_controller_or_else_the_one_that_its_label_names() {
        let mut orphan = pod();
        orphan["metadata"]["ownerReferences"] = json!([]);
        for (pod, name) in [(&pod(), "by-owner"), (&orphan, "by-label")] {
            let task = cached(pod).task().expect("a task");
            assert_eq!((task.namespace.as_deref(), task.name.as_str()), (Some("n"), name));
        }
        orphan["metadata"]["labels"] = json!({});
        assert!(cached(&orphan).task().is_none());
    }
}
