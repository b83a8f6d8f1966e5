//! The decision: what a task's status becomes, and what is done to its pods.
//!
//! [`decide`] is a function of what was observed, and of nothing else. It reads from top to bottom: a task
//! that is being deleted only has its pods stopped; a new reset token is acted on; a claimed iteration is
//! brought on and settled once its pod has ended; where nothing is claimed, the rules say stop, wait or
//! claim; settled pods are let go. The status is written first, with the resourceVersion that was read;
//! only then are the actions carried out. So whatever is done stands in the status before it is done.

mod announce;
mod claimed;
mod judge;
mod provider;
mod rules;
pub mod served;
mod settle;
mod show;
mod tidy;
mod unclaimed;
mod usage;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

pub use announce::{Note, announce};
pub use judge::{Charge, ErrorSeen, Judgement, NoChange, judge};
pub use tidy::stop_all;

use crate::{
    api::{ActiveIteration, AgentTask, AgentTaskStatus, WaitReason, Waiting},
    facts::{Obstacle, PodFacts},
    pod::Injection,
    settings::Configuration,
};

/// All that a decision rests on.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// The task as it was read; the status is written with its resourceVersion.
    pub task: &'a AgentTask,
    /// Every pod that this task controls.
    pub pods: &'a [PodFacts],
    /// The operator's configuration.
    pub configuration: &'a Configuration,
    /// How the runner gets into pods that are made now.
    pub injection: &'a Injection,
    /// What the Events of the claimed pod tell, where its status tells nothing.
    pub obstacle: Option<Obstacle>,
    /// Whether a pod of an earlier task of the same name still runs.
    pub previous_pod: PreviousPod,
    /// Why the claimed pod could not be created just now.
    pub refused: Option<Obstacle>,
    /// This process has let the claimed pod start. A restart forgets it: it only ever adds a charge.
    pub was_started: bool,
    /// A read from the API server itself, made just now, shows no pod of the claim's name.
    pub is_gone: bool,
    /// This process has checked the owner of the workspace's PVC against this generation of the spec. A restart
    /// forgets it.
    pub pvc_is_checked: bool,
    /// The time.
    pub now: Timestamp,
}

/// Whether a pod of an earlier task of the same name still runs: two may share a workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum PreviousPod {
    /// Nobody has looked.
    #[default]
    Unknown,
    /// A consistent list shows none.
    None,
    /// This pod does.
    Pod(String),
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// The status to write, where it differs from the one that was read.
    pub status: Option<AgentTaskStatus>,
    /// What to do once the status is written, in this order.
    pub actions: Vec<Action>,
    /// When to decide again though nothing is seen to change.
    pub requeue_after: Option<Duration>,
}

/// One thing to do. `P` names a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action<P = PodRef> {
    /// Read the configuration from the API server itself, and decide again.
    ReadConfiguration,
    /// List the pods of earlier tasks of this name from the API server itself, and decide again.
    ListPreviousPods,
    /// Read the claimed pod from the API server itself, and decide again.
    ReadPod,
    /// Create the claimed pod, inert.
    CreatePod,
    /// Take the claimed pod's gate away, once a consistent read confirms the claim.
    RemoveSchedulingGate(P),
    /// Put our finalizer back on a pod that lost it.
    AddFinalizer(P),
    /// Delete a pod: it is to stop, or is not needed any more.
    DeletePod(P),
    /// Take our finalizer off a pod that is settled.
    RemoveFinalizer {
        /// The pod.
        pod: P,
        /// It has ended: its prompt and context are not needed any more.
        has_ended: bool,
    },
    /// Check that the task owns the workspace's PVC if and only if the PVC is to be deleted with it.
    CheckPvcOwner,
    /// Delete the task: its time to live is over.
    DeleteTask,
}

impl<P> Action<P> {
    /// Whether this may still be done after `failed`, which comes before it, was refused. Only what stops a pod or
    /// removes its finalizer may, because the status that is written already calls for it whatever becomes of the rest;
    /// and only on another pod, because the order on one pod matters: a pod that lost our finalizer is neither deleted
    /// nor started before it has it again.
    pub fn stands_without(&self, failed: &Self) -> bool
    where
        P: PartialEq,
    {
        match self {
            Self::DeletePod(pod) | Self::RemoveFinalizer { pod, .. } => {
                !failed.is_a_read() && failed.pod() != Some(pod)
            }
            _ => false,
        }
    }

