//! L1 and L2: once nothing goes wrong any more, a task reaches its end, and then nothing is written.
//!
//! From a state, the world goes on without any fault: caches catch up, operators finish what they do, requests
//! under way arrive, nodes are heard again, kubelets work, agents end as they usually do, waits pass. It must
//! come to rest, and the rest must be a proper end. Whether an operator looks at a task at all depends on what
//! wakes it: a wake-up that the shell would miss is missed here too.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use agentloop_core::api::Phase;
use agentloop_test_support::invariants::Invariant;
use parking_lot::{Mutex, MutexGuard};

use crate::kubelet::Happening;
use crate::model::{Step, World};
use crate::operator::{self, Fate};
use crate::server;
use crate::state::{Agent, Budget, Deletion, End, Pod, Ran, State, Who, Workspace};
use crate::statuses;
use crate::sweep;
use crate::user::Act;

/// A world that has not come to rest after as many steps never will.
const MOST_STEPS: usize = 600;
const SHARDS: usize = 64;

/// States from which all is known to end well.
pub struct Known(Vec<Mutex<HashSet<u64>>>);

impl Default for Known {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl Known {
    fn shard(&self, hash: u64) -> MutexGuard<'_, HashSet<u64>> {
        let place = usize::try_from(hash % 64).unwrap_or_default();
        self.0[place].lock()
    }
}

