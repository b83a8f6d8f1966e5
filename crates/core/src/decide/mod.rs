//! The decision: the new status of a task, and the actions on its pods.
//!
//! [`decide`] is a pure function of what was observed. It reads from top to bottom: if the task is being deleted, its
//! pods are stopped, and nothing else happens. A new reset token is handled. The active iteration advances, and is
//! settled when its pod has ended. If no iteration is active, the rules stop the task, let it wait, or start the next
//! iteration. Settled pods lose their finalizer. The shell first writes the status, guarded by the resourceVersion that
//! was read, and then carries out the actions: so every action is recorded in the status before it is carried out.

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

/// The new status of a task, and the actions.
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
    cleanup::clean_up_settled_pods(&mut draft);
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

/// Whether the pod of this name may be started. The task must have been read after the pod was observed.
pub fn may_start(task: &AgentTask, pod: &str, serving: &served::Serving) -> bool {
    let active = task.status.as_ref().and_then(|status| status.active.as_ref());
    active.is_some_and(|active| active.pod_name == pod && !active.orphaned)
        && serving.other_release(task).is_none()
        && !task.spec.suspend
        && task.metadata.deletion_timestamp.is_none()
}
