//! Fair schedules: how the world continues once nothing goes wrong any more.
//!
//! Caches catch up, operators finish what they do, requests on their way arrive, nodes report again, kubelets work,
//! agents end as they usually do, waits pass. Whether an operator reconciles a task at all depends on what wakes it: a
//! wake-up that the shell would miss is missed here too.

use crate::api::{AgentProgress, Deletion, ModelPod, OperatorId, PodEnd};
use crate::bounds::MAX_FAIR_TRANSITIONS;
use crate::kubelet::PodEvent;
use crate::operator;
use crate::orphans;
use crate::requests::RequestOutcome;
use crate::server;
use crate::state::{ModelState, ProcessState, UninstallProgress};
use crate::system::{Transition, TransitionSystem, remove_operator};
use crate::user::UserAction;

/// In which order several operators take their turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Schedule {
    /// The first one is always faster.
    FirstFaster,
    /// The second one is always faster.
    SecondFaster,
    /// They take turns, request by request.
    Alternating,
    /// All others stop now, as a replica does that notices that it is no longer the leader.
    Only(OperatorId),
}

impl Schedule {
    /// The schedules that liveness is checked by.
    pub fn all(system: &TransitionSystem) -> &'static [Self] {
        const TWO: [Schedule; 3] = [Schedule::FirstFaster, Schedule::SecondFaster, Schedule::Alternating];
        const REPLICAS: [Schedule; 5] = [
            Schedule::FirstFaster,
            Schedule::SecondFaster,
            Schedule::Alternating,
            Schedule::Only(0),
            Schedule::Only(1),
        ];
        match system.scenario.operators {
            0 | 1 => &TWO[..1],
            // Only the release that serves the task brings it to its end.
            _ if system.scenario.releases || system.scenario.uninstall.is_some() => &TWO,
            _ => &REPLICAS,
        }
    }

    /// What the schedule does to the state at its beginning.
    pub fn begin(self, state: &mut ModelState) {
        let Self::Only(only) = self else { return };
        for (id, operator) in state.operators.iter_mut().enumerate() {
            if id != only {
                remove_operator(operator);
            }
        }
    }

    /// Whose turn it is first after so many transitions.
    pub fn first(self, taken: usize) -> OperatorId {
        match self {
            Self::FirstFaster | Self::Only(_) => 0,
            Self::SecondFaster => 1,
            Self::Alternating => taken % 2,
        }
    }
}

/// The first transitions of the scenario, in which only the first operator works, and where they lead.
pub fn prefix(system: &TransitionSystem) -> (Vec<(ModelState, Transition)>, ModelState) {
    let mut state = system.first();
    let mut taken = Vec::new();
    for _ in 0..system.scenario.prefix {
        let Some(transition) = next_of(system, &state, &[0]) else { break };
        taken.push((state.clone(), transition));
        system.take(&mut state, transition);
    }
    (taken, state)
}

/// The next transition, if this operator has the first turn; `None` if the world is at rest.
pub fn next(system: &TransitionSystem, state: &ModelState, first: OperatorId) -> Option<Transition> {
    let mut order: Vec<OperatorId> = (0..state.operators.len()).collect();
    let count = order.len().max(1);
    order.rotate_left(first % count);
    next_of(system, state, &order)
}

fn next_of(system: &TransitionSystem, state: &ModelState, order: &[OperatorId]) -> Option<Transition> {
    let running = || order.iter().copied().filter(|id| state.operators[*id].is_running());
    running()
        .find_map(|id| of_operator(state, id))
        .or_else(|| (!state.delayed_writes.is_empty()).then_some(Transition::CommitDelayed(0)))
        .or_else(|| of_uninstall(system, state))
        .or_else(|| server::garbage_pods(state).next().map(|pod| Transition::DeleteGarbage(pod.uid)))
        .or_else(|| server::garbage_pvcs(state).next().map(Transition::DeleteGarbagePvc))
        .or_else(|| state.pods.iter().find_map(|pod| of_pod(system, state, pod)))
        .or_else(|| foreign_pod(state))
        .or_else(|| running().find_map(|id| of_timer(system, state, id)))
        .or_else(|| server::waits_for_time(state).then_some(Transition::TimePasses))
        .or_else(|| running().find_map(|id| of_answers(system, state, id)))
}

