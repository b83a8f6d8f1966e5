//! Users and administrators: what they change by hand.

use crate::server::{self, change_pod};
use crate::state::{Attempt, Deletion, End, Pod, Read, Shown, Spec, State, Task, Workspace};
use crate::statuses;

/// One act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// Sets `maxIterations`.
    Limit(u8),
    Suspend,
    Resume,
    /// Another `resetToken`.
    Reset,
    /// Another template.
    Template,
    /// Another goal.
    Goal,
    /// Says what becomes of the PVC when the task is deleted.
    Workspace(Workspace),
    /// Deletes the task; the garbage collector sees to its pods.
    Delete,
    /// Deletes the task in the foreground.
    DeleteForeground,
    /// Creates a task of the same name.
    Create,
    /// Deletes a pod by hand.
    DeletePod,
    /// The ConfigMap becomes the next one.
    Configure,
    /// Makes a pod of the name of the first attempt.
    Squat,
    /// Takes it away again.
    Unsquat,
}

/// The spec after an act.
fn edited(spec: Spec, act: Act) -> Spec {
    match act {
        Act::Limit(limit) => Spec { limit, ..spec },
        Act::Suspend => Spec { suspend: true, ..spec },
        Act::Resume => Spec { suspend: false, ..spec },
        Act::Reset => Spec { token: spec.token + 1, ..spec },
        Act::Goal => Spec { goal: spec.goal + 1, ..spec },
        Act::Workspace(workspace) => Spec { workspace, ..spec },
        Act::Template => Spec { template: spec.template + 1, ..spec },
        _ => spec,
    }
}

/// The pod that an act by hand is about: the newest of the task.
fn target(state: &State) -> Option<&Pod> {
    state.pods.iter().rev().find(|pod| !pod.foreign)
}

fn squatted(state: &State) -> Attempt {
    Attempt { task: state.next_task.saturating_sub(1), iteration: 1, attempt: 0 }
}

/// Whether an act does anything now.
pub fn is_possible(state: &State, act: Act, configs: u8) -> bool {
    match (act, state.task.task) {
        (Act::Create, task) => task.is_none(),
        (Act::Configure, _) => state.settings + 1 < configs,
        (Act::DeletePod, _) => target(state).is_some_and(|pod| pod.deletion == Deletion::No),
        (Act::Squat, _) => state.named(squatted(state)).is_none(),
        (Act::Unsquat, _) => state.pods.iter().any(|pod| pod.foreign),
        (_, None) => false,
        (Act::Delete | Act::DeleteForeground, Some(task)) => !task.deleting,
        (act, Some(task)) => edited(task.spec, act) != task.spec,
    }
}

/// The act is done.
pub fn act(state: &mut State, act: Act, first: Spec) {
    match act {
        Act::Create => create_task(state, first),
        Act::Configure => state.settings += 1,
        Act::DeletePod => {
            if let Some(uid) = target(state).map(|pod| pod.uid) {
                change_pod(state, uid, |pod| {
                    pod.deletion = Deletion::Asked;
                    true
                });
            }
        }
        Act::Squat => {
            let pod = Pod {
                uid: state.next_pod,
                version: 0,
                of: squatted(state),
                foreign: true,
                gated: false,
                held: false,
                deletion: Deletion::No,
                bound: true,
                template: 0,
                goal: 0,
                shown: Shown::Ended(End::Changed),
            };
            server::add(state, pod);
        }
        Act::Unsquat => {
            let pods = std::sync::Arc::make_mut(&mut state.pods);
            pods.retain(|pod| !pod.foreign);
        }
        Act::Delete => server::remove_task(state),
        _ => edit(state, act),
    }
}

fn edit(state: &mut State, act: Act) {
    let Some(task) = state.task.task else { return };
    let task = match act {
        Act::DeleteForeground => Task { deleting: true, generation: task.generation + 1, ..task },
        act => Task { spec: edited(task.spec, act), generation: task.generation + 1, ..task },
    };
    state.task = Read { version: state.task.version + 1, task: Some(task) };
    server::finish_foreground_deletion(state);
}

/// A task is made, of the same name as any earlier one.
pub fn create_task(state: &mut State, spec: Spec) {
    let task = Task { uid: state.next_task, generation: 1, spec, deleting: false, status: statuses::NONE };
    state.next_task += 1;
    state.task = Read { version: state.task.version + 1, task: Some(task) };
}