    /// The pod that this is about; the active one has no uid before it is created.
    fn pod(&self) -> Option<&P> {
        match self {
            Self::RemoveSchedulingGate(pod)
            | Self::AddFinalizer(pod)
            | Self::DeletePod(pod)
            | Self::RemoveFinalizer { pod, .. } => Some(pod),
            Self::ReadConfiguration
            | Self::ListPreviousPods
            | Self::ReadPod
            | Self::CreatePod
            | Self::CheckPvcOwner
            | Self::DeleteTask => None,
        }
    }

    /// The same, with another name for each pod.
    pub fn map<Q>(self, name: impl FnOnce(P) -> Q) -> Action<Q> {
        match self {
            Self::ReadConfiguration => Action::ReadConfiguration,
            Self::ListPreviousPods => Action::ListPreviousPods,
            Self::ReadPod => Action::ReadPod,
            Self::CreatePod => Action::CreatePod,
            Self::RemoveSchedulingGate(pod) => Action::RemoveSchedulingGate(name(pod)),
            Self::AddFinalizer(pod) => Action::AddFinalizer(name(pod)),
            Self::DeletePod(pod) => Action::DeletePod(name(pod)),
            Self::RemoveFinalizer { pod, has_ended } => Action::RemoveFinalizer { pod: name(pod), has_ended },
            Self::CheckPvcOwner => Action::CheckPvcOwner,
            Self::DeleteTask => Action::DeleteTask,
        }
    }

    /// Whether this only reads something, after which the decision is taken again.
    pub fn is_a_read(&self) -> bool {
        matches!(self, Self::ReadConfiguration | Self::ListPreviousPods | Self::ReadPod)
    }
}

/// A pod by name and uid: every write is bound to both.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodRef {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

impl From<&PodFacts> for PodRef {
    fn from(pod: &PodFacts) -> Self {
        Self { name: pod.name.clone(), uid: pod.uid.clone() }
    }
}

/// What a task's status becomes and what is done.
pub fn decide(observed: &Observed<'_>) -> Decision {
    if observed.task.metadata.deletion_timestamp.is_some() {
        let uid = observed.task.uid().unwrap_or_default();
        let own: Vec<PodFacts> = observed.pods.iter().filter(|pod| pod.belongs_to(&uid)).cloned().collect();
        return tidy::stop_all(&own);
    }
    let before = observed.task.status.clone().unwrap_or_default();
    let mut draft =
        Draft { status: before.clone(), decision: Decision::default(), observed, waits_anew: false };
    draft.act_on_reset_token();
    if let Some(active) = draft.status.active.clone() {
        claimed::bring_on(&mut draft, &active);
    }
    if draft.status.active.is_none() {
        unclaimed::go_on(&mut draft);
    }
    if draft.needs_a_read() {
        return draft.decision;
    }
    tidy::let_settled_pods_go(&mut draft);
    if observed.task.spec.workspace.volume_claim_template.is_some() && !observed.pvc_is_checked {
        draft.act(Action::CheckPvcOwner);
    }
    show::show(&mut draft);
    let Draft { status, mut decision, .. } = draft;
    if observed.task.status.as_ref() != Some(&status) {
        decision.status = Some(status);
    }
    decision
}

/// Whether the pod of this name may be started, by a version of its task that was read after the pod was seen.
pub fn may_start(task: &AgentTask, pod: &str, serving: &served::Serving) -> bool {
    let active = task.status.as_ref().and_then(|status| status.active.as_ref());
    active.is_some_and(|active| active.pod_name == pod)
        && serving.other(task).is_none()
        && !task.spec.suspend
        && task.metadata.deletion_timestamp.is_none()
}

/// A decision in the making.
struct Draft<'a> {
    status: AgentTaskStatus,
    decision: Decision,
    observed: &'a Observed<'a>,
    /// The present wait was decided just now: no earlier change of the spec has a say in it.
    waits_anew: bool,
}

