//! The uninstall: carries out the requests of the machine that `agentloop uninstall` drives. If it fails or dies, it
//! begins again, as its Job does.

use agentloop_core::sync::{
    Failure, Response, UninstallOutcome, UninstallRequest, UninstallResponse, UninstallStep, UninstallSync,
};

use crate::api::{ModelPodId, WriteRequest};
use crate::decision::Decider;
use crate::environment::UninstallView;
use crate::handles::Modelled;
use crate::invariants;
use crate::operator;
use crate::requests::{RequestKind, RequestOutcome};
use crate::state::{ModelState, PendingUninstall, UninstallProgress};
use crate::variants::Variant;

/// The release that is uninstalled: that of the first operator.
pub const RELEASE: u8 = 0;

/// The uninstall begins, or begins again.
pub fn begin(state: &mut ModelState) {
    let sync = UninstallSync::default();
    let request = sync.first();
    state.uninstall = UninstallProgress::Running(Box::new(PendingUninstall { sync, request, lists: 0 }));
}

/// What the uninstall asks for next.
pub fn next_request(state: &ModelState) -> Option<&UninstallRequest<Modelled>> {
    match &state.uninstall {
        UninstallProgress::Running(pending) => Some(&pending.request),
        UninstallProgress::NotBegun | UninstallProgress::Complete => None,
    }
}

/// The uninstall sends its next request, and its machine takes the answer.
pub fn perform_next(state: &mut ModelState, decider: &Decider, outcome: RequestOutcome, has_exact_end: bool) {
    let progress = std::mem::replace(&mut state.uninstall, UninstallProgress::NotBegun);
    let UninstallProgress::Running(mut pending) = progress else {
        state.uninstall = progress;
        return;
    };
    let mut response = perform(state, decider, &mut pending, outcome);
    let view = UninstallView { decider, release: RELEASE };
    loop {
        match pending.sync.next(&view, response) {
            UninstallStep::Request(UninstallRequest::Pause) => response = UninstallResponse::Done,
            UninstallStep::Request(request) => {
                pending.request = request;
                state.uninstall = UninstallProgress::Running(pending);
                return;
            }
            UninstallStep::Finished(UninstallOutcome::Complete) => {
                invariants::check_uninstalled(state, RELEASE, has_exact_end);
                state.uninstall = UninstallProgress::Complete;
                return;
            }
            UninstallStep::Finished(UninstallOutcome::Incomplete { .. } | UninstallOutcome::NotListed) => {
                return begin(state);
            }
        }
    }
}

fn perform(
    state: &mut ModelState,
    decider: &Decider,
    pending: &mut PendingUninstall,
    outcome: RequestOutcome,
) -> UninstallResponse<Modelled> {
    let variant = decider.variant;
    let kind = RequestKind::of_uninstall(&pending.request);
    if kind == RequestKind::Read && outcome != RequestOutcome::Answered {
        return UninstallResponse::Failed(Failure::Lost);
    }
    let write = match &pending.request {
        UninstallRequest::ListPods => {
            let is_omitted = pending.lists > 0 && variant == Variant::UninstallListsPodsOnce;
            let ours = state.pods.iter().filter(|pod| !pod.foreign && pod.has_finalizer && !is_omitted);
            return UninstallResponse::Pods(ours.map(ModelPodId::from).collect());
        }
        UninstallRequest::ListTasks => {
            let is_omitted = pending.lists > 0 && variant == Variant::UninstallMarksOnce;
            pending.lists = 1;
            let is_listed = state.task.task.is_some() && !is_omitted;
            return UninstallResponse::Tasks(is_listed.then_some(state.task).into_iter().collect());
        }
        UninstallRequest::ReadTask(_) => {
            let not_found = UninstallResponse::Failed(Failure::NotFound);
            return state.task.task.map_or(not_found, |_| UninstallResponse::Task(state.task));
        }
        UninstallRequest::WriteStatus { task, status } => {
            let Some(of) = task.task else { return UninstallResponse::Failed(Failure::NotFound) };
            let (uid, version, before) = (of.uid, task.version, of.status);
            WriteRequest::Mark { release: RELEASE, uid, version, before, after: *status }
        }
        UninstallRequest::RemoveFinalizer(pod) => WriteRequest::RemoveFinalizer(*pod),
        UninstallRequest::Pause => return UninstallResponse::Done,
    };
    match operator::send_write(state, variant, write, outcome) {
        Response::Failed(failure) => UninstallResponse::Failed(failure),
        _ => UninstallResponse::Done,
    }
}
