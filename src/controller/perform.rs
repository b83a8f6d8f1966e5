//! Carries out what the machine requests: each request once, within its time limit, bound to the uid or version on which
//! it was decided. There are no rules here.

use agentloop_contract::hex;
use agentloop_contract::names::LABEL_TASK;
use agentloop_core::api::{AgentTask, AgentTaskStatus};
use agentloop_core::decide::PodRef;
use agentloop_core::facts::Obstacle;
use agentloop_core::pod;
use agentloop_core::settings::Configuration;
use agentloop_core::sync::{Failure, Request, Response, TaskSync};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::Value;
use tracing::{debug, info};

use super::cached_pod::CachedPod;
use super::handles::{Handle, Live};
use super::object_cache::{ObjectName, Received};
use super::scope::WatchScope;
use super::watch::PAGE;
use super::{merge, report};
use crate::client::{READ_TIMEOUT, RequestError, with_timeout};
use crate::wire::Lean;

/// A request that failed.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub(super) struct RequestFailed {
    /// What it was for.
    what: String,
    /// Why it failed.
    source: RequestError,
}

/// Carries out the requests of one reconcile.
pub(super) struct Performer<'a> {
    pub(super) scope: &'a WatchScope,
    pub(super) namespace: String,
    pub(super) name: String,
    /// The last request that failed.
    pub(super) failed: Option<RequestFailed>,
}

