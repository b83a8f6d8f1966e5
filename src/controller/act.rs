//! Carrying out what was decided. Every write is bound to the uid or version that it was decided on.

use std::sync::Arc;
use std::time::Duration;

use agentloop_contract::hex;
use agentloop_contract::names::LABEL_TASK;
use agentloop_core::api::WaitReason;
use agentloop_core::decide::{Action, PodRef, PreviousPod};
use agentloop_core::facts::{Obstacle, PodFacts};
use agentloop_core::pod;
use agentloop_core::refused::{self, Refusal};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use tracing::{debug, info};

use super::cached_pod::CachedPod;
use super::reconcile::{Error, Run};
use super::watch::PAGE;
use crate::client::{READ_TIMEOUT, RequestError, bounded};

/// What an action leaves to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Something is known that was not: decide again at once.
    Again,
    /// Nothing more now; look again after this time, or when something is seen to change.
    Rest(Option<Duration>),
}

const REST: Progress = Progress::Rest(None);

/// When to try again what a new namespace does not have yet.
const NOT_YET: Duration = Duration::from_millis(500);

impl Progress {
    /// What both leave to do.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Rest(one), Self::Rest(two)) => Self::Rest(one.into_iter().chain(two).min()),
            _ => Self::Again,
        }
    }
}