/// What went wrong, and the steps that led there; the last state has none.
pub type Failure = (Invariant, &'static str, Vec<(State, Option<Step>)>);

/// A state's hash.
pub fn hash(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

/// Whether all ends well from here.
pub fn check(world: &World, known: &Known, state: &State) -> Result<(), Failure> {
    let mut state = State { budget: Budget::default(), replica: None, ..state.clone() };
    let mut hashes = Vec::new();
    let mut steps = Vec::new();
    loop {
        let hash = hash(&state);
        if known.shard(hash).contains(&hash) {
            break;
        }
        hashes.push(hash);
        if let Some((invariant, words)) = state.broken {
            return Err(failed(invariant, words, steps, state));
        }
        if steps.len() > MOST_STEPS {
            let (invariant, words) = restless(&steps);
            return Err(failed(invariant, words, steps, state));
        }
        let Some(step) = next(world, &state, state.operators.len()) else {
            if let Err((invariant, words)) = judge(world, &state) {
                return Err(failed(invariant, words, steps, state));
            }
            break;
        };
        steps.push((state.clone(), step));
        world.take(&mut state, step);
    }
    for hash in hashes {
        known.shard(hash).insert(hash);
    }
    Ok(())
}

/// A world that never rests: is the task at its end, and only the writes go on?
fn restless(steps: &[(State, Step)]) -> (Invariant, &'static str) {
    let half = steps.get(steps.len() / 2..).unwrap_or_default();
    let is_final =
        |state: &State| state.task.task.is_none_or(|task| is_end(statuses::get(task.status).phase));
    if half.iter().all(|(state, _)| is_final(state)) {
        (Invariant::L2, "the end is reached, and the operator writes on")
    } else {
        (Invariant::L1, "it goes on for ever and reaches no end")
    }
}

fn failed(invariant: Invariant, words: &'static str, steps: Vec<(State, Step)>, last: State) -> Failure {
    let mut steps: Vec<_> = steps.into_iter().map(|(state, step)| (state, Some(step))).collect();
    steps.push((last, None));
    (invariant, words, steps)
}

/// The next step of a fair world in which nothing goes wrong, where so many operators work; `None` where it is
/// at rest.
pub fn next(world: &World, state: &State, operators: usize) -> Option<Step> {
    let everyone = 0..operators;
    everyone
        .clone()
        .find_map(|who| operator_step(state, who))
        .or_else(|| (!state.late.is_empty()).then_some(Step::Late(0)))
        .or_else(|| server::garbage(state).next().map(|pod| Step::Collect(pod.uid)))
        .or_else(|| server::garbage_pvcs(state).next().map(Step::CollectPvc))
        .or_else(|| state.pods.iter().find_map(|pod| pod_step(world, state, pod)))
        .or_else(|| state.pods.iter().any(|pod| pod.foreign).then_some(Step::User(Act::Unsquat)))
        .or_else(|| everyone.clone().find_map(|who| timer_step(world, state, who)))
        .or_else(|| server::waits_for_time(state).then_some(Step::TimePasses))
        .or_else(|| everyone.clone().find_map(|who| answers_step(state, who)))
}

fn operator_step(state: &State, who: Who) -> Option<Step> {
    let op = &state.operators[who];
    if op.task != state.task {
        Some(Step::SyncTask(who))
    } else if op.pods != server::watched(&state.pods) {
        Some(Step::SyncPods(who))
    } else if op.settings.newest != state.settings {
        Some(Step::SyncSettings(who))
    } else if operator::next(op).is_some() {
        Some(Step::Act(who, Fate::Answered))
    } else if sweep::next(op).is_some() {
        Some(Step::Sweep(who, Fate::Answered))
    } else if sweep::may_begin(op) {
        Some(Step::BeginSweep(who))
    } else if op.woken && operator::may_begin(op) {
        Some(Step::Begin(who))
    } else {
        None
    }
}

/// What happens to a pod where all goes well.
fn pod_step(world: &World, state: &State, pod: &Pod) -> Option<Step> {
    if pod.foreign || pod.has_ended() {
        return None;
    }
    let place = state.place(pod.uid)?;
    let deleting = pod.deletion != Deletion::No;
    let what = match place.agent {
        _ if place.silent => Happening::Return,
        Agent::NotYet if !pod.bound && !pod.gated && !deleting => Happening::Bind,
        Agent::NotYet if !pod.bound => return None,
        Agent::NotYet if deleting => Happening::End(End::NeverStarted),
        Agent::NotYet => Happening::Start,
        Agent::Runs if deleting => Happening::End(End::Interrupted),
        Agent::Runs => Happening::End(world.scenario.ends[0]),
        Agent::Over => return None,
    };
    Some(Step::Happens(pod.uid, what))
}

/// An operator that wanted to look again does so, if it does anything then.
fn timer_step(world: &World, state: &State, who: Who) -> Option<Step> {
    (state.operators[who].timer && looks(world, state, who) != *state).then_some(Step::Begin(who))
}

/// An operator looks at the task, whatever woke it, and finishes what it then does.
fn looks(world: &World, state: &State, who: Who) -> State {
    let mut after = state.clone();
    world.take(&mut after, Step::Begin(who));
    for _ in 0..MOST_STEPS {
        if operator::next(&after.operators[who]).is_none() {
            break;
        }
        world.take(&mut after, Step::Act(who, Fate::Answered));
    }
    after
}

/// Answers that the caches never catch up with are forgotten after a minute.
fn answers_step(state: &State, who: Who) -> Option<Step> {
    let operator = &state.operators[who];
    let is_newer =
        |pod: &Pod| operator.pods.iter().all(|cached| cached.uid != pod.uid || cached.version < pod.version);
    operator.memory.pods().any(is_newer).then_some(Step::Forget(who))
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

/// Whether the rest is a proper end.
fn judge(world: &World, state: &State) -> Result<(), (Invariant, &'static str)> {
    let must = |holds: bool, invariant, words| if holds { Ok(()) } else { Err((invariant, words)) };
    for who in 0..state.operators.len() {
        let after = looks(world, state, who);
        let same = after.task.task == state.task.task && after.pods == state.pods && after.pvcs == state.pvcs;
        must(same, Invariant::L1, "there is something left to do, and nothing wakes the operator")?;
    }
    let Some(task) = state.task.task else {
        return must(state.pods.is_empty(), Invariant::S8, "the task is gone, and a pod is left behind");
    };
    let is_deleted = task.spec.workspace == Workspace::Deleted;
    let has_right_owner = state.pvcs.iter().all(|pvc| pvc.task != task.uid || pvc.is_owned == is_deleted);
    must(has_right_owner, Invariant::S8, "the task owns its PVC and should not, or the other way round")?;
    must(!task.deleting, Invariant::S8, "the task is being deleted, and never goes")?;
    let status = statuses::get(task.status);
    let observed = status.whole.as_ref().and_then(|status| status.observed_generation);
    must(
        observed == Some(task.generation.into()),
        Invariant::L1,
        "the status does not answer the newest spec",
    )?;
    let config = world.decider.config(state.settings);
    if config.paused && status.phase == Some(Phase::Waiting) {
        return Ok(());
    }
    let own = |end: End| state.ran.iter().any(|ran| ran.of.task == task.uid && ran.end == Some(end));
    let succeeded = status.phase == Some(Phase::Succeeded);
    // Goals only grow, so an agent that had the present one was judged by it.
    let is_done = |ran: &Ran| ran.of.task == task.uid && ran.end == Some(End::Ready);
    let by_goal = |ran: &Ran| is_done(ran) && ran.goal == task.spec.goal;
    let should = if succeeded { state.ran.iter().any(is_done) } else { !state.ran.iter().any(by_goal) };
    must(should, Invariant::L1, "done is not Succeeded, or Succeeded was not done")?;
    if succeeded {
        return Ok(());
    }
    let suspended = status.phase == Some(Phase::Suspended);
    must(
        suspended == task.spec.suspend,
        Invariant::L1,
        "suspended is not Suspended, or the other way round",
    )?;
    must(is_end(status.phase), Invariant::L1, "the task rests without an end")?;
    let failed = status.phase == Some(Phase::Failed);
    must(!failed || own(End::Fatal), Invariant::L1, "Failed without a cause")?;
    must(
        failed || suspended || task.spec.token > 0 || !own(End::Fatal),
        Invariant::L1,
        "an exit code that fails the task did not",
    )?;
    let limit = if task.spec.limit == 0 { config.hard } else { task.spec.limit.min(config.hard) };
    let is_reached = status.iterations >= limit.min(status.limit.unwrap_or(limit));
    let is_limit = status.phase == Some(Phase::IterationLimitReached);
    must(!is_limit || is_reached, Invariant::L1, "the limit is shown and not reached")?;
    // Where all agents do useful work, nothing but the limit stops a loop.
    let only_work = world.scenario.ends.len() == 1 && world.scenario.ends[0] == End::Changed;
    must(!only_work || is_limit || suspended, Invariant::L1, "another end than without any fault")
}