impl Performer<'_> {
    /// Carries out one request, for this version of the task.
    pub(super) async fn perform(&mut self, sync: &TaskSync<Live>, request: Request<Live>) -> Response<Live> {
        let answer = self.try_to(sync, request).await;
        answer.unwrap_or_else(|failed| {
            let failure = failed.source.failure();
            debug!(%failed, "a request failed");
            self.failed = Some(failed);
            Response::Failed(failure)
        })
    }

    async fn try_to(
        &mut self,
        sync: &TaskSync<Live>,
        request: Request<Live>,
    ) -> Result<Response<Live>, RequestFailed> {
        let task = sync.task();
        let writer = &self.scope.context.writer;
        let on_pod = |what: &'static str, pod: &PodRef| {
            let what = format!("{what} pod {}", pod.name);
            move |source: RequestError| RequestFailed { what, source }
        };
        let a_pod = |pod| Response::Pod(Handle::new(CachedPod::from(&pod)));
        Ok(match request {
            Request::Gather => Response::Done,
            Request::ReadEvents(pod) => Response::Events(self.events_of(&pod).await),
            Request::WriteStatus { task, status } => self.write_status(task, &status).await?,
            Request::ReadTask | Request::ConfirmTask => self.read_task(task).await?,
            Request::ReadConfiguration => {
                let read = self.scope.context.configuration.read().await;
                let read = read.map_err(|source| failed("reading the configuration", source))?;
                Response::Configuration(Handle::new(read))
            }
            Request::ListPreviousPods => Response::PreviousPod(self.list_previous_pods(task).await?),
            Request::ReadPod => self.read_pod(task).await?,
            Request::ReadPvc => self.read_pvc(task).await?,
            Request::CreatePvc => self.create_pvc(task).await?,
            Request::SetPvcOwner(pvc) => self.set_pvc_owner(task, &pvc).await?,
            Request::CreatePod => self.create_pod(task, sync.configuration()).await?,
            Request::RemoveSchedulingGate(pod) => {
                let started = writer.remove_scheduling_gate(&self.namespace, &pod.name, &pod.uid).await;
                a_pod(started.map_err(on_pod("starting", &pod))?)
            }
            Request::AddFinalizer(pod) => {
                let added = writer.add_finalizer(&self.namespace, &pod.name, &pod.uid).await;
                a_pod(added.map_err(on_pod("adding the finalizer to", &pod))?)
            }
            Request::RemoveFinalizer { pod, has_ended } => {
                let removed = writer.remove_finalizer(&self.namespace, &pod.name, &pod.uid, has_ended).await;
                a_pod(removed.map_err(on_pod("removing the finalizer from", &pod))?)
            }
            Request::DeletePod(pod) => {
                info!(pod = pod.name, "deleting the pod");
                let deleted = writer.delete_pod(&self.namespace, &pod.name, &pod.uid).await;
                deleted.map_err(on_pod("deleting", &pod))?.map_or(Response::Done, a_pod)
            }
            Request::DeleteTask(task) => {
                let (uid, version) = (task.uid(), task.resource_version());
                let deleted = writer.delete_task(&self.namespace, &self.name, uid, version).await;
                deleted.map_err(|source| failed("deleting the task", source))?;
                info!("deleted the task: its time to live is over");
                Response::Done
            }
        })
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.scope.context.clients.read.clone(), &self.namespace)
    }

    async fn events_of(&self, pod: &PodRef) -> Option<Obstacle> {
        let cached = self.scope.pods.get(&ObjectName::new(&self.namespace, &pod.name))?;
        let silent = cached.facts.is_silent_for(Timestamp::now())?.try_into().ok()?;
        self.scope.context.event_obstacles.of(&self.namespace, &pod.uid, silent).await
    }

    async fn write_status(
        &self,
        task: Handle<AgentTask>,
        status: &AgentTaskStatus,
    ) -> Result<Response<Live>, RequestFailed> {
        let json = |status: Option<&AgentTaskStatus>| serde_json::to_value(status).unwrap_or(Value::Null);
        let Some(patch) = merge::patch(&json(task.status.as_ref()), &json(Some(status))) else {
            return Ok(Response::Task(task));
        };
        let version = task.resource_version().unwrap_or_default();
        let written =
            self.scope.context.writer.task_status(&self.namespace, &self.name, &version, &patch).await;
        let written = written.map_err(|source| failed("writing the status", source))?;
        report::status_written(&self.scope.context, &written, task.status.as_ref(), status);
        Ok(Response::Task(Handle::new(written)))
    }

    async fn read_task(&self, task: &AgentTask) -> Result<Response<Live>, RequestFailed> {
        let read = with_timeout(READ_TIMEOUT, self.api::<Lean<AgentTask>>().get_opt(&self.name)).await;
        Ok(match read.map_err(|source| failed("reading the task", source))? {
            Some(Lean(read)) if read.uid() == task.uid() => Response::Task(Handle::new(read)),
            _ => Response::Failed(Failure::NotFound),
        })
    }

    /// The first pod that has the task's name, belongs to another task and has not ended. A pod with a scheduling gate counts
    /// too, because another operator may have confirmed its start just before its task was deleted.
    async fn list_previous_pods(&self, task: &AgentTask) -> Result<Option<String>, RequestFailed> {
        let own = task.uid();
        let mut of_name = ListParams::default().labels(&format!("{LABEL_TASK}={}", self.name)).limit(PAGE);
        loop {
            let pods = with_timeout(READ_TIMEOUT, self.api::<Received<CachedPod>>().list(&of_name)).await;
            let pods = pods.map_err(|source| failed("listing pods of previous tasks", source))?;
            if let Some(pod) = pods.iter().find(|pod| pod.kept.facts.is_live_pod_of_another(own.as_deref())) {
                return Ok(Some(pod.kept.facts.name.clone()));
            }
            of_name.continue_token = pods.metadata.continue_.filter(|token| !token.is_empty());
            if of_name.continue_token.is_none() {
                return Ok(None);
            }
        }
    }

    async fn read_pod(&self, task: &AgentTask) -> Result<Response<Live>, RequestFailed> {
        let active = task.status.as_ref().and_then(|status| status.active.as_ref());
        let Some(name) = active.map(|active| active.pod_name.as_str()) else {
            return Ok(Response::Failed(Failure::Other));
        };
        let read = with_timeout(READ_TIMEOUT, self.api::<Received<CachedPod>>().get_opt(name)).await;
        let read = read.map_err(|source| failed(format!("reading pod {name}"), source))?;
        Ok(read.map_or(Response::Failed(Failure::NotFound), |pod| Response::Pod(Handle::new(pod.kept))))
    }

    async fn create_pod(
        &self,
        task: &AgentTask,
        configuration: &Configuration,
    ) -> Result<Response<Live>, RequestFailed> {
        let context = &self.scope.context;
        let Some(status) = &task.status else { return Ok(Response::Failed(Failure::Other)) };
        let (Some(active), Some(thresholds)) = (&status.active, &status.thresholds) else {
            return Ok(Response::Failed(Failure::Other));
        };
        let what = format!("creating pod {}", active.pod_name);
        let report_key = report_key().map_err(|source| failed(&what, source))?;
        let injection = context.injection.get();
        let means = pod::BuildInputs {
            injection: &injection,
            settings: &configuration.last_valid,
            report_key: &report_key,
        };
        let body = match pod::build(task, active, thresholds, &status.breaker, &status.history, &means) {
            Ok(body) => body,
            Err(bad) => return Ok(Response::Failed(Failure::Unbuildable(bad.to_string()))),
        };
        let created = context.writer.create_raw::<Received<CachedPod>>(&self.namespace, &body).await;
        let created = created.map_err(|source| failed(what, source))?;
        context.metrics.pod_created();
        Ok(Response::Pod(Handle::new(created.kept)))
    }

    fn pvc_name(&self, task: &AgentTask) -> String {
        pod::pvc_name(&self.name, &task.uid().unwrap_or_default())
    }

    async fn read_pvc(&self, task: &AgentTask) -> Result<Response<Live>, RequestFailed> {
        let name = self.pvc_name(task);
        let read = with_timeout(READ_TIMEOUT, self.api::<PersistentVolumeClaim>().get_opt(&name)).await;
        let read = read.map_err(|source| failed(format!("reading workspace PVC {name}"), source))?;
        Ok(read.map_or(Response::Failed(Failure::NotFound), |pvc| Response::Pvc(Handle::new(pvc))))
    }

    async fn create_pvc(&self, task: &AgentTask) -> Result<Response<Live>, RequestFailed> {
        let body = match pod::pvc(task) {
            Ok(Some(body)) => body,
            Ok(None) => return Ok(Response::Done),
            Err(bad) => return Ok(Response::Failed(Failure::Unbuildable(bad.to_string()))),
        };
        let writer = &self.scope.context.writer;
        let created = writer.create_raw::<PersistentVolumeClaim>(&self.namespace, &body).await;
        let name = self.pvc_name(task);
        created.map_err(|source| failed(format!("creating workspace PVC {name}"), source))?;
        Ok(Response::Done)
    }

    async fn set_pvc_owner(
        &self,
        task: &AgentTask,
        pvc: &PersistentVolumeClaim,
    ) -> Result<Response<Live>, RequestFailed> {
        let (name, metadata) = (pvc.name_any(), pod::pvc_owner_patch(task, &pvc.metadata));
        let set = self.scope.context.writer.pvc_metadata(&self.namespace, &name, &metadata).await;
        set.map_err(|source| failed(format!("setting the owner of workspace PVC {name}"), source))?;
        Ok(Response::Done)
    }
}

fn failed(what: impl Into<String>, source: RequestError) -> RequestFailed {
    RequestFailed { what: what.into(), source }
}

/// An unguessable key that signs the report of one pod.
fn report_key() -> Result<String, RequestError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| kube::Error::Service(Box::new(error)))?;
    Ok(hex::encode(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pod_has_a_key_of_its_own() {
        let (one, other) = (report_key().expect("a key"), report_key().expect("a key"));
        assert_ne!(one, other);
        assert!(one.len() == 64 && one.chars().all(|c| c.is_ascii_hexdigit()), "{one}");
    }
}
