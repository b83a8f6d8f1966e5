//! What the operator's shell does: carries out each request once, bound to the uid or the version that it names.

use agentloop_contract::names::{
    ANNOTATION_CONTEXT, ANNOTATION_PROMPT, FINALIZER_SETTLE, GATE_START, LABEL_TASK,
};
use agentloop_core::{
    api::{AgentTask, AgentTaskStatus},
    decide::PodRef,
    facts::PodFacts,
    pod::{self, BuildInputs},
    settings::Configuration,
    sync::{Failure, OrphanRequest, OrphanResponse, Request, Response, TaskSync},
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::{
    Simulation,
    handles::{CachedPod, Handle, Simulated, version},
};

type Answer = Result<Response<Simulated>, Failure>;

/// A version of a pod, as an answer.
fn answer(pod: &Pod) -> Response<Simulated> {
    Response::Pod(Handle::new(CachedPod::from(pod)))
}

impl Simulation {
    pub(super) fn perform(
        &mut self,
        sync: &TaskSync<Simulated>,
        request: Request<Simulated>,
    ) -> Response<Simulated> {
        let answer = self.try_to(sync, request);
        self.remove_deleted_pods();
        answer.unwrap_or_else(Response::Failed)
    }

    fn try_to(&mut self, sync: &TaskSync<Simulated>, request: Request<Simulated>) -> Answer {
        let task = sync.task();
        Ok(match request {
            Request::Gather => Response::Done,
            Request::ReadEvents(_) => Response::Events(self.events.clone()),
            Request::WriteStatus { task, status } => {
                self.write_status(&task, &status, sync.configuration())?
            }
            Request::ReadTask | Request::ConfirmTask => {
                Response::Task(Handle::new(self.server.task_of(&uid(task))?.clone()))
            }
            Request::ReadConfiguration => {
                Response::Configuration(Handle::new(Configuration { consistent: true, ..self.real.clone() }))
            }
            Request::ListPreviousPods => Response::PreviousPod(self.previous_pod_of(task)),
            Request::ReadPod => answer(self.server.pod(&active_pod_name(task)).ok_or(Failure::NotFound)?),
            Request::ReadPvc => Response::Pvc(Handle::new(self.server.pvc(&pvc_name(task))?.clone())),
            Request::CreatePvc => {
                let body = pod::pvc(task).map_err(|bad| Failure::Unbuildable(bad.to_string()))?;
                self.server.create_pvc(body.expect("a task that asks for a PVC"))?;
                Response::Done
            }
            Request::SetPvcOwner(pvc) => {
                self.server.patch_pvc(&pod::pvc_owner_patch(task, &pvc.metadata))?;
                Response::Done
            }
            Request::CreatePod => self.create_pod(task, sync.configuration())?,
            Request::RemoveSchedulingGate(pod) => self.remove_scheduling_gate(&pod)?,
            Request::AddFinalizer(pod) => answer(self.server.patch_pod(&pod, |pod| {
                let finalizers = pod.metadata.finalizers.get_or_insert_default();
                if !finalizers.iter().any(|name| name == FINALIZER_SETTLE) {
                    finalizers.push(FINALIZER_SETTLE.to_owned());
                }
            })?),
            Request::RemoveFinalizer { pod, has_ended } => self.remove_finalizer(&pod, has_ended)?,
            Request::DeletePod(pod) => self.delete(&pod)?,
            Request::DeleteTask(task) => {
                if version(self.server.task_of(&uid(&task))?) != version(&*task) {
                    return Err(Failure::Conflict);
                }
                self.delete_task_immediately();
                Response::Done
            }
        })
    }

    pub(super) fn perform_on_orphan(
        &mut self,
        task_uid: &str,
        request: &OrphanRequest<Simulated>,
    ) -> OrphanResponse<Simulated> {
        let written = match request {
            OrphanRequest::ReadTask => {
                return match self.server.task_of(task_uid) {
                    Ok(_) => OrphanResponse::TaskExists,
                    Err(_) => OrphanResponse::TaskIsGone,
                };
            }
            OrphanRequest::DeletePod(pod) => self.delete(pod),
            OrphanRequest::RemoveFinalizer { pod, has_ended } => self.remove_finalizer(pod, *has_ended),
        };
        self.remove_deleted_pods();
        match written {
            Ok(Response::Pod(pod)) => OrphanResponse::Pod(pod),
            Ok(_) => OrphanResponse::Done,
            Err(failure) => OrphanResponse::Failed(failure),
        }
    }

    /// Deletes a pod. If nothing keeps it, the answer is the pod in its last version, as from a real API server.
    fn delete(&mut self, pod: &PodRef) -> Answer {
        let version = self.server.pod(&pod.name).ok_or(Failure::NotFound)?.metadata.resource_version.clone();
        self.server.delete_pod(pod, self.now)?;
        let mut deleted = self.server.pod(&pod.name).ok_or(Failure::NotFound)?.clone();
        self.remove_deleted_pods();
        if self.server.pod(&pod.name).is_none() {
            deleted.metadata.resource_version = version;
        }
        Ok(answer(&deleted))
    }

    fn write_status(
        &mut self,
        decided_on: &Handle<AgentTask>,
        status: &AgentTaskStatus,
        configuration: &Configuration,
    ) -> Answer {
        let json = |status: Option<&AgentTaskStatus>| serde_json::to_value(status).unwrap();
        if json(decided_on.status.as_ref()) == json(Some(status)) {
            return Ok(Response::Task(decided_on.clone()));
        }
        if version(self.server.task_of(&uid(decided_on))?) != version(&**decided_on) {
            return Err(Failure::Conflict);
        }
        let written = self.checked(status, configuration);
        self.server.task_mut().status = Some(written);
        self.writes += 1;
        Ok(Response::Task(Handle::new(self.task().clone())))
    }

    /// The first pod that has the task's name, belongs to another task and has not ended.
    fn previous_pod_of(&self, task: &AgentTask) -> Option<String> {
        let of_name = |pod: &&Pod| pod.labels().get(LABEL_TASK) == Some(&task.name_any());
        let pods = self.pods().iter().filter(of_name).map(PodFacts::of);
        pods.filter(|pod| pod.is_live_pod_of_another(task.uid().as_deref())).map(|pod| pod.name).next()
    }

    fn create_pod(&mut self, task: &AgentTask, configuration: &Configuration) -> Answer {
        let status = task.status.as_ref().expect("an active iteration");
        let active = status.active.as_ref().expect("an active iteration");
        let means = BuildInputs {
            injection: &self.injection,
            settings: &configuration.last_valid,
            report_key: "the-key",
        };
        let thresholds = status.thresholds.as_ref().unwrap();
        let built = pod::build(task, active, thresholds, &status.breaker, &status.history, &means);
        let body = built.map_err(|bad| Failure::Unbuildable(bad.to_string()))?;
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        let created = answer(self.server.create_pod(body, self.now)?);
        self.created.push((active.iteration, active.attempt));
        Ok(created)
    }

    fn remove_scheduling_gate(&mut self, pod: &PodRef) -> Answer {
        let active = self.status().active.expect("only the pod of an active iteration is started");
        assert_eq!(active.pod_name, pod.name);
        assert!(!self.task().spec.suspend, "nothing starts while suspended");
        Ok(answer(self.server.patch_pod(pod, |pod| {
            let gates = &mut pod.spec.as_mut().unwrap().scheduling_gates;
            let others = gates.take().into_iter().flatten().filter(|gate| gate.name != GATE_START);
            *gates = Some(others.collect::<Vec<_>>()).filter(|gates| !gates.is_empty());
        })?))
    }

    fn remove_finalizer(&mut self, pod: &PodRef, has_ended: bool) -> Answer {
        assert!(
            self.status().active.is_none_or(|active| active.pod_name != pod.name)
                || self.task().metadata.deletion_timestamp.is_some()
                || self.server.is_task_gone,
            "a pod keeps its finalizer until it is settled"
        );
        Ok(answer(self.server.patch_pod(pod, |pod| {
            pod.metadata
                .finalizers
                .iter_mut()
                .for_each(|names| names.retain(|name| name != FINALIZER_SETTLE));
            if has_ended && let Some(annotations) = &mut pod.metadata.annotations {
                annotations.retain(|name, _| name != ANNOTATION_PROMPT && name != ANNOTATION_CONTEXT);
            }
        })?))
    }
}

fn uid(task: &AgentTask) -> String {
    task.uid().unwrap()
}

fn active_pod_name(task: &AgentTask) -> String {
    let active = task.status.as_ref().and_then(|status| status.active.as_ref());
    active.expect("only the pod of an active iteration is read").pod_name.clone()
}

fn pvc_name(task: &AgentTask) -> String {
    pod::pvc_name(&task.name_any(), &uid(task))
}
