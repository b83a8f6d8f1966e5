//! What must always hold, judged by what really happens and never by what an operator believes.

use agentloop_core::api::Phase;
use agentloop_test_support::invariants::Invariant;

use crate::state::{Agent, Attempt, End, Pod, Ran, State, StatusId, Task, Who};
use crate::statuses::{self, View};

fn must(state: &mut State, holds: bool, invariant: Invariant, words: &'static str) {
    if !holds && state.broken.is_none() {
        state.broken = Some((invariant, words));
    }
}

/// S1, after each change of a pod. Tasks of one name follow one another on one workspace: they count together.
pub fn check_pods(state: &mut State) {
    let live = state.pods.iter().filter(|pod| !pod.foreign && !pod.gated && !pod.has_ended()).count();
    must(state, live <= 1, Invariant::S1, "two pods are neither ended nor gated");
}

/// S1, S2 and S9, when an agent really starts.
pub fn check_agent_start(state: &mut State, pod: &Pod) {
    let of = pod.of;
    let others = state.places.iter().any(|place| place.pod != pod.uid && place.agent == Agent::Runs);
    must(state, !others, Invariant::S1, "two agents run at once");
    let same = state.ran.iter().any(|ran| ran.of == of);
    must(state, !same, Invariant::S2, "an attempt runs twice");
    let again = |ran: &Ran| {
        ran.of.task == of.task
            && ran.of.iteration == of.iteration
            && (!ran.free() || ran.of.attempt > of.attempt)
    };
    must(
        state,
        !state.ran.iter().any(again),
        Invariant::S2,
        "an iteration runs again without proof that its last attempt was free",
    );
    let earlier = agents_before(state, of);
    must(
        state,
        earlier <= state.free.into(),
        Invariant::S9,
        "an iteration runs again once too often for free",
    );
    if let Some(task) = state.task.task.filter(|task| task.uid == of.task) {
        let active = statuses::get(task.status).active;
        must(
            state,
            active == Some((of.iteration, of.attempt)),
            Invariant::S2,
            "an agent runs that is not claimed",
        );
    }
}

/// How many agents ran for this iteration before this attempt.
fn agents_before(state: &State, of: Attempt) -> usize {
    let same = |ran: &&Ran| ran.of.task == of.task && ran.of.iteration == of.iteration;
    state.ran.iter().filter(same).filter(|ran| ran.of.attempt < of.attempt).count()
}

/// S2 to S11, at each write of the status.
pub fn check_status_write(state: &mut State, task: &Task, after: StatusId) {
    let (before, after) = (statuses::get(task.status), statuses::get(after));
    let is_kept = before.served_by.is_none() || before.served_by == after.served_by;
    must(state, is_kept, Invariant::S11, "a release takes a task from the one that serves it");
    let grown = after.iterations.wrapping_sub(before.iterations);
    must(state, grown <= 1, Invariant::S4, "the count moves otherwise than by one");
    let was_final = before.phase == Some(Phase::Succeeded) && after.phase != Some(Phase::Succeeded);
    must(state, !was_final, Invariant::S5, "a task that had succeeded goes on");
    if before.phase != Some(Phase::Succeeded) && after.phase == Some(Phase::Succeeded) {
        check_succeeded(state, task, &before);
    }
    match before.active.filter(|active| after.active != Some(*active)) {
        Some((iteration, attempt)) => {
            let of = Attempt { task: task.uid, iteration, attempt };
            check_settled(state, of, &before, &after, grown == 1);
        }
        None => must(state, grown == 0, Invariant::S4, "something is counted that was not claimed"),
    }
    if let Some((iteration, attempt)) = after.active.filter(|active| before.active != Some(*active)) {
        let of = Attempt { task: task.uid, iteration, attempt };
        check_claimed(state, of, task, &before, &after);
    }
    check_limit_shown(state, task, &after);
}

/// S11, where an operator asks for a write on a pod.
pub fn check_pod_write(state: &mut State, who: Who, of: Attempt) {
    let Some(task) = state.task.task.filter(|task| task.uid == of.task) else { return };
    let is_served_here = statuses::get(task.status).served_by == Some(state.operators[who].release);
    must(
        state,
        is_served_here,
        Invariant::S11,
        "a release writes on a pod of a task that another one serves",
    );
}

