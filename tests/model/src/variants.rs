//! Broken on purpose: each variant removes one guard of the protocol, and a search must find that.
//!
//! They are implemented around the real machines and the real `decide`: in what the API server does (`server.rs`), in
//! what the machines are answered (`operator.rs`, `environment.rs`, `orphans.rs`, `uninstall.rs`), and here. The product
//! has no switches.

use agentloop_core::api::{AgentTask, AgentTaskStatus, Phase};
use agentloop_core::decide::{Action, Decision};
use agentloop_core::facts::{AgentEnd, Ending, PodFacts, PodState};
use agentloop_core::settings::Configuration;
use jiff::SignedDuration;
use serde_json::Value;

use crate::bounds::NOW;

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Nothing: the operator as it is.
    Unbroken,
    /// Pods are created without our scheduling gate.
    NoSchedulingGate,
    /// Pods are created without our finalizer.
    NoFinalizer,
    /// Writes on pods name the pod, and not its uid.
    NoUidPrecondition,
    /// A pod is started because the cache shows its iteration as active.
    StartUnconfirmed,
    /// The status is written without a resourceVersion.
    StatusWithoutVersion,
    /// After a conflict the same patch is sent again, with the version that is there now.
    BlindRetry,
    /// A conflict on a pod counts as proof that the pod is gone.
    PodConflictTakenForNotFound,
    /// The write that starts an iteration succeeds although the spec has changed since the decision.
    SpecVersionIgnored,
    /// Settings of any version count as the newest.
    AnyConfigurationTakenForNewest,
    /// A consistent read of the settings counts as consistent forever.
    ConsistentReadNeverExpires,
    /// A consistent read of the settings outlives a newer read of the task.
    ConsistentReadOutlivesTaskRead,
    /// The first iteration does not wait for pods of a previous task.
    PreviousPodsIgnored,
    /// The first iteration does not wait for gated pods of a previous task, although one may be about to start.
    GatedPreviousPodsIgnored,
    /// Any pod that has the name of the active iteration's pod is taken over.
    ForeignPodAdopted,
    /// A pod of a previous attempt is taken for the active one.
    PreviousAttemptAdopted,
    /// The owner of a PVC is set without the version that was read.
    PvcOwnerWithoutVersion,
    /// The owner of a PVC is set by an older spec than the one by which it was set before.
    PvcOwnerByOlderSpec,
    /// An orphaned pod is not checked again if its task was there.
    OrphansCheckedOnce,
    /// The cache decides whether a pod is orphaned.
    OrphansJudgedByCache,
    /// What the cleanup remembers of a pod is never forgotten, although the cache has a newer version of the pod.
    OrphanAnswersKept,
    /// A pod that is being deleted counts as ended.
    DeletingPodTakenForEnded,
    /// A pod on a silent node counts as ended.
    SilentPodTakenForEnded,
    /// A running pod counts as ended.
    RunningPodTakenForEnded,
    /// A pod that ended without a report counts as free.
    FreeWithoutProof,
    /// A report completes the task, whatever goal its pod was created for.
    CompletionGoalIgnored,
    /// A release does not check which release serves a task.
    ServedByIgnored,
    /// A report without a signature is accepted if the exit code matches.
    UnsignedReportAccepted,
    /// An attempt counts as free although its agent touched the workspace.
    TouchedWorkspaceIsFree,
    /// The number of free attempts is forgotten.
    FreeAttemptsUncounted,
    /// The finalizer is removed from a pod before its iteration is settled.
    FinalizerRemovedBeforeSettled,
    /// Suspending withdraws the active iteration if its pod is not there.
    IterationWithdrawnOnSuspend,
    /// A new try of an iteration begins with attempt 0.
    AttemptNumberReset,
    /// A task that failed is not stopped.
    StopIgnored,
    /// No reconcile follows when a wait is over.
    NeverRequeues,
    /// Each decision writes.
    AlwaysWrites,
    /// The limit is shown when the last iteration starts.
    LimitShownEarly,
    /// After a raised limit, the task resumes with the iteration after the next.
    IterationSkipped,
    /// An uninstall removes finalizers without marking active iterations as orphaned.
    UninstallWithoutMark,
    /// An uninstall writes the status without a resourceVersion.
    UninstallWithoutVersion,
    /// An uninstall marks the tasks once, and then removes the finalizer from any pod that it finds.
    UninstallMarksOnce,
    /// An uninstall does not list the pods a second time.
    UninstallListsPodsOnce,
    /// An uninstall leaves the release's name in the tasks.
    UninstallKeepsServedBy,
    /// An operator creates the pod of an orphaned iteration again.
    OrphanedIgnored,
}

impl Variant {
    /// Changes what an uninstall writes.
    pub fn tamper_with_mark(self, mut patch: Value) -> Value {
        let omitted = match self {
            Self::UninstallWithoutMark => "active",
            Self::UninstallKeepsServedBy => "servedBy",
            _ => return patch,
        };
        patch.as_object_mut().and_then(|patch| patch.remove(omitted));
        patch
    }

