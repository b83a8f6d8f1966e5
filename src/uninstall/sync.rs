//! Steps 3 and 4: drives the machine of `agentloop_core::sync` that marks active iterations and removes finalizers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agentloop_contract::names::FINALIZER_SETTLE;
use agentloop_core::sync::{
    Mark, ServedTask, UninstallEnvironment, UninstallHandles, UninstallOutcome, UninstallRequest,
    UninstallResponse, UninstallStep, UninstallSync,
};
use serde_json::Value;
use tokio::time::{self, Instant};

use super::error::Troubles;
use super::{Error, Hook, POLL_INTERVAL};
use crate::client::RequestError;

/// One version of a task, with the fields that an uninstall uses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RawTask {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) served: ServedTask,
}

/// A pod that has our finalizer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct HeldPod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) task_uid: String,
}

/// The machine's handles for the objects of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Objects;

impl UninstallHandles for Objects {
    type Task = Arc<RawTask>;
    type TaskId = String;
    type Status = Value;
    type Pod = Arc<HeldPod>;
}

impl UninstallEnvironment<Objects> for Hook {
    fn mark(&self, task: &Arc<RawTask>) -> Mark<Value> {
        task.served.mark(&self.serving)
    }

    fn id(&self, task: &Arc<RawTask>) -> String {
        task.uid.clone()
    }

    fn task_of(&self, pod: &Arc<HeldPod>) -> String {
        pod.task_uid.clone()
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }
}

/// What has been done so far.
#[derive(Default)]
struct Progress {
    /// Tasks whose active iteration was reported.
    reported: BTreeSet<String>,
    /// How many tasks other releases serve.
    other_releases: BTreeMap<String, usize>,
    /// Pods whose finalizer was removed.
    removed: usize,
    /// The last error of each object, by uid.
    errors: BTreeMap<String, RequestError>,
}

impl Hook {
    pub(super) async fn mark_and_remove_finalizers(
        &self,
        report: &mut (dyn FnMut(String) + Send),
    ) -> Result<(), Error> {
        let mut sync = UninstallSync::<Objects>::default();
        let mut progress = Progress::default();
        let mut request = sync.first();
        let outcome = loop {
            let response = self.perform(request, &mut progress, report).await?;
            match sync.next(self, response) {
                UninstallStep::Request(next) => request = next,
                UninstallStep::Finished(outcome) => break outcome,
            }
        };
        for (release, count) in &progress.other_releases {
            report(format!("{count} AgentTask(s) that the release {release} serves are left alone."));
        }
        report(format!("{} pod(s) without our finalizer now in {}.", progress.removed, self.namespaces));
        progress.into_result(&outcome)
    }

    /// Carries out one request. An error is a list that failed: nothing can be done without it.
    async fn perform(
        &self,
        request: UninstallRequest<Objects>,
        progress: &mut Progress,
        report: &mut (dyn FnMut(String) + Send),
    ) -> Result<UninstallResponse<Objects>, Error> {
        Ok(match request {
            UninstallRequest::ListPods => UninstallResponse::Pods(self.pods_with_finalizer().await?),
            UninstallRequest::ListTasks => {
                let tasks = self.tasks().await?;
                progress.other_releases = self.served_by_others(&tasks);
                // An earlier run marked these.
                let is_marked = |task: &&Arc<RawTask>| self.mark(task) == Mark::AsItIs;
                tasks.iter().filter(is_marked).for_each(|task| progress.report(task, report));
                UninstallResponse::Tasks(tasks)
            }
            UninstallRequest::WriteStatus { task, status } => match self.write_status(&task, &status).await {
                Ok(()) => {
                    progress.report(&task, report);
                    UninstallResponse::Done
                }
                Err(error) => progress.failed(&task.uid, error),
            },
            UninstallRequest::ReadTask(task) => match self.read_task(&task).await {
                Ok(task) => UninstallResponse::Task(task),
                Err(error) => progress.failed(&task.uid, error),
            },
            UninstallRequest::RemoveFinalizer(pod) => {
                match self.writer.remove_finalizer(&pod.namespace, &pod.name, &pod.uid, false).await {
                    Ok(_) => {
                        progress.removed += 1;
                        UninstallResponse::Done
                    }
                    Err(error) => progress.failed(&pod.uid, error),
                }
            }
            UninstallRequest::Pause => {
                time::sleep(POLL_INTERVAL).await;
                UninstallResponse::Done
            }
        })
    }
}

impl Progress {
    /// Reports the iteration that is left behind, once.
    fn report(&mut self, task: &RawTask, report: &mut (dyn FnMut(String) + Send)) {
        if let Some(active) = &task.served.active
            && self.reported.insert(task.uid.clone())
        {
            report(task.in_flight(active));
        }
    }

    fn failed(&mut self, uid: &str, error: RequestError) -> UninstallResponse<Objects> {
        let failure = error.failure();
        self.errors.insert(uid.to_owned(), error);
        UninstallResponse::Failed(failure)
    }

    fn into_result(self, outcome: &UninstallOutcome<Objects>) -> Result<(), Error> {
        let UninstallOutcome::Incomplete { tasks, pods } = outcome else { return Ok(()) };
        let why = |uid| {
            let error = self.errors.get(uid).map(RequestError::to_string);
            error.unwrap_or_else(|| "an operator that still works adds it again".to_owned())
        };
        let mut troubles = Troubles::default();
        for task in tasks {
            let RawTask { namespace, name, uid, .. } = &**task;
            troubles.add(&format!("AgentTask {namespace}/{name} cannot be marked as orphaned: {}", why(uid)));
        }
        for pod in pods {
            let HeldPod { namespace, name, uid, .. } = &**pod;
            troubles
                .add(&format!("Pod {namespace}/{name} keeps the finalizer {FINALIZER_SETTLE}: {}", why(uid)));
        }
        troubles.into_result()
    }
}
