//! Every write of the protocol, with the precondition that guards it.
//!
//! Each request is sent once, ends within [`WRITE_TIMEOUT`], and is counted. After a conflict or a lost answer the caller
//! decides what to do: usually it reads again and compares.
//!
//! | write | guard |
//! |---|---|
//! | status of a task | resourceVersion in the merge patch: 409 if the task has changed since |
//! | create a pod or a PVC | none: the name is unique for the attempt, and a pod has a scheduling gate |
//! | change or delete a pod | its uid: a conflict if another pod has the name now |
//! | owner of a PVC | resourceVersion in the merge patch |

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use agentloop_contract::names::{ANNOTATION_CONTEXT, ANNOTATION_PROMPT, FINALIZER_SETTLE, GATE_START};
use agentloop_core::api::AgentTask;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, DynamicObject, Patch, Preconditions};
use kube::core::ApiResource;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::client::{RequestError, WRITE_TIMEOUT, patch_params, post_params, with_timeout};
use crate::metrics::{Metrics, Verb};
use crate::wire::Lean;

/// All writes of the operator go through this.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    metrics: Metrics,
    limit: Duration,
}

impl Writer {
    /// A writer over a client that does not retry requests ([`Clients::write`](crate::client::Clients::write)).
    pub fn new(client: Client, metrics: Metrics) -> Self {
        Self { client, metrics, limit: WRITE_TIMEOUT }
    }

    /// The client, for a write that has no method here; give it to [`Writer::send`].
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Sends one write, with a timeout, and counts it.
    pub async fn send<T>(
        &self,
        verb: Verb,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, RequestError> {
        let answer = with_timeout(self.limit, request).await;
        self.metrics.write(verb, answer.as_ref().map_or_else(RequestError::reason, |_| "ok"));
        answer
    }

    /// Merges `status` into a task's status if the task still has this `resource_version`.
    ///
    /// A merge patch: a field is removed by an explicit null. The answer is a consistent read of the task.
    pub async fn task_status(
        &self,
        namespace: &str,
        name: &str,
        resource_version: &str,
        status: &Value,
    ) -> Result<AgentTask, RequestError> {
        let api: Api<Lean<AgentTask>> = Api::namespaced(self.client.clone(), namespace);
        let patch = status_patch(resource_version, status);
        let patch = Patch::Merge(&patch);
        let written = self.send(Verb::PatchStatus, api.patch_status(name, &patch_params(), &patch)).await;
        written.map(|Lean(task)| task)
    }

    /// Like [`Writer::task_status`], for a task that this version may not be able to decode.
    pub async fn raw_task_status(
        &self,
        namespace: &str,
        name: &str,
        resource_version: &str,
        status: &Value,
    ) -> Result<DynamicObject, RequestError> {
        let kind = ApiResource::erase::<AgentTask>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &kind);
        let patch = status_patch(resource_version, status);
        self.send(Verb::PatchStatus, api.patch_status(name, &patch_params(), &Patch::Merge(&patch))).await
    }

    /// Creates an object from JSON, so that fields that are newer than our types reach the server.
    pub async fn create_raw<K>(&self, namespace: &str, body: &Value) -> Result<K, RequestError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let kind = ApiResource::erase::<K>(&());
        let url = DynamicObject::url_path(&kind, Some(namespace));
        let request = kube::core::Request::new(url)
            .create(&post_params(), body.to_string().into_bytes())
            .map_err(|error| RequestError::from(kube::Error::BuildRequest(error)))?;
        self.send(Verb::Create, self.client.request(request)).await
    }

    /// Adds our finalizer to the pod with this uid.
    pub async fn add_finalizer(&self, namespace: &str, name: &str, uid: &str) -> Result<Pod, RequestError> {
        let patch = json!({ "metadata": { "uid": uid, "finalizers": [FINALIZER_SETTLE] } });
        self.patch_pod(namespace, name, &patch).await
    }

    /// Merges `metadata` into that of a PVC; the resourceVersion in it is the guard.
    pub async fn pvc_metadata(
        &self,
        namespace: &str,
        name: &str,
        metadata: &Value,
    ) -> Result<PersistentVolumeClaim, RequestError> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let patch = json!({ "metadata": metadata });
        self.send(Verb::Patch, api.patch(name, &patch_params(), &Patch::Merge(&patch))).await
    }

    /// Deletes the task with this uid if it still has this version.
    pub async fn delete_task(
        &self,
        namespace: &str,
        name: &str,
        uid: Option<String>,
        resource_version: Option<String>,
    ) -> Result<(), RequestError> {
        let api: Api<AgentTask> = Api::namespaced(self.client.clone(), namespace);
        let this = DeleteParams::background().preconditions(Preconditions { uid, resource_version });
        self.send(Verb::Delete, api.delete(name, &this)).await.map(drop)
    }

    /// Removes our scheduling gate from the pod with this uid, so that it starts.
    pub async fn remove_scheduling_gate(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<Pod, RequestError> {
        let patch = json!({
            "metadata": { "uid": uid },
            "spec": { "schedulingGates": [{ "name": GATE_START, "$patch": "delete" }] },
        });
        self.patch_pod(namespace, name, &patch).await
    }

    /// Removes our finalizer, and no other, from the pod with this uid. If the pod has ended, its prompt and context are
    /// removed too, because they are no longer needed; a running pod still mounts them.
    pub async fn remove_finalizer(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        has_ended: bool,
    ) -> Result<Pod, RequestError> {
        let mut metadata = json!({ "uid": uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER_SETTLE] });
        if has_ended && let Some(metadata) = metadata.as_object_mut() {
            let input = json!({ ANNOTATION_PROMPT: null, ANNOTATION_CONTEXT: null });
            metadata.insert("annotations".to_owned(), input);
        }
        self.patch_pod(namespace, name, &json!({ "metadata": metadata })).await
    }

    async fn patch_pod(&self, namespace: &str, name: &str, patch: &Value) -> Result<Pod, RequestError> {
        let api: Api<Lean<Pod>> = Api::namespaced(self.client.clone(), namespace);
        let patch = Patch::Strategic(patch);
        let patched = self.send(Verb::Patch, api.patch(name, &patch_params(), &patch)).await;
        patched.map(|Lean(pod)| pod)
    }

    /// Deletes the pod with this uid, with the grace period in its spec. Returns the pod if a finalizer keeps it.
    pub async fn delete_pod(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<Option<Pod>, RequestError> {
        let api: Api<Lean<Pod>> = Api::namespaced(self.client.clone(), namespace);
        let this = DeleteParams::default()
            .preconditions(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
        let deleted = self.send(Verb::Delete, api.delete(name, &this)).await?;
        Ok(deleted.left().map(|Lean(pod)| pod))
    }
}

fn status_patch(resource_version: &str, status: &Value) -> Value {
    json!({ "metadata": { "resourceVersion": resource_version }, "status": status })
}