    /// Changes what `decide` is given.
    pub fn tamper_with_input(
        self,
        task: &mut AgentTask,
        pods: &mut [PodFacts],
        configuration: &mut Configuration,
    ) {
        match self {
            Self::AnyConfigurationTakenForNewest => configuration.consistent = true,
            Self::StopIgnored => {
                if let Some(status) = &mut task.status {
                    status.stop = None;
                }
            }
            Self::OrphanedIgnored => {
                if let Some(active) = task.status.as_mut().and_then(|status| status.active.as_mut()) {
                    active.orphaned = false;
                }
            }
            Self::FreeAttemptsUncounted => {
                if let Some(status) = &mut task.status {
                    status.free_attempts = 0;
                }
            }
            _ => {}
        }
        let active = task.status.as_ref().and_then(|status| status.active.clone());
        for pod in pods.iter_mut() {
            let is_live = pod.bound && pod.ended().is_none();
            let is_silent = pod.deletion.is_some_and(|asked| asked < *NOW - SignedDuration::from_mins(30));
            let ran = PodState::Ended(Ending::Ran(Box::default()));
            let never_started = PodState::Ended(Ending::NeverStarted { message: String::new() });
            match self {
                Self::DeletingPodTakenForEnded if is_live && pod.deletion.is_some() => {
                    pod.state = never_started;
                }
                Self::SilentPodTakenForEnded if is_live && is_silent => pod.state = ran,
                Self::RunningPodTakenForEnded if pod.state == PodState::Running => pod.state = ran,
                Self::FreeWithoutProof if is_without_report(pod) => pod.state = never_started,
                Self::TouchedWorkspaceIsFree => {
                    if let PodState::Ended(Ending::Ran(end)) = &mut pod.state {
                        end.report.iter_mut().for_each(|report| report.untouched = true);
                    }
                }
                Self::CompletionGoalIgnored => pod.completion = None,
                Self::PreviousAttemptAdopted => {
                    if let Some(active) = active.as_ref().filter(|active| active.iteration == pod.iteration) {
                        pod.attempt = active.attempt;
                        pod.name.clone_from(&active.pod_name);
                    }
                }
                _ => {}
            }
        }
    }

    /// Changes what `decide` returns.
    pub fn tamper_with_decision(
        self,
        task: &AgentTask,
        before: Option<&AgentTaskStatus>,
        pods: &[PodFacts],
        decision: &mut Decision,
    ) {
        match self {
            Self::NeverRequeues => decision.requeue_after = None,
            Self::AttemptNumberReset => {
                if let Some(status) = &mut decision.status {
                    status.next_attempt = 0;
                }
            }
            Self::IterationWithdrawnOnSuspend => {
                let active = before.and_then(|status| status.active.as_ref());
                let is_there = |pod: &PodFacts| active.is_some_and(|active| active.pod_name == pod.name);
                if task.spec.suspend && active.is_some() && !pods.iter().any(is_there) {
                    let status = decision.status.clone().or_else(|| before.cloned()).unwrap_or_default();
                    decision.status = Some(AgentTaskStatus { active: None, ..status });
                }
            }
            Self::AlwaysWrites => {
                let mut status = decision.status.clone().or_else(|| before.cloned()).unwrap_or_default();
                let said = before.and_then(|status| status.message.clone()).unwrap_or_default();
                status.message = Some(if said == "tick" { "tock" } else { "tick" }.to_owned());
                decision.status = Some(status);
            }
            Self::LimitShownEarly => {
                let last = |status: &AgentTaskStatus| {
                    let iteration = status.active.as_ref().map(|active| active.iteration);
                    iteration.is_some() && iteration == status.max_iterations
                };
                if let Some(status) = decision.status.as_mut().filter(|status| last(status)) {
                    status.phase = Some(Phase::IterationLimitReached);
                }
            }
            Self::FinalizerRemovedBeforeSettled => {
                let active = before.and_then(|status| status.active.as_ref());
                let is_unsettled = |pod: &&PodFacts| {
                    pod.has_finalizer && active.is_some_and(|active| active.pod_name == pod.name)
                };
                if let Some(pod) = pods.iter().find(is_unsettled).filter(|pod| pod.ended().is_some()) {
                    let action = Action::RemoveFinalizer { pod: pod.into(), has_ended: true };
                    *decision = Decision { actions: vec![action], ..Decision::default() };
                }
            }
            Self::NoFinalizer => {
                decision.actions.retain(|action| !matches!(action, Action::AddFinalizer(_)));
            }
            Self::IterationSkipped => {
                let was_stopped = before.is_some_and(|status| status.stop.is_some());
                let active = decision.status.as_mut().and_then(|status| status.active.as_mut());
                active.into_iter().filter(|_| was_stopped).for_each(|active| active.iteration += 1);
            }
            _ => {}
        }
    }
}

fn is_without_report(pod: &PodFacts) -> bool {
    let without = |end: &AgentEnd| end.report.is_none();
    matches!(pod.ended(), Some(Ending::Ran(end)) if without(end))
}
