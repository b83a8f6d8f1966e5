//! L1, L2 and S8: once nothing goes wrong any more, a task reaches its end, nothing is left behind, and then nothing is
//! written. Checked by following a state along fair schedules ([`crate::fair`]) until the world is at rest.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use agentloop_core::api::Phase;
use agentloop_test_support::invariants::Invariant;
use parking_lot::{Mutex, MutexGuard};

use crate::api::{AgentRun, ModelTask, PodEnd, WorkspacePolicy};
use crate::bounds::{LIVENESS_SHARDS, MAX_FAIR_TRANSITIONS};
use crate::fair::{self, Schedule};
use crate::state::{Budget, ModelState};
use crate::statuses::{self, StatusView};
use crate::system::{Transition, TransitionSystem};

/// States, with whose turn it is, from which everything is known to end well.
pub struct CheckedStates(Vec<Mutex<HashSet<u64>>>);

impl Default for CheckedStates {
    fn default() -> Self {
        Self((0..LIVENESS_SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl CheckedStates {
    fn shard(&self, hash: u64) -> MutexGuard<'_, HashSet<u64>> {
        let shards = u64::try_from(self.0.len()).unwrap_or(1);
        let index = usize::try_from(hash % shards).unwrap_or_default();
        self.0[index].lock()
    }
}

/// What went wrong, and the transitions that led there; the last state has none.
pub type LivenessFailure = (Invariant, &'static str, Vec<(ModelState, Option<Transition>)>);

/// A hash of what identifies a state.
pub fn hash(state: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

/// Whether everything ends well from here, along every fair schedule.
pub fn check(
    system: &TransitionSystem,
    checked: &CheckedStates,
    state: &ModelState,
) -> Result<(), LivenessFailure> {
    let state = ModelState { budget: Budget::default(), replica: None, ..state.clone() };
    Schedule::all(system).iter().try_for_each(|schedule| follow(system, checked, &state, *schedule))
}

fn follow(
    system: &TransitionSystem,
    checked: &CheckedStates,
    state: &ModelState,
    schedule: Schedule,
) -> Result<(), LivenessFailure> {
    let mut state = state.clone();
    schedule.begin(&mut state);
    let mut hashes = Vec::new();
    let mut taken = Vec::new();
    loop {
        let first = schedule.first(taken.len());
        let hash = hash(&(&state, first, schedule == Schedule::Alternating));
        if checked.shard(hash).contains(&hash) {
            break;
        }
        hashes.push(hash);
        if let Some((invariant, text)) = state.violation {
            return Err(failed(invariant, text, taken, state));
        }
        if taken.len() > MAX_FAIR_TRANSITIONS {
            let (invariant, text) = never_at_rest(&taken);
            return Err(failed(invariant, text, taken, state));
        }
        let Some(transition) = fair::next(system, &state, first) else {
            if let Err((invariant, text)) = judge(system, &state) {
                return Err(failed(invariant, text, taken, state));
            }
            break;
        };
        taken.push((state.clone(), transition));
        system.take(&mut state, transition);
    }
    for hash in hashes {
        checked.shard(hash).insert(hash);
    }
    Ok(())
}

/// A world that is never at rest: is the task at its end, and only the writes continue?
fn never_at_rest(taken: &[(ModelState, Transition)]) -> (Invariant, &'static str) {
    let half = taken.get(taken.len() / 2..).unwrap_or_default();
    let is_final =
        |state: &ModelState| state.task.task.is_none_or(|task| is_end(statuses::get(task.status).phase));
    if half.iter().all(|(state, _)| is_final(state)) {
        (Invariant::L2, "the end is reached, and the operator keeps writing")
    } else {
        (Invariant::L1, "no end is ever reached")
    }
}

fn failed(
    invariant: Invariant,
    text: &'static str,
    taken: Vec<(ModelState, Transition)>,
    last: ModelState,
) -> LivenessFailure {
    let mut path: Vec<_> = taken.into_iter().map(|(state, transition)| (state, Some(transition))).collect();
    path.push((last, None));
    (invariant, text, path)
}

fn is_end(phase: Option<Phase>) -> bool {
    matches!(
        phase,
        Some(
            Phase::Succeeded
                | Phase::Failed
                | Phase::CircuitOpen
                | Phase::IterationLimitReached
                | Phase::Suspended
        )
    )
}

type Verdict = Result<(), (Invariant, &'static str)>;

fn must(holds: bool, invariant: Invariant, text: &'static str) -> Verdict {
    if holds { Ok(()) } else { Err((invariant, text)) }
}

/// Whether the world at rest is a proper end.
fn judge(system: &TransitionSystem, state: &ModelState) -> Verdict {
    for id in (0..state.operators.len()).filter(|id| state.operators[*id].is_running()) {
        let after = fair::reconciled(system, state, id);
        let is_same =
            after.task.task == state.task.task && after.pods == state.pods && after.pvcs == state.pvcs;
        must(is_same, Invariant::L1, "there is something left to do, and nothing wakes the operator")?;
    }
    let Some(task) = state.task.task else {
        return must(state.pods.is_empty(), Invariant::S8, "the task is gone, and a pod is left behind");
    };
    let is_deleted = task.spec.workspace == WorkspacePolicy::Delete;
    let has_right_owner = state.pvcs.iter().all(|pvc| pvc.task != task.uid || pvc.is_owned == is_deleted);
    must(has_right_owner, Invariant::S8, "the PVC has the wrong owner")?;
    must(!task.deleting, Invariant::S8, "the task is being deleted, and never gone")?;
    let status = statuses::get(task.status);
    let observed = status.whole.as_ref().and_then(|status| status.observed_generation);
    must(
        observed == Some(task.generation.into()),
        Invariant::L1,
        "the status does not answer the newest spec",
    )?;
    let config = system.decider.config(state.config_map);
    if (config.paused || config.is_invalid) && status.phase == Some(Phase::Waiting) {
        return Ok(());
    }
    judge_phase(system, state, &task, &status)
}

/// Whether the phase is the right one.
fn judge_phase(
    system: &TransitionSystem,
    state: &ModelState,
    task: &ModelTask,
    status: &StatusView,
) -> Verdict {
    let own = |end| state.agent_runs.iter().any(|run| run.of.task == task.uid && run.end == Some(end));
    let succeeded = status.phase == Some(Phase::Succeeded);
    // Goals only grow, so an agent that had the present goal was judged by it.
    let is_done = |run: &AgentRun| run.of.task == task.uid && run.end == Some(PodEnd::Ready);
    let has_goal = |run: &AgentRun| is_done(run) && run.goal == task.spec.goal;
    let is_right =
        if succeeded { state.agent_runs.iter().any(is_done) } else { !state.agent_runs.iter().any(has_goal) };
    must(is_right, Invariant::L1, "the work is done and the task has not succeeded, or the other way round")?;
    if succeeded {
        return Ok(());
    }
    let suspended = status.phase == Some(Phase::Suspended);
    must(
        suspended == task.spec.suspend,
        Invariant::L1,
        "the spec says suspended and the phase does not, or the other way round",
    )?;
    must(is_end(status.phase), Invariant::L1, "the task is at rest without an end")?;
    let failed = status.phase == Some(Phase::Failed);
    must(!failed || own(PodEnd::Fatal), Invariant::L1, "the task failed without a cause")?;
    must(
        failed || suspended || task.spec.token > 0 || !own(PodEnd::Fatal),
        Invariant::L1,
        "an exit code that fails the task did not",
    )?;
    let config = system.decider.config(state.config_map);
    let limit = if task.spec.limit == 0 { config.hard_limit } else { task.spec.limit.min(config.hard_limit) };
    let is_reached = status.iterations >= limit.min(status.limit.unwrap_or(limit));
    let is_limit = status.phase == Some(Phase::IterationLimitReached);
    must(!is_limit || is_reached, Invariant::L1, "the limit is shown and not reached")?;
    // If all agents do useful work, nothing but the limit stops a loop.
    let only_work = system.scenario.ends == [PodEnd::Changed];
    must(
        !only_work || is_limit || suspended,
        Invariant::L1,
        "the task has another end than without any fault",
    )
}
