//! Users and administrators: what they change by hand.

use std::sync::Arc;

use crate::api::{
    Attempt, Deletion, ModelPod, ModelSpec, ModelTask, NO_STATUS, PodEnd, PodProgress, TaskVersion,
    WorkspacePolicy,
};
use crate::server::{self, change_pod};
use crate::state::ModelState;

/// One action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UserAction {
    /// Sets `maxIterations`.
    SetLimit(u8),
    Suspend,
    Resume,
    /// Sets another `resetToken`.
    SetResetToken,
    ChangeTemplate,
    ChangeGoal,
    /// Says what happens to the PVC when the task is deleted.
    SetWorkspacePolicy(WorkspacePolicy),
    /// Deletes the task; the garbage collector deletes its pods.
    DeleteTask,
    DeleteTaskInForeground,
    /// Creates a task of the same name.
    CreateTask,
    /// Deletes a pod by hand.
    DeletePod,
    /// The ConfigMap becomes the next version.
    ChangeConfigMap,
    /// Creates a pod with the name of the first attempt's pod.
    CreateForeignPod,
    /// Removes it again.
    DeleteForeignPod,
}

/// The spec after an action.
fn edited(spec: ModelSpec, action: UserAction) -> ModelSpec {
    match action {
        UserAction::SetLimit(limit) => ModelSpec { limit, ..spec },
        UserAction::Suspend => ModelSpec { suspend: true, ..spec },
        UserAction::Resume => ModelSpec { suspend: false, ..spec },
        UserAction::SetResetToken => ModelSpec { token: spec.token + 1, ..spec },
        UserAction::ChangeGoal => ModelSpec { goal: spec.goal + 1, ..spec },
        UserAction::SetWorkspacePolicy(workspace) => ModelSpec { workspace, ..spec },
        UserAction::ChangeTemplate => ModelSpec { template: spec.template + 1, ..spec },
        _ => spec,
    }
}

/// The pod that a user deletes: the newest of the task.
fn newest_pod(state: &ModelState) -> Option<&ModelPod> {
    state.pods.iter().rev().find(|pod| !pod.foreign)
}

/// The attempt whose pod name a user takes.
fn first_attempt(state: &ModelState) -> Attempt {
    Attempt { task: state.next_task.saturating_sub(1), iteration: 1, attempt: 0 }
}

/// Whether an action changes anything now.
pub fn is_possible(state: &ModelState, action: UserAction, config_versions: u8) -> bool {
    match (action, state.task.task) {
        (UserAction::CreateTask, task) => task.is_none(),
        (UserAction::ChangeConfigMap, _) => state.config_map + 1 < config_versions,
        (UserAction::DeletePod, _) => newest_pod(state).is_some_and(|pod| pod.deletion == Deletion::No),
        (UserAction::CreateForeignPod, _) => state.pod_named(first_attempt(state)).is_none(),
        (UserAction::DeleteForeignPod, _) => state.pods.iter().any(|pod| pod.foreign),
        (_, None) => false,
        (UserAction::DeleteTask | UserAction::DeleteTaskInForeground, Some(task)) => !task.deleting,
        (action, Some(task)) => edited(task.spec, action) != task.spec,
    }
}

/// Carries out the action. `first` is the spec of a task that is created.
pub fn act(state: &mut ModelState, action: UserAction, first: ModelSpec) {
    match action {
        UserAction::CreateTask => create_task(state, first),
        UserAction::ChangeConfigMap => state.config_map += 1,
        UserAction::DeletePod => {
            if let Some(uid) = newest_pod(state).map(|pod| pod.uid) {
                change_pod(state, uid, |pod| {
                    pod.deletion = Deletion::Requested;
                    true
                });
            }
        }
        UserAction::CreateForeignPod => {
            let pod = ModelPod {
                uid: state.next_pod,
                version: 0,
                of: first_attempt(state),
                foreign: true,
                has_scheduling_gate: false,
                has_finalizer: false,
                deletion: Deletion::No,
                bound: true,
                template: 0,
                goal: 0,
                progress: PodProgress::Ended(PodEnd::Changed),
            };
            server::add_pod(state, pod);
        }
        UserAction::DeleteForeignPod => Arc::make_mut(&mut state.pods).retain(|pod| !pod.foreign),
        UserAction::DeleteTask => server::remove_task(state),
        _ => edit(state, action),
    }
}

fn edit(state: &mut ModelState, action: UserAction) {
    let Some(task) = state.task.task else { return };
    let task = match action {
        UserAction::DeleteTaskInForeground => {
            ModelTask { deleting: true, generation: task.generation + 1, ..task }
        }
        action => ModelTask { spec: edited(task.spec, action), generation: task.generation + 1, ..task },
    };
    state.task = TaskVersion { version: state.task.version + 1, task: Some(task) };
    server::finish_foreground_deletion(state);
}

/// Creates a task of the same name as every previous one.
pub fn create_task(state: &mut ModelState, spec: ModelSpec) {
    let task = ModelTask { uid: state.next_task, generation: 1, spec, deleting: false, status: NO_STATUS };
    state.next_task += 1;
    state.task = TaskVersion { version: state.task.version + 1, task: Some(task) };
}
