//! Objects as the API server sends them, without the metadata that agentloop never reads.
//!
//! The field owners (`managedFields`) are a third of a pod and often more of a task. k8s-openapi decodes them into trees of
//! values, which takes longer than the rest of the object, and many times the memory of the text.

use std::borrow::Cow;
use std::collections::BTreeMap;

use agentloop_core::api::{AgentTask, AgentTaskSpec, AgentTaskStatus};
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Resource;
use serde::{Deserialize, Deserializer};

/// What `kubectl apply` writes: a copy of the whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    generation: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    name: Option<String>,
    namespace: Option<String>,
    owner_references: Option<Vec<OwnerReference>>,
    resource_version: Option<String>,
    uid: Option<String>,
}

impl From<Metadata> for ObjectMeta {
    fn from(metadata: Metadata) -> Self {
        let mut annotations = metadata.annotations;
        if let Some(annotations) = &mut annotations {
            annotations.remove(LAST_APPLIED);
        }
        Self {
            annotations,
            creation_timestamp: metadata.creation_timestamp,
            deletion_grace_period_seconds: metadata.deletion_grace_period_seconds,
            deletion_timestamp: metadata.deletion_timestamp,
            finalizers: metadata.finalizers,
            generation: metadata.generation,
            labels: metadata.labels,
            name: metadata.name,
            namespace: metadata.namespace,
            owner_references: metadata.owner_references,
            resource_version: metadata.resource_version,
            uid: metadata.uid,
            ..Self::default()
        }
    }
}

/// An object that is decoded without the metadata that agentloop never reads.
#[derive(Clone, Debug)]
pub struct Lean<T>(pub T);

impl<'de> Deserialize<'de> for Lean<Pod> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Wire {
            #[serde(default)]
            metadata: Metadata,
            spec: Option<PodSpec>,
            status: Option<PodStatus>,
        }
        let Wire { metadata, spec, status } = Wire::deserialize(deserializer)?;
        Ok(Self(Pod { metadata: metadata.into(), spec, status }))
    }
}

impl<'de> Deserialize<'de> for Lean<AgentTask> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Wire {
            #[serde(default)]
            metadata: Metadata,
            spec: AgentTaskSpec,
            status: Option<AgentTaskStatus>,
        }
        let Wire { metadata, spec, status } = Wire::deserialize(deserializer)?;
        Ok(Self(AgentTask { metadata: metadata.into(), spec, status }))
    }
}

impl<T: Resource<DynamicType = ()>> Resource for Lean<T> {
    type DynamicType = ();
    type Scope = T::Scope;

    fn kind(kind: &()) -> Cow<'_, str> {
        T::kind(kind)
    }

    fn group(kind: &()) -> Cow<'_, str> {
        T::group(kind)
    }

    fn version(kind: &()) -> Cow<'_, str> {
        T::version(kind)
    }

    fn plural(kind: &()) -> Cow<'_, str> {
        T::plural(kind)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

/// Decodes the metadata of an object. The rest is skipped and takes no memory.
pub(crate) fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    struct MetadataOnly {
        #[serde(default)]
        metadata: Metadata,
    }
    MetadataOnly::deserialize(deserializer).map(|object| object.metadata.into())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(spec: &Value) -> Value {
        json!({
            "metadata": {
                "name": "n", "namespace": "team", "uid": "u", "resourceVersion": "7", "generation": 3,
                "creationTimestamp": "2026-01-02T03:04:05Z", "deletionTimestamp": "2026-01-02T03:04:06Z",
                "deletionGracePeriodSeconds": 30, "finalizers": ["f"], "labels": { "l": "x" },
                "annotations": { "a": "x", LAST_APPLIED: "{}" },
                "ownerReferences": [{ "apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "c" }],
                "managedFields": [{ "manager": "m", "fieldsV1": { "f:spec": {} } }],
            },
            "spec": spec,
        })
    }

    /// The same without the parts that are not kept.
    fn kept(object: &Value) -> Value {
        let mut kept = object.clone();
        let metadata = kept["metadata"].as_object_mut().expect("metadata");
        metadata.remove("managedFields");
        metadata["annotations"].as_object_mut().expect("annotations").remove(LAST_APPLIED);
        kept
    }

    #[test]
    fn a_pod_is_decoded_without_its_field_owners_and_its_last_applied_configuration() {
        let object = object(&json!({ "containers": [{ "name": "agent", "image": "i" }] }));
        let whole: Pod = serde_json::from_value(kept(&object)).expect("a pod");
        let Lean(pod) = serde_json::from_value(object).expect("a pod");
        assert_eq!(whole, pod);
    }

    #[test]
    fn a_task_is_decoded_without_its_field_owners_and_its_last_applied_configuration() {
        let example = include_str!("../examples/hello.yaml");
        let example: Value = serde_saphyr::from_str(example).expect("a task");
        let object = object(&example["spec"]);
        let whole: AgentTask = serde_json::from_value(kept(&object)).expect("a task");
        let Lean(task): Lean<AgentTask> = serde_json::from_value(object.clone()).expect("a task");
        assert_eq!(json!(task), json!(whole));
        assert_eq!(metadata(object).expect("metadata"), whole.metadata);
    }
}