fn of_operator(state: &ModelState, id: OperatorId) -> Option<Transition> {
    let operator = &state.operators[id];
    if operator.task != state.task {
        Some(Transition::SyncTask(id))
    } else if operator.pods != server::watched(&state.pods) {
        Some(Transition::SyncPods(id))
    } else if operator.configuration.newest != state.config_map {
        Some(Transition::SyncConfigMap(id))
    } else if operator::next_request(operator).is_some() {
        Some(Transition::PerformRequest(id, RequestOutcome::Answered))
    } else if orphans::next_request(operator).is_some() {
        Some(Transition::PerformOrphanRequest(id, RequestOutcome::Answered))
    } else if orphans::may_begin(operator) {
        Some(Transition::BeginOrphanCheck(id))
    } else if operator.woken && operator::may_begin(operator) {
        Some(Transition::BeginReconcile(id))
    } else {
        None
    }
}

/// An uninstall that has begun comes to its end, and the new operator is installed. An operator that was believed to be
/// stopped notices that it has lost its Lease, and stops.
fn of_uninstall(system: &TransitionSystem, state: &ModelState) -> Option<Transition> {
    let plan = system.scenario.uninstall?;
    match state.uninstall {
        UninstallProgress::NotBegun => None,
        _ if !plan.stops_operator && state.operators[0].is_running() => Some(Transition::StopOperator(0)),
        UninstallProgress::Running(_) => Some(Transition::PerformUninstallRequest(RequestOutcome::Answered)),
        UninstallProgress::Complete => {
            let is_waiting = |process| process == ProcessState::NotInstalled;
            let id = state.operators.iter().position(|operator| is_waiting(operator.process))?;
            Some(Transition::InstallOperator(id))
        }
    }
}

/// What happens to a pod if all goes well.
fn of_pod(system: &TransitionSystem, state: &ModelState, pod: &ModelPod) -> Option<Transition> {
    if pod.foreign || pod.has_ended() {
        return None;
    }
    let execution = state.execution(pod.uid)?;
    let deleting = pod.deletion != Deletion::No;
    let event = match execution.agent {
        _ if execution.is_node_silent => PodEvent::NodeReturns,
        AgentProgress::NotStarted if !pod.bound && !pod.has_scheduling_gate && !deleting => PodEvent::Bind,
        AgentProgress::NotStarted if !pod.bound => return None,
        AgentProgress::NotStarted if deleting => PodEvent::End(PodEnd::NeverStarted),
        AgentProgress::NotStarted => PodEvent::StartAgent,
        AgentProgress::Running if deleting => PodEvent::End(PodEnd::Interrupted),
        AgentProgress::Running => PodEvent::End(system.scenario.ends[0]),
        AgentProgress::Ended => return None,
    };
    Some(Transition::Pod(pod.uid, event))
}

/// A user removes the pod that takes the name of ours.
fn foreign_pod(state: &ModelState) -> Option<Transition> {
    let action = UserAction::DeleteForeignPod;
    state.pods.iter().any(|pod| pod.foreign).then_some(Transition::User(action))
}

/// An operator with a timer reconciles, if it does anything then.
fn of_timer(system: &TransitionSystem, state: &ModelState, id: OperatorId) -> Option<Transition> {
    let does_something = || reconciled(system, state, id) != *state;
    (state.operators[id].timer && does_something()).then_some(Transition::BeginReconcile(id))
}

/// The state after a whole reconcile of this operator, whatever woke it.
pub fn reconciled(system: &TransitionSystem, state: &ModelState, id: OperatorId) -> ModelState {
    let mut after = state.clone();
    system.take(&mut after, Transition::BeginReconcile(id));
    for _ in 0..MAX_FAIR_TRANSITIONS {
        if operator::next_request(&after.operators[id]).is_none() {
            break;
        }
        system.take(&mut after, Transition::PerformRequest(id, RequestOutcome::Answered));
    }
    after
}

/// Answers that the caches never catch up with are forgotten after a minute.
fn of_answers(system: &TransitionSystem, state: &ModelState, id: OperatorId) -> Option<Transition> {
    let operator = &state.operators[id];
    let is_newer = |pod: &ModelPod| {
        operator.pods.iter().all(|cached| cached.uid != pod.uid || cached.version < pod.version)
    };
    let is_awaited = operator.memory.pods().any(is_newer) || orphans::may_forget(operator, &system.decider);
    is_awaited.then_some(Transition::ForgetAnswers(id))
}
