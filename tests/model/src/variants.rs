//! Broken on purpose: each variant takes one guard of the protocol away, and a search must see it.
//!
//! They live around the real machine and the real `decide`: in what the API server does (`server.rs`), in what the
//! machine is answered (`operator.rs`, `handles.rs`, `sweep.rs`), and here. The product has no switches.

use agentloop_core::api::{AgentTask, AgentTaskStatus, Phase};
use agentloop_core::decide::{Action, Decision};
use agentloop_core::facts::{AgentEnd, Ending, PodFacts, PodState};
use agentloop_core::settings::Configuration;
use jiff::SignedDuration;

use crate::objects::NOW;

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Nothing: the operator as it is.
    Sound,
    /// Pods are created without our gate.
    NoGate,
    /// Pods are created without our finalizer.
    NoFinalizer,
    /// Writes on pods go by name alone.
    NoUid,
    /// A pod is started by what the cache says of the claim.
    StartUnconfirmed,
    /// The status is written without a resourceVersion.
    StatusUnguarded,
    /// After a conflict the same patch is sent again with the version that is there now.
    BlindRetry,
    /// A conflict on a pod is taken to mean that another pod has its name.
    ConflictIsDone,
    /// A claim does not carry the version of the spec that it was decided on.
    LimitReadLate,
    /// Settings of any version are taken for the newest.
    SettingsUnfenced,
    /// A consistent read of the settings is taken for consistent ever after.
    ConsistencyRemembered,
    /// A consistent read of the settings outlives a newer read of the task.
    ConsistentAcrossReads,
    /// The first claim does not wait for pods of an earlier task.
    EarlierIgnored,
    /// The first claim does not wait for gated pods of an earlier task: somebody may be about to start one.
    GatedEarlierIgnored,
    /// Whatever pod has the claimed name is taken over.
    ForeignAdopted,
    /// A pod of an earlier attempt is taken for the claimed one.
    OtherAttemptAdopted,
    /// The owner of a PVC is set without the version that was read.
    PvcUnguarded,
    /// The owner of a PVC is set by an older spec than the one that it was set by before.
    PvcGoesBack,
    /// The sweep never looks again at a pod whose task was there.
    SweepLooksOnce,
    /// The sweep takes the cache's word that a task is gone.
    SweepFromCache,
    /// A pod that is being deleted is taken to have ended.
    DeletingIsEnded,
    /// A pod on a silent node is taken to have ended.
    SilentIsEnded,
    /// A pod that runs is settled.
    RunningIsEnded,
    /// A pod that ended without a report is taken to have been free.
    FreeWithoutProof,
    /// A report completes the task, whatever its pod was made from.
    GoalIgnored,
    /// A release does not look which one serves a task.
    ServedIgnored,
    /// A report without a signature is believed where the exit code fits.
    UnsignedBelieved,
    /// An attempt is taken to be free in which only something was touched that counts as no change.
    TouchedIsFree,
    /// How many attempts were free is forgotten.
    FreeUncounted,
    /// Pods are let go before they are settled.
    ReleasedBeforeSettled,
    /// Suspending takes a claim back whose pod is not there.
    WithdrawnOnSuspend,
    /// A new claim of an iteration begins with attempt 0.
    AttemptForgotten,
    /// A task that failed is not held.
    StopForgotten,
    /// Nobody comes back when a wait is over.
    NeverRetries,
    /// Each decision writes.
    AlwaysWrites,
    /// The limit is shown when the last iteration is claimed.
    LimitShownEarly,
    /// A raised limit goes on with the iteration after the next.
    IterationSkipped,
}

impl Variant {
    /// Before `decide`.
    pub fn tamper_with_input(
        self,
        task: &mut AgentTask,
        pods: &mut [PodFacts],
        configuration: &mut Configuration,
    ) {
        match self {
            Self::SettingsUnfenced => configuration.consistent = true,
            Self::StopForgotten => {
                if let Some(status) = &mut task.status {
                    status.stop = None;
                }
            }
            Self::FreeUncounted => {
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
                Self::DeletingIsEnded if is_live && pod.deletion.is_some() => pod.state = never_started,
                Self::SilentIsEnded if is_live && is_silent => pod.state = ran,
                Self::RunningIsEnded if pod.state == PodState::Running => pod.state = ran,
                Self::FreeWithoutProof if is_without_report(pod) => pod.state = never_started,
                Self::TouchedIsFree => {
                    if let PodState::Ended(Ending::Ran(end)) = &mut pod.state {
                        end.report.iter_mut().for_each(|report| report.untouched = true);
                    }
                }
                Self::GoalIgnored => pod.completion = None,
                Self::OtherAttemptAdopted => {
                    if let Some(active) = active.as_ref().filter(|active| active.iteration == pod.iteration) {
                        pod.attempt = active.attempt;
                        pod.name.clone_from(&active.pod_name);
                    }
                }
                _ => {}
            }
        }
    }

    /// After `decide`.
    pub fn tamper_with_decision(
        self,
        task: &AgentTask,
        before: Option<&AgentTaskStatus>,
        pods: &[PodFacts],
        decision: &mut Decision,
    ) {
        match self {
            Self::NeverRetries => decision.requeue_after = None,
            Self::AttemptForgotten => {
                if let Some(status) = &mut decision.status {
                    status.next_attempt = 0;
                }
            }
            Self::WithdrawnOnSuspend => {
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
                    let claimed = status.active.as_ref().map(|active| active.iteration);
                    claimed.is_some() && claimed == status.max_iterations
                };
                if let Some(status) = decision.status.as_mut().filter(|status| last(status)) {
                    status.phase = Some(Phase::IterationLimitReached);
                }
            }
            Self::ReleasedBeforeSettled => {
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