impl Draft<'_> {
    fn uid(&self) -> String {
        self.observed.task.uid().unwrap_or_default()
    }

    fn generation(&self) -> i64 {
        self.observed.task.metadata.generation.unwrap_or_default()
    }

    /// The spec is another than the one that the status answers.
    fn spec_changed(&self) -> bool {
        self.status.observed_generation.is_some_and(|observed| observed != self.generation())
    }

    fn act(&mut self, action: Action) {
        self.decision.actions.push(action);
    }

    fn again_after(&mut self, delay: SignedDuration) {
        let delay = Duration::try_from(delay).unwrap_or_default().max(Duration::from_millis(100));
        self.decision.requeue_after =
            Some(self.decision.requeue_after.map_or(delay, |earlier| earlier.min(delay)));
    }

    fn again_at(&mut self, time: Timestamp) {
        self.again_after(time.duration_since(self.observed.now));
    }

    /// Waits for `obstacle`. A wait that goes on keeps the time at which it began.
    fn wait(&mut self, obstacle: &Obstacle, retry_time: Option<Timestamp>) {
        let same = self.status.waiting.as_ref().filter(|waiting| waiting.reason == obstacle.reason);
        let start_time = same.map_or(Time(self.observed.now), |waiting| waiting.start_time.clone());
        self.status.waiting = Some(Waiting {
            reason: obstacle.reason,
            message: some_text(&obstacle.detail),
            start_time,
            retry_time: retry_time.map(|time| Time(whole_second(time))),
        });
        self.waits_anew = true;
        if let Some(time) = retry_time {
            self.again_at(whole_second(time));
        }
    }

    fn wait_for(&mut self, reason: WaitReason, detail: impl Into<String>) {
        self.wait(&Obstacle { reason, detail: detail.into() }, None);
    }

    /// When the present wait lets the next try begin, where that is yet to come.
    fn held_until(&self) -> Option<Timestamp> {
        if self.spec_changed() && !self.waits_anew {
            return None;
        }
        let until = self.status.waiting.as_ref()?.retry_time.as_ref()?.0;
        (until > self.observed.now).then_some(until)
    }

    /// A new value clears both streaks and lifts the stops that a person must lift. The count stays.
    fn act_on_reset_token(&mut self) {
        let token = &self.observed.task.spec.reset_token;
        // The version that knows the stop will act on the token.
        if self.status.stop.as_ref().is_some_and(rules::is_unknown) {
            return;
        }
        if token.is_none() || *token == self.status.last_handled_reset_token {
            return;
        }
        self.status.last_handled_reset_token.clone_from(token);
        self.status.breaker = crate::api::BreakerStatus::default();
        self.status.refusals = 0;
        if self.status.stop.as_ref().is_some_and(|stop| rules::is_lifted_by_token(stop.phase)) {
            self.status.stop = None;
        }
    }

    /// The shell must read something before anything can be decided.
    fn needs_a_read(&self) -> bool {
        self.decision.actions.iter().any(Action::is_a_read)
    }

    fn pod_of(&self, active: &ActiveIteration) -> Option<&PodFacts> {
        let uid = self.uid();
        // By its name too: a copy that somebody made of the pod bears the same owner and labels.
        let is_claimed = |pod: &&PodFacts| {
            pod.name == active.pod_name && pod.is_of(&uid, active.iteration, active.attempt)
        };
        self.observed.pods.iter().find(is_claimed)
    }
}

/// That much later; at the end of time, the end of time. Times and delays come from outside, and the plain
/// operators panic where a sum leaves the calendar.
pub(crate) fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.saturating_add(by).unwrap_or(time)
}

/// Times in the status have whole seconds, as everywhere in Kubernetes; rounded up, so that nothing
/// begins early.
fn whole_second(time: Timestamp) -> Timestamp {
    let seconds = time.as_second().saturating_add(i64::from(time.subsec_nanosecond() > 0));
    Timestamp::from_second(seconds).unwrap_or(time)
}

/// Text for the status: bounded, and absent rather than empty.
fn some_text(text: &str) -> Option<String> {
    const MOST_BYTES: usize = 480;
    let text = agentloop_contract::text::cut_bytes(text.trim(), MOST_BYTES);
    (!text.is_empty()).then_some(text)
}

/// `min` doubled `times` times, at most `max`.
fn backed_off(min: i64, max: i64, times: i32) -> SignedDuration {
    let doublings = u32::try_from(times.clamp(0, 30)).unwrap_or(0);
    SignedDuration::from_secs(
        min.saturating_mul(1_i64.checked_shl(doublings).unwrap_or(i64::MAX)).min(max).max(0),
    )
}
