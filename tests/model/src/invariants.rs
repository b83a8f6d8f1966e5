//! What must always hold, checked against what really happens and never against what an operator believes.

use agentloop_core::api::Phase;
use agentloop_test_support::invariants::Invariant;

use crate::api::{
    AgentProgress, AgentRun, Attempt, ModelPod, ModelTask, OperatorId, PodEnd, PodProgress, StatusId,
};
use crate::state::{ModelOperator, ModelState};
use crate::statuses::{self, StatusView};

fn must(state: &mut ModelState, holds: bool, invariant: Invariant, text: &'static str) {
    if !holds && state.violation.is_none() {
        state.violation = Some((invariant, text));
    }
}

/// S1, after each change of a pod. Tasks of one name follow one another on one workspace, so they count together.
pub fn check_pods(state: &mut ModelState) {
    let is_live = |pod: &&ModelPod| !pod.foreign && !pod.has_scheduling_gate && !pod.has_ended();
    let live = state.pods.iter().filter(is_live).count();
    must(state, live <= 1, Invariant::S1, "two pods have neither ended nor a scheduling gate");
}

/// S1, S2 and S9, when an agent really starts.
pub fn check_agent_start(state: &mut ModelState, pod: &ModelPod) {
    let of = pod.of;
    let mut executions = state.executions.iter();
    let others = executions.any(|other| other.pod != pod.uid && other.agent == AgentProgress::Running);
    must(state, !others, Invariant::S1, "two agents run at the same time");
    let same = state.agent_runs.iter().any(|run| run.of == of);
    must(state, !same, Invariant::S2, "an attempt runs twice");
    let again = |run: &AgentRun| {
        run.of.task == of.task
            && run.of.iteration == of.iteration
            && (!run.is_free() || run.of.attempt > of.attempt)
    };
    must(
        state,
        !state.agent_runs.iter().any(again),
        Invariant::S2,
        "an iteration runs again without proof that its last attempt was free",
    );
    let earlier = runs_before(state, of);
    must(
        state,
        earlier <= state.free_attempts.into(),
        Invariant::S9,
        "an iteration has one free attempt too many",
    );
    if let Some(task) = state.task.task.filter(|task| task.uid == of.task) {
        let active = statuses::active_attempt(&task);
        must(state, active == Some(of), Invariant::S2, "an agent runs whose iteration is not active");
    }
}

/// How many agents ran for this iteration before this attempt.
fn runs_before(state: &ModelState, of: Attempt) -> usize {
    let is_before = |run: &&AgentRun| {
        run.of.task == of.task && run.of.iteration == of.iteration && run.of.attempt < of.attempt
    };
    state.agent_runs.iter().filter(is_before).count()
}

/// S2 to S11, at each write of the status by an operator.
pub fn check_status_write(state: &mut ModelState, task: &ModelTask, after: StatusId) {
    let (before, after) = (statuses::get(task.status), statuses::get(after));
    let is_kept = before.served_by.is_none() || before.served_by == after.served_by;
    must(state, is_kept, Invariant::S11, "a release takes a task from the release that serves it");
    let grown = after.iterations.wrapping_sub(before.iterations);
    must(state, grown <= 1, Invariant::S4, "the count changes by something else than one");
    let was_final = before.phase == Some(Phase::Succeeded) && after.phase != Some(Phase::Succeeded);
    must(state, !was_final, Invariant::S5, "a task that had succeeded continues");
    if before.phase != Some(Phase::Succeeded) && after.phase == Some(Phase::Succeeded) {
        check_succeeded(state, task, &before);
    }
    match before.active.filter(|active| after.active != Some(*active)) {
        Some((iteration, attempt)) => {
            let of = Attempt { task: task.uid, iteration, attempt };
            check_settled(state, of, &before, &after, grown == 1);
        }
        None => must(state, grown == 0, Invariant::S4, "an iteration is counted that was not active"),
    }
    if let Some((iteration, attempt)) = after.active.filter(|active| before.active != Some(*active)) {
        let of = Attempt { task: task.uid, iteration, attempt };
        check_started(state, of, task, &before, &after);
    }
    check_limit_shown(state, task, &after);
}

/// S4 and S11, when an uninstall of this release writes the status.
pub fn check_mark(state: &mut ModelState, release: u8, task: &ModelTask, after: StatusId) {
    let (before, after) = (statuses::get(task.status), statuses::get(after));
    let is_ours = before.served_by.is_none_or(|by| by == release);
    must(state, is_ours, Invariant::S11, "an uninstall changes a task that another release serves");
    let is_same = before.iterations == after.iterations && before.active == after.active;
    must(state, is_same, Invariant::S4, "an uninstall changes the count or the active iteration");
}

/// S12, when an uninstall of this release reports success.
///
/// An operator that still works may undo it at any time. So may a delayed write of the stopped operator: it may add a
/// pod until it has arrived, and name the release once the tasks were listed (`has_exact_end` is false then).
pub fn check_uninstalled(state: &mut ModelState, release: u8, has_exact_end: bool) {
    if !state.delayed_writes.is_empty() || state.operators.iter().any(ModelOperator::is_running) {
        return;
    }
    let has_finalizer = state.pods.iter().any(|pod| !pod.foreign && pod.has_finalizer);
    must(state, !has_finalizer, Invariant::S12, "the uninstall reports success, and a pod has our finalizer");
    let served_by = state.task.task.and_then(|task| statuses::get(task.status).served_by);
    let is_named = has_exact_end && served_by == Some(release);
    must(state, !is_named, Invariant::S12, "the uninstall reports success, and a task names the release");
}

