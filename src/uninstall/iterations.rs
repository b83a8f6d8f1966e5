//! Step 3: the tasks whose active iterations are marked as orphaned. What is written is `agentloop_core::sync`'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use agentloop_core::api::AgentTask;
use agentloop_core::sync::{IterationInFlight, ServedTask};
use kube::api::DynamicObject;
use kube::core::ApiResource;
use kube::{Api, ResourceExt};
use serde_json::Value;

use super::error::unlisted;
use super::sync::RawTask;
use super::{Error, Hook, page};
use crate::client::{READ_TIMEOUT, RequestError, with_timeout};

impl Hook {
    /// All tasks. They are read without our types, because a task that this version cannot decode must be marked too.
    pub(super) async fn tasks(&self) -> Result<Vec<Arc<RawTask>>, Error> {
        let kind = ApiResource::erase::<AgentTask>(&());
        let mut tasks = Vec::new();
        for api in self.namespaces.raw_apis(&self.clients.read, &kind) {
            let mut token = None;
            loop {
                let list = match with_timeout(READ_TIMEOUT, api.list(&page(token))).await {
                    Ok(list) => list,
                    // The CRD is gone already, and all tasks with it.
                    Err(error) if error.is_not_found() => break,
                    Err(source) => return Err(unlisted("AgentTasks", api.namespace(), source)),
                };
                token = list.metadata.continue_.filter(|token| !token.is_empty());
                tasks.extend(list.items.iter().map(|task| Arc::new(RawTask::of(task))));
                if token.is_none() {
                    break;
                }
            }
        }
        Ok(tasks)
    }

    pub(super) async fn read_task(&self, task: &RawTask) -> Result<Arc<RawTask>, RequestError> {
        let kind = ApiResource::erase::<AgentTask>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(self.clients.read.clone(), &task.namespace, &kind);
        let read = with_timeout(READ_TIMEOUT, api.get(&task.name)).await?;
        Ok(Arc::new(RawTask::of(&read)))
    }

    pub(super) async fn write_status(&self, task: &RawTask, status: &Value) -> Result<(), RequestError> {
        let RawTask { namespace, name, resource_version, .. } = task;
        self.writer.raw_task_status(namespace, name, resource_version, status).await.map(drop)
    }

    /// How many of these tasks each other release serves.
    pub(super) fn served_by_others(&self, tasks: &[Arc<RawTask>]) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        let named = tasks.iter().filter_map(|task| task.served.served_by.as_deref());
        for other in named.filter_map(|named| self.serving.if_other_release(named)) {
            *counts.entry(other.to_owned()).or_default() += 1;
        }
        counts
    }
}

impl RawTask {
    fn of(task: &DynamicObject) -> Self {
        Self {
            namespace: task.namespace().unwrap_or_default(),
            name: task.name_any(),
            uid: task.uid().unwrap_or_default(),
            resource_version: task.resource_version().unwrap_or_default(),
            served: ServedTask::of(&task.data),
        }
    }

    /// What a user must know of an iteration that is left behind.
    pub(super) fn in_flight(&self, active: &IterationInFlight) -> String {
        let Self { namespace, name, .. } = self;
        let IterationInFlight { iteration, attempt, pod_name, .. } = active;
        format!(
            "AgentTask {namespace}/{name} has iteration {iteration} (attempt {attempt}) in flight: its pod {pod_name} is \
             left running. After agentloop is installed again, that pod decides the outcome of the iteration. If the pod \
             is gone by then, or was never started, the iteration is charged as PodLost."
        )
    }
}