/// S10.
fn check_succeeded(state: &mut State, task: &Task, before: &View) {
    let is_claimed = |ran: &&Ran| {
        let Attempt { task: uid, iteration, attempt } = ran.of;
        uid == task.uid && before.active == Some((iteration, attempt))
    };
    let by = state.ran.iter().find(is_claimed).copied();
    let is_done = by.is_some_and(|ran| ran.end == Some(End::Ready));
    must(state, is_done, Invariant::S10, "a task succeeds, and its agent was not done");
    let is_asked = by.is_none_or(|ran| ran.goal == task.spec.goal);
    must(state, is_asked, Invariant::S10, "a task succeeds by an agent that had another goal");
}

/// A claim has ended.
fn check_settled(state: &mut State, of: Attempt, before: &View, after: &View, charged: bool) {
    let ran = state.ran.iter().find(|ran| ran.of == of).copied();
    let pod = state.named(of).copied();
    // That its agent ran and cost nothing is the provider's word: it is taken only so many times.
    let is_spent = ran.is_some_and(Ran::free) && agents_before(state, of) >= state.free.into();
    if charged {
        must(
            state,
            after.iterations == of.iteration,
            Invariant::S4,
            "another iteration is counted than was claimed",
        );
        let free = ran.is_some_and(Ran::free) || pod.is_some_and(|pod| pod.is_proven_free());
        must(
            state,
            !free || is_spent,
            Invariant::S4,
            "an attempt is counted that is proven to have been free",
        );
        let may_have_run = ran.is_some()
            || before.orphaned
            || pod.is_none()
            || pod.is_some_and(|pod| pod.shown == crate::state::Shown::Ended(End::Collected));
        must(state, may_have_run, Invariant::S4, "an attempt is counted that never ran");
    } else {
        let is_free = ran.is_none_or(Ran::free);
        must(state, is_free, Invariant::S4, "an attempt that ran is not counted");
        must(state, !is_spent, Invariant::S9, "more attempts are free than the settings allow");
        let next = after.active.map_or(after.next_attempt, |(_, attempt)| attempt);
        must(state, next > of.attempt, Invariant::S2, "the attempt's number is forgotten");
    }
}

/// Something is claimed.
fn check_claimed(state: &mut State, of: Attempt, task: &Task, before: &View, after: &View) {
    let resumed = before.stop.is_some();
    let invariant = if resumed { Invariant::S7 } else { Invariant::S2 };
    must(state, of.iteration == after.iterations + 1, invariant, "iterations are not contiguous");
    let last = state.claimed.iter().find(|last| last.task == of.task).copied();
    let is_later = last.is_none_or(|last| of > last);
    must(state, is_later, Invariant::S2, "an attempt is claimed twice");
    state.claimed.retain(|last| last.task != of.task);
    state.claimed.push(of);
    state.claimed.sort_unstable();

    must(state, Some(of.iteration) <= after.limit, Invariant::S3, "a claim is above the limit in the status");
    let asked = task.spec.limit;
    must(
        state,
        asked == 0 || of.iteration <= asked,
        Invariant::S3,
        "a claim is above maxIterations of the spec",
    );
    must(
        state,
        after.config_version >= before.config_version,
        Invariant::S3,
        "a claim goes by an older configuration than the status knows",
    );
    must(state, !task.spec.suspend, Invariant::S5, "something is claimed while the task is suspended");
    must(state, after.stop.is_none(), Invariant::S5, "a stopped loop claims");
    if let Some((phase, generation)) = before.stop {
        let reset = after.token != before.token;
        let edited = generation != task.generation;
        must(state, phase != Phase::Succeeded, Invariant::S5, "a task that had succeeded claims");
        must(state, reset || edited, Invariant::S5, "a stop is lifted by nothing");
        must(state, reset || phase != Phase::Failed, Invariant::S5, "a failure is lifted without a reset");
    }
}

/// S6.
fn check_limit_shown(state: &mut State, task: &Task, status: &View) {
    let Some(limit) = status.limit else { return };
    let stopped_otherwise = status
        .stop
        .is_some_and(|(phase, _)| matches!(phase, Phase::CircuitOpen | Phase::Failed | Phase::Succeeded));
    let is_reached =
        status.active.is_none() && !task.spec.suspend && !stopped_otherwise && status.iterations >= limit;
    let is_shown = status.phase == Some(Phase::IterationLimitReached);
    must(
        state,
        is_shown == is_reached,
        Invariant::S6,
        "the limit is shown where it does not hold, or not where it does",
    );
}