/// S11, when an operator asks for a write on a pod.
pub fn check_pod_write(state: &mut ModelState, id: OperatorId, of: Attempt) {
    let Some(task) = state.task.task.filter(|task| task.uid == of.task) else { return };
    let release = state.operators[id].release;
    let is_ours = statuses::get(task.status).served_by.is_none_or(|by| by == release);
    must(state, is_ours, Invariant::S11, "a release changes a pod of a task that another release serves");
}

/// S10.
fn check_succeeded(state: &mut ModelState, task: &ModelTask, before: &StatusView) {
    let is_active = |run: &&AgentRun| {
        let Attempt { task: uid, iteration, attempt } = run.of;
        uid == task.uid && before.active == Some((iteration, attempt))
    };
    let run = state.agent_runs.iter().find(is_active).copied();
    let is_done = run.is_some_and(|run| run.end == Some(PodEnd::Ready));
    must(state, is_done, Invariant::S10, "a task succeeds although its agent was not done");
    let is_asked = run.is_none_or(|run| run.goal == task.spec.goal);
    must(state, is_asked, Invariant::S10, "a task succeeds by an agent that had another goal");
}

/// An iteration is no longer active.
fn check_settled(
    state: &mut ModelState,
    of: Attempt,
    before: &StatusView,
    after: &StatusView,
    charged: bool,
) {
    let run = state.agent_runs.iter().find(|run| run.of == of).copied();
    let pod = state.pod_named(of).copied();
    // Only the provider's refusal proves that an agent that ran cost nothing. It is accepted only so many times.
    let is_spent = run.is_some_and(AgentRun::is_free) && runs_before(state, of) >= state.free_attempts.into();
    if charged {
        must(
            state,
            after.iterations == of.iteration,
            Invariant::S4,
            "another iteration is counted than was active",
        );
        // An unbound pod of an orphaned iteration proves nothing: another one of its name may have run and vanished.
        let proves = |pod: ModelPod| pod.is_proven_free() && (pod.bound || !before.orphaned);
        let is_free = run.is_some_and(AgentRun::is_free) || pod.is_some_and(proves);
        must(
            state,
            !is_free || is_spent,
            Invariant::S4,
            "an attempt is counted that is proven to have been free",
        );
        let may_have_run = run.is_some()
            || before.orphaned
            || pod.is_none()
            || pod.is_some_and(|pod| pod.progress == PodProgress::Ended(PodEnd::CollectedByPodGc));
        must(state, may_have_run, Invariant::S4, "an attempt is counted that never ran");
    } else {
        let is_free = run.is_none_or(AgentRun::is_free);
        must(state, is_free, Invariant::S4, "an attempt that ran is not counted");
        must(state, !is_spent, Invariant::S9, "more attempts are free than the settings allow");
        let next = after.active.map_or(after.next_attempt, |(_, attempt)| attempt);
        must(state, next > of.attempt, Invariant::S2, "the number of the attempt is forgotten");
    }
}

/// An iteration becomes active.
fn check_started(
    state: &mut ModelState,
    of: Attempt,
    task: &ModelTask,
    before: &StatusView,
    after: &StatusView,
) {
    let resumed = before.stop.is_some();
    let invariant = if resumed { Invariant::S7 } else { Invariant::S2 };
    must(state, of.iteration == after.iterations + 1, invariant, "iterations are not contiguous");
    let last = state.last_started.iter().find(|last| last.task == of.task).copied();
    let is_later = last.is_none_or(|last| of > last);
    must(state, is_later, Invariant::S2, "an attempt becomes active twice");
    state.last_started.retain(|last| last.task != of.task);
    state.last_started.push(of);
    state.last_started.sort_unstable();

    must(
        state,
        Some(of.iteration) <= after.limit,
        Invariant::S3,
        "an iteration starts above the limit in the status",
    );
    let asked = task.spec.limit;
    must(
        state,
        asked == 0 || of.iteration <= asked,
        Invariant::S3,
        "an iteration starts above maxIterations of the spec",
    );
    must(
        state,
        after.config_version >= before.config_version,
        Invariant::S3,
        "an iteration starts by an older configuration than the status knows",
    );
    must(state, !task.spec.suspend, Invariant::S5, "an iteration starts while the task is suspended");
    must(state, after.stop.is_none(), Invariant::S5, "an iteration starts although the loop is stopped");
    if let Some((phase, generation)) = before.stop {
        let reset = after.token != before.token;
        let edited = generation != task.generation;
        must(
            state,
            phase != Phase::Succeeded,
            Invariant::S5,
            "a task that had succeeded starts an iteration",
        );
        must(state, reset || edited, Invariant::S5, "nothing lifted the stop");
        must(state, reset || phase != Phase::Failed, Invariant::S5, "a failure is lifted without a reset");
    }
}

/// S6.
fn check_limit_shown(state: &mut ModelState, task: &ModelTask, status: &StatusView) {
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
        "the limit is shown although it does not apply, or not shown although it does",
    );
}
