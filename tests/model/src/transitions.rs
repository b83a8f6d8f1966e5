//! Which transitions are possible in a state.

use crate::api::OperatorId;
use crate::kubelet;
use crate::operator;
use crate::orphans;
use crate::requests::RequestKind;
use crate::server;
use crate::state::{ModelState, ProcessState, UninstallProgress};
use crate::system::{Transition, TransitionSystem};
use crate::uninstall;
use crate::user;

/// All transitions that are possible in this state.
pub fn possible(system: &TransitionSystem, state: &ModelState, out: &mut Vec<Transition>) {
    for id in 0..state.operators.len() {
        if state.operators[id].is_running() {
            of_operator(system, state, id, out);
        }
    }
    of_uninstall(system, state, out);
    out.extend((0..state.delayed_writes.len()).map(Transition::CommitDelayed));
    out.extend(server::garbage_pods(state).map(|pod| Transition::DeleteGarbage(pod.uid)));
    out.extend(server::garbage_pvcs(state).map(Transition::DeleteGarbagePvc));
    let mut events = Vec::new();
    for pod in state.pods.iter() {
        kubelet::possible_events(state, pod, system.scenario.ends, &mut events);
        out.extend(events.drain(..).map(|event| Transition::Pod(pod.uid, event)));
    }
    if server::waits_for_time(state) {
        out.push(Transition::TimePasses);
    }
    if state.budget.frozen_replicas > 0 {
        out.push(Transition::FreezeReplica);
    }
    if state.budget.user_actions > 0 {
        let versions = system.decider.config_versions();
        let actions = system.scenario.user_actions.iter();
        let possible = actions.filter(|action| user::is_possible(state, **action, versions));
        out.extend(possible.map(|action| Transition::User(*action)));
    }
}

/// Transitions of an operator and its caches.
fn of_operator(system: &TransitionSystem, state: &ModelState, id: OperatorId, out: &mut Vec<Transition>) {
    let operator = &state.operators[id];
    if operator::may_begin(operator) {
        out.push(Transition::BeginReconcile(id));
    }
    if let Some(request) = operator::next_request(operator) {
        let kind = RequestKind::of(request);
        kind.outcomes(&state.budget, |outcome| out.push(Transition::PerformRequest(id, outcome)));
    }
    if orphans::may_begin(operator) {
        out.push(Transition::BeginOrphanCheck(id));
    }
    if let Some(request) = orphans::next_request(operator) {
        let kind = RequestKind::of_orphan(request);
        kind.outcomes(&state.budget, |outcome| out.push(Transition::PerformOrphanRequest(id, outcome)));
    }
    if operator.task != state.task && !(system.scenario.is_first_cache_frozen && id == 0) {
        out.push(Transition::SyncTask(id));
    }
    if operator.pods != server::watched(&state.pods) {
        out.push(Transition::SyncPods(id));
    }
    if operator.configuration.newest != state.config_map {
        out.push(Transition::SyncConfigMap(id));
    }
    let has_answers = operator.memory.has_answers() || orphans::may_forget(operator, &system.decider);
    if state.budget.forgotten > 0 && has_answers {
        out.push(Transition::ForgetAnswers(id));
    }
    if state.budget.crashes > 0 {
        out.push(Transition::Crash(id, false, false));
        if let Some(replica) = &state.replica {
            let (task, pods) = (replica.0 != operator.task, replica.1 != operator.pods);
            for (of_task, of_pods) in [(true, false), (false, true), (true, true)] {
                if (task || !of_task) && (pods || !of_pods) {
                    out.push(Transition::Crash(id, of_task, of_pods));
                }
            }
        }
    }
}

fn of_uninstall(system: &TransitionSystem, state: &ModelState, out: &mut Vec<Transition>) {
    let Some(plan) = system.scenario.uninstall else { return };
    match &state.uninstall {
        UninstallProgress::NotBegun => out.push(Transition::BeginUninstall),
        UninstallProgress::Running(_) => {
            if let Some(request) = uninstall::next_request(state) {
                let kind = RequestKind::of_uninstall(request);
                kind.outcomes(&state.budget, |outcome| {
                    out.push(Transition::PerformUninstallRequest(outcome));
                });
            }
            if state.budget.crashes > 0 {
                out.push(Transition::CrashUninstall);
            }
        }
        UninstallProgress::Complete => {
            let waiting = |id: &OperatorId| state.operators[*id].process == ProcessState::NotInstalled;
            out.extend((0..state.operators.len()).filter(waiting).map(Transition::InstallOperator));
        }
    }
    let has_begun = state.uninstall != UninstallProgress::NotBegun;
    if has_begun && !plan.stops_operator && state.operators[0].is_running() {
        out.push(Transition::StopOperator(0));
    }
}
