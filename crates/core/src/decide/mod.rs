//! The decision: what a task's status becomes, and what is done to its pods.
//!
//! [`decide`] is a function of what was observed, and of nothing else. It reads from top to bottom: a task
//! that is being deleted only has its pods stopped; a new reset token is acted on; a claimed iteration is
//! brought on and settled once its pod has ended; where nothing is claimed, the rules say stop, wait or
//! claim; settled pods are let go. The status is written first, with the resourceVersion that was read;
//! only then are the actions carried out. So whatever is done stands in the status before it is done.

mod active;
mod cleanup;
mod draft;
mod events;
mod next;
mod outcome;
mod provider;
mod rules;
pub mod served;
mod settle;
mod status;
mod types;
mod usage;

use kube::ResourceExt;

pub use cleanup::stop_all;
pub use events::{EventRecord, events_of_change};
pub use outcome::{AttemptOutcome, Charge, NoChangeStreak, SameErrorStreak, attempt_outcome};
pub use types::{Action, Decision, Observed, PodRef, PreviousPod};

use crate::{api::AgentTask, facts::PodFacts};
use draft::Draft;

/// What a task's status becomes and what is done.
pub fn decide(observed: &Observed<'_>) -> Decision {
    if observed.task.metadata.deletion_timestamp.is_some() {
        let uid = observed.task.uid().unwrap_or_default();
        let own: Vec<PodFacts> = observed.pods.iter().filter(|pod| pod.belongs_to(&uid)).cloned().collect();
        return cleanup::stop_all(&own);
    }
    let before = observed.task.status.clone().unwrap_or_default();
    let mut draft = Draft::new(before, observed);
    rules::act_on_reset_token(&mut draft);
    if let Some(active) = draft.status.active.clone() {
        active::advance(&mut draft, &active);
    }
    if draft.status.active.is_none() {
        next::advance(&mut draft);
    }
    if draft.needs_a_read() {
        return draft.decision;
    }
    // The next pod comes first: an agent waits for it. Once it is created, the decision is taken again.
    if !draft.decision.actions.contains(&Action::CreatePod) {
        cleanup::clean_up_settled_pods(&mut draft);
    }
    if observed.task.spec.workspace.volume_claim_template.is_some() && !observed.pvc_is_checked {
        draft.act(Action::CheckPvcOwner);
    }
    status::update(&mut draft);
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
        && serving.other_release(task).is_none()
        && !task.spec.suspend
        && task.metadata.deletion_timestamp.is_none()
}