impl Run<'_> {
    pub(super) async fn act(&mut self, action: &Action, pods: &[PodFacts]) -> Result<Progress, Error> {
        match action {
            Action::ReadConfiguration => {
                let read = self.scope.shared.configuration.read().await;
                self.configuration = read.map_err(|error| Error::new("reading the configuration", error))?;
                Ok(Progress::Again)
            }
            Action::ListPreviousPods => self.list_previous_pods().await,
            Action::ReadPod => self.read_pod().await,
            Action::CreatePod => self.create_pod().await,
            Action::RemoveSchedulingGate(pod) => self.start_pod(pod).await,
            Action::AddFinalizer(pod) => {
                let held = self.scope.shared.writer.hold_pod(&self.namespace, &pod.name, &pod.uid).await;
                self.answered(pod, "putting the finalizer back on", held.map(Some))
            }
            Action::DeletePod(pod) => {
                info!(pod = pod.name, "deleting the pod");
                let deleted = self.scope.shared.writer.delete_pod(&self.namespace, &pod.name, &pod.uid).await;
                let progress = self.answered(pod, "deleting", deleted)?;
                // A pod that was never bound has ended by this.
                let bound = pods.iter().any(|facts| facts.uid == pod.uid && facts.bound);
                Ok(if bound || progress != REST { progress } else { Progress::Again })
            }
            Action::RemoveFinalizer(pod) => {
                let has_ended = pods.iter().any(|facts| facts.uid == pod.uid && facts.ended().is_some());
                let writer = &self.scope.shared.writer;
                let released = writer.release_pod(&self.namespace, &pod.name, &pod.uid, has_ended).await;
                self.answered(pod, "taking the finalizer off", released.map(Some))
            }
            Action::DeleteTask => self.delete_task().await,
        }
    }

    /// Takes over the answer to a write on a pod. A pod that is gone needs nothing more. After a conflict the other
    /// actions are done, and then it is tried again: another pod may have the name, or the server gave up on a patch
    /// that others kept overtaking.
    fn answered(
        &mut self,
        pod: &PodRef,
        what: &str,
        answer: Result<Option<Pod>, RequestError>,
    ) -> Result<Progress, Error> {
        match answer {
            Ok(Some(answer)) => {
                let is_leaving =
                    answer.metadata.deletion_timestamp.is_some() && answer.finalizers().is_empty();
                if is_leaving {
                    self.scope.newest_pods.forget(&pod.uid);
                } else {
                    self.scope.newest_pods.remember(&Arc::new(answer.into()));
                }
                Ok(REST)
            }
            Ok(None) => Ok(REST),
            Err(error) if error.is_not_found() => {
                self.scope.newest_pods.forget(&pod.uid);
                Ok(REST)
            }
            Err(error) if error.is_conflict() => {
                self.scope.newest_pods.forget(&pod.uid);
                self.postpone(Error::new(format!("{what} pod {}", pod.name), error))
            }
            Err(error) => Err(Error::new(format!("{what} pod {}", pod.name), error)),
        }
    }

    /// Another task may have had this name, and its last pod may still be at work on the same workspace.
    async fn list_previous_pods(&mut self) -> Result<Progress, Error> {
        let api: Api<CachedPod> = Api::namespaced(self.scope.shared.clients.read.clone(), &self.namespace);
        let mut of_name = ListParams::default().labels(&format!("{LABEL_TASK}={}", self.name)).limit(PAGE);
        let own = self.task.uid();
        // A gated one too: another operator may have confirmed its start just before its task was deleted.
        let is_live = |pod: &&CachedPod| pod.facts.task_uid != own && pod.facts.ended().is_none();
        loop {
            let pods = bounded(READ_TIMEOUT, api.list(&of_name))
                .await
                .map_err(|error| Error::new("listing pods of earlier tasks", error))?;
            if let Some(pod) = pods.iter().find(is_live) {
                self.previous_pod = PreviousPod::Pod(pod.facts.name.clone());
                break;
            }
            of_name.continue_token = pods.metadata.continue_.filter(|token| !token.is_empty());
            if of_name.continue_token.is_none() {
                self.previous_pod = PreviousPod::None;
                break;
            }
        }
        Ok(Progress::Again)
    }

    /// The claimed pod is not seen: it is read from the API server itself.
    async fn read_pod(&mut self) -> Result<Progress, Error> {
        let active = self.task.status.as_ref().and_then(|status| status.active.as_ref());
        let Some(name) = active.map(|active| active.pod_name.clone()) else { return Ok(REST) };
        let api: Api<CachedPod> = Api::namespaced(self.scope.shared.clients.read.clone(), &self.namespace);
        let read = bounded(READ_TIMEOUT, api.get_opt(&name)).await;
        let pod = read.map_err(|error| Error::new(format!("reading pod {name}"), error))?;
        match pod {
            Some(pod) if self.is_claimed(&pod.facts) => {
                self.scope.newest_pods.remember(&Arc::new(pod));
            }
            Some(pod) if self.may_be_estranged(&pod) => {
                let detail = format!(
                    "pod {name} was this task's until its owner references or labels were changed: put them back, or delete it"
                );
                self.refused = Some(Obstacle { reason: WaitReason::NameConflict, detail });
            }
            // Names are unique: where somebody else's pod has it, ours is gone.
            Some(_) | None => self.is_gone = true,
        }
        Ok(Progress::Again)
    }

    /// Whether the rules will take this pod for the claimed one. Whatever is remembered as the answer to a read must
    /// pass this: else the rules would ask for the same read again and again.
    fn is_claimed(&self, pod: &PodFacts) -> bool {
        let uid = self.task.uid().unwrap_or_default();
        let active = self.task.status.as_ref().and_then(|status| status.active.as_ref());
        active.is_some_and(|active| {
            pod.name == active.pod_name
                && pod.task_uid.as_deref() == Some(uid.as_str())
                && pod.is_of(&uid, active.iteration, active.attempt)
        })
    }

    /// Whether something of this pod still says that it is, or was, the claimed one: its agent may be at work.
    fn may_be_estranged(&self, pod: &CachedPod) -> bool {
        let uid = self.task.uid();
        pod.facts.held || pod.facts.task_uid == uid || uid.is_some_and(|uid| pod.is_owned_by(&uid))
    }

    async fn create_pod(&mut self) -> Result<Progress, Error> {
        let task = self.task.clone();
        let Some(status) = &task.status else { return Ok(REST) };
        let (Some(active), Some(thresholds)) = (&status.active, &status.thresholds) else { return Ok(REST) };
        if let Some(progress) = self.ensure_claim().await? {
            return Ok(progress);
        }
        let report_key = report_key()?;
        let injection = self.scope.shared.injection.get();
        let means = pod::Means {
            injection: &injection,
            settings: &self.configuration.last_good,
            report_key: &report_key,
        };
        let built = pod::build(&task, active, thresholds, &status.breaker, &status.history, &means);
        let body = match built {
            Ok(body) => body,
            Err(bad) => {
                let obstacle = Obstacle { reason: WaitReason::PodRejected, detail: bad.to_string() };
                return Ok(self.refuse(obstacle));
            }
        };
        match self.scope.shared.writer.create_raw::<CachedPod>(&self.namespace, &body).await {
            Ok(created) => {
                self.scope.shared.metrics.pod_created();
                self.scope.unsettled.forget(&self.task.uid().unwrap_or_default());
                self.scope.newest_pods.remember(&Arc::new(created));
                Ok(Progress::Again)
            }
            Err(error) if error.already_exists() => self.adopt(&active.pod_name, error).await,
            Err(error) => self.refused(error, &format!("pod {}", active.pod_name), ""),
        }
    }

    /// The create of `what` failed. Where no answer came in time the object may have been made: the next try finds it,
    /// or a watch does before.
    fn refused(&mut self, error: RequestError, what: &str, prefix: &str) -> Result<Progress, Error> {
        let uid = self.task.uid().unwrap_or_default();
        let refusal = match error.status() {
            Some(status) => {
                let lasted = self.scope.unsettled.since(&uid);
                refused::refusal(status.code, &status.message, lasted)
            }
            // A webhook has 10 s by default, longer than a write may take.
            None if matches!(error, RequestError::TimedOut(_)) => {
                let detail = format!("{error}; an admission webhook may be slow");
                Some(Refusal::Stands(Obstacle { reason: WaitReason::PodRejected, detail }))
            }
            None => None,
        };
        match refusal {
            Some(Refusal::NotYet) => {
                debug!(%error, "the namespace is new; trying again at once");
                self.scope.unsettled.note(&uid);
                Ok(Progress::Rest(Some(NOT_YET)))
            }
            Some(Refusal::Stands(told)) => {
                let detail = format!("{prefix}{}", told.detail);
                Ok(self.refuse(Obstacle { detail, ..told }))
            }
            None => Err(Error::new(format!("creating {what}"), error)),
        }
    }

    fn refuse(&mut self, obstacle: Obstacle) -> Progress {
        self.refused = Some(obstacle);
        Progress::Again
    }

    /// A pod has the name: our own, from a create whose answer was lost or that the cache has not seen; or
    /// somebody else's, which is never touched.
    async fn adopt(&mut self, name: &str, error: RequestError) -> Result<Progress, Error> {
        let api: Api<CachedPod> = Api::namespaced(self.scope.shared.clients.read.clone(), &self.namespace);
        let read = bounded(READ_TIMEOUT, api.get_opt(name)).await;
        let Some(pod) = read.map_err(|error| Error::new(format!("reading pod {name}"), error))? else {
            return self.retry(Error::new(format!("creating pod {name}"), error));
        };
        if self.is_claimed(&pod.facts) {
            self.scope.newest_pods.remember(&Arc::new(pod));
            return Ok(Progress::Again);
        }
        let detail = format!("pod {name} is there and does not belong to this task");
        Ok(self.refuse(Obstacle { reason: WaitReason::NameConflict, detail }))
    }

    /// Takes the gate away, once a read made after the pod was seen shows that the claim still stands.
    async fn start_pod(&mut self, pod: &PodRef) -> Result<Progress, Error> {
        let claimed = |run: &Self| run.task.status.as_ref().and_then(|status| status.active.clone());
        let before = claimed(self);
        if !self.read().await? {
            return Ok(REST);
        }
        let stands = claimed(self).is_some_and(|active| active.pod_name == pod.name)
            && claimed(self) == before
            && self.scope.shared.serving.other(&self.task).is_none()
            && !self.task.spec.suspend
            && self.task.metadata.deletion_timestamp.is_none();
        if !stands {
            return Ok(Progress::Again);
        }
        self.scope.started.note(&self.task);
        let started = self.scope.shared.writer.start_pod(&self.namespace, &pod.name, &pod.uid).await;
        self.answered(pod, "starting", started.map(Some))
    }

    async fn delete_task(&self) -> Result<Progress, Error> {
        let version = self.task.resource_version();
        let uid = self.task.uid();
        match self.scope.shared.writer.delete_task(&self.namespace, &self.name, uid, version).await {
            Ok(()) => info!("the time to live is over; the task is deleted"),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(Error::new("deleting the task", error)),
        }
        Ok(REST)
    }

    fn claims(&self) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.scope.shared.clients.read.clone(), &self.namespace)
    }

    /// Makes the workspace's volume claim where the task asks for one and it is not there. An answer says that it is
    /// refused.
    async fn ensure_claim(&mut self) -> Result<Option<Progress>, Error> {
        let body = match pod::claim(&self.task) {
            Ok(Some(body)) => body,
            Ok(None) => return Ok(None),
            Err(bad) => {
                let refused = Obstacle { reason: WaitReason::PodRejected, detail: bad.to_string() };
                return Ok(Some(self.refuse(refused)));
            }
        };
        let name = pod::claim_name(&self.name, &self.task.uid().unwrap_or_default());
        let what = format!("the workspace's volume claim {name}");
        let read = bounded(READ_TIMEOUT, self.claims().get_opt(&name)).await;
        if read.map_err(|error| Error::new(format!("reading {what}"), error))?.is_some() {
            return Ok(None);
        }
        match self.scope.shared.writer.create_raw::<PersistentVolumeClaim>(&self.namespace, &body).await {
            Ok(_) => Ok(None),
            Err(error) if error.already_exists() => Ok(None),
            Err(error) => {
                let prefix = format!("{what}: ");
                self.refused(error, &what, &prefix).map(Some)
            }
        }
    }

    /// Lets the claim belong to the task, or to nobody, as `whenDeleted` says; looked at when the spec changed.
    pub(super) async fn sync_claim_owner(&self) -> Result<(), Error> {
        let observed = self.task.status.as_ref().and_then(|status| status.observed_generation);
        if observed == self.task.metadata.generation
            || self.task.spec.workspace.volume_claim_template.is_none()
        {
            return Ok(());
        }
        let uid = self.task.uid().unwrap_or_default();
        let name = pod::claim_name(&self.name, &uid);
        let what = format!("the owner of volume claim {name}");
        let read = bounded(READ_TIMEOUT, self.claims().get_opt(&name)).await;
        let read = read.map_err(|error| Error::new(format!("reading {what}"), error))?;
        let Some(claim) = read else { return Ok(()) };
        let owners = claim.owner_references();
        let wanted: Vec<OwnerReference> =
            serde_json::from_value(pod::claim_owners(&self.task)).unwrap_or_default();
        let is_owned = owners.iter().any(|owner| owner.uid == uid);
        if is_owned != wanted.is_empty() {
            return Ok(());
        }
        let others = owners.iter().filter(|owner| owner.uid != uid).cloned();
        let owners: Vec<OwnerReference> = others.chain(wanted).collect();
        let version = claim.resource_version();
        match self.scope.shared.writer.claim_owners(&self.namespace, &name, version, &owners).await {
            Err(error) if !error.is_not_found() => Err(Error::new(format!("setting {what}"), error)),
            _ => Ok(()),
        }
    }
}

/// A key that nobody can guess, for the report of one pod.
fn report_key() -> Result<String, Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::new("drawing a key", kube::Error::Service(Box::new(error)).into()))?;
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

    #[test]
    fn the_sooner_of_two_rests_counts_and_deciding_again_comes_before_both() {
        let rest = |seconds| Progress::Rest(Some(Duration::from_secs(seconds)));
        assert_eq!(rest(3).and(rest(1)), rest(1));
        assert_eq!(REST.and(rest(1)), rest(1));
        assert_eq!(rest(1).and(REST), rest(1));
        assert_eq!(REST.and(REST), REST);
        assert_eq!(rest(1).and(Progress::Again), Progress::Again);
    }
}
