//! The transition system: its first state, and what each transition does.

use std::collections::BTreeMap;

use agentloop_core::sync::Memory;

use crate::api::{Deletion, KnownConfiguration, ModelPods, OperatorId, TaskVersion};
use crate::decision::Decider;
use crate::kubelet::{self, PodEvent};
use crate::operator;
use crate::orphans;
use crate::requests::{self, RequestOutcome};
use crate::scenario::Scenario;
use crate::server;
use crate::state::{ModelOperator, ModelState, ProcessState, UninstallProgress};
use crate::uninstall;
use crate::user::{self, UserAction};
use crate::variants::Variant;

/// One transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    BeginReconcile(OperatorId),
    PerformRequest(OperatorId, RequestOutcome),
    BeginOrphanCheck(OperatorId),
    PerformOrphanRequest(OperatorId, RequestOutcome),
    /// A cache catches up.
    SyncTask(OperatorId),
    SyncPods(OperatorId),
    SyncConfigMap(OperatorId),
    /// Answers are forgotten before the caches have caught up.
    ForgetAnswers(OperatorId),
    /// The process dies, restarts and lists: from a replica that lags or not, for tasks and for pods.
    Crash(OperatorId, bool, bool),
    /// The process ends and does not restart.
    StopOperator(OperatorId),
    InstallOperator(OperatorId),
    /// The uninstall begins, after the operator was stopped if the plan says so.
    BeginUninstall,
    PerformUninstallRequest(RequestOutcome),
    CrashUninstall,
    /// A replica of the API server stops following.
    FreezeReplica,
    /// A write whose sender gave up on it is carried out.
    CommitDelayed(usize),
    /// The garbage collector deletes a pod.
    DeleteGarbage(u8),
    /// The garbage collector deletes the PVC of a task.
    DeleteGarbagePvc(u8),
    Pod(u8, PodEvent),
    TimePasses,
    User(UserAction),
}

/// A scenario, with the operator as it is or broken.
pub struct TransitionSystem {
    pub scenario: Scenario,
    pub decider: Decider,
}

/// Nothing was read yet.
const NOTHING: TaskVersion = TaskVersion { version: 0, task: None };

impl TransitionSystem {
    pub fn new(scenario: Scenario, variant: Variant) -> Self {
        let decider = Decider::new(scenario.config_maps.clone(), variant);
        Self { scenario, decider }
    }

    pub fn variant(&self) -> Variant {
        self.decider.variant
    }

    /// A task that no operator has seen.
    pub fn first(&self) -> ModelState {
        let mut state = ModelState {
            task: NOTHING,
            pods: ModelPods::default(),
            pvcs: Vec::new(),
            config_map: self.scenario.config_map,
            delayed_writes: Vec::new(),
            replica: None,
            next_pod: 0,
            next_task: 0,
            executions: Vec::new(),
            operators: (0..).take(self.scenario.operators).map(|id| self.operator(id)).collect(),
            uninstall: UninstallProgress::NotBegun,
            budget: self.scenario.budget,
            free_attempts: self.decider.config(0).free_attempts,
            agent_runs: Vec::new(),
            last_started: Vec::new(),
            violation: None,
        };
        user::create_task(&mut state, self.scenario.spec);
        state
    }

    fn operator(&self, number: u8) -> ModelOperator {
        let waits = self.scenario.uninstall.is_some_and(|plan| !plan.second_runs) && number > 0;
        ModelOperator {
            process: if waits { ProcessState::NotInstalled } else { ProcessState::Running },
            release: if self.scenario.releases { number } else { 0 },
            task: NOTHING,
            pods: ModelPods::default(),
            configuration: KnownConfiguration {
                newest: 0,
                last_valid: 1,
                // It was read from the API server once.
                consistent: self.variant() == Variant::ConsistentReadNeverExpires,
            },
            memory: Memory::default(),
            woken: false,
            timer: false,
            reconcile: None,
            orphans_to_check: Vec::new(),
            orphans_to_recheck: Vec::new(),
            orphan_check: None,
            orphan_memories: BTreeMap::new(),
        }
    }

    fn sync_task(state: &mut ModelState, id: OperatorId) {
        let operator = &mut state.operators[id];
        operator.task = state.task;
        operator.woken = operator.task.task.is_some();
        orphans::recheck(operator);
    }

    fn sync_pods(&self, state: &mut ModelState, id: OperatorId) {
        let operator = &mut state.operators[id];
        let before = std::mem::replace(&mut operator.pods, server::watched(&state.pods));
        operator.woken = operator.task.task.is_some();
        for pod in operator.pods.clone().iter().filter(|pod| !before.contains(pod)) {
            orphans::observe_pod(operator, &self.decider, pod);
        }
        orphans::recheck(operator);
    }

    /// The process starts with the caches that it has now.
    fn start(&self, operator: &mut ModelOperator) {
        stop(operator);
        operator.process = ProcessState::Running;
        operator.woken = operator.task.task.is_some();
        let newest = operator.configuration.newest;
        let last_valid = if self.decider.config(newest).is_invalid { 0 } else { newest + 1 };
        operator.configuration = KnownConfiguration { newest, last_valid, consistent: false };
        for pod in operator.pods.clone().iter() {
            orphans::observe_pod(operator, &self.decider, pod);
        }
    }

    fn crash(&self, state: &mut ModelState, id: OperatorId, old_task: bool, old_pods: bool) {
        let replica = state.replica.as_deref().cloned();
        let operator = &mut state.operators[id];
        if let Some((task, pods)) = replica {
            if old_task {
                operator.task = task;
            }
            if old_pods {
                operator.pods = pods;
            }
        }
        self.start(operator);
    }

    /// Carries out a transition.
    pub fn take(&self, state: &mut ModelState, transition: Transition) {
        match transition {
            Transition::BeginReconcile(id) => operator::begin(state, &self.decider, id),
            Transition::PerformRequest(id, outcome) => {
                requests::spend(state, outcome);
                operator::perform_next(state, &self.decider, id, outcome);
            }
            Transition::BeginOrphanCheck(id) => orphans::begin(&mut state.operators[id], &self.decider),
            Transition::PerformOrphanRequest(id, outcome) => {
                requests::spend(state, outcome);
                orphans::perform_next(state, &self.decider, id, outcome);
            }
            Transition::SyncTask(id) => Self::sync_task(state, id),
            Transition::SyncPods(id) => self.sync_pods(state, id),
            Transition::SyncConfigMap(id) => {
                let index = state.config_map;
                let operator = &mut state.operators[id];
                operator::observe_config_map(operator, &self.decider, index, false);
                operator.woken = operator.task.task.is_some();
            }
            Transition::ForgetAnswers(id) => {
                state.budget.forgotten = state.budget.forgotten.saturating_sub(1);
                state.operators[id].memory.forget_answers(|()| true);
                orphans::forget_answers(&mut state.operators[id], &self.decider);
            }
            Transition::Crash(id, task, pods) => {
                state.budget.crashes -= 1;
                self.crash(state, id, task, pods);
            }
            Transition::StopOperator(id) => remove_operator(&mut state.operators[id]),
            Transition::InstallOperator(id) => {
                let (task, pods, newest) = (state.task, server::watched(&state.pods), state.config_map);
                let operator = &mut state.operators[id];
                (operator.task, operator.pods, operator.configuration.newest) = (task, pods, newest);
                self.start(operator);
            }
            Transition::BeginUninstall => {
                if self.scenario.uninstall.is_some_and(|plan| plan.stops_operator) {
                    remove_operator(&mut state.operators[0]);
                }
                uninstall::begin(state);
            }
            Transition::PerformUninstallRequest(outcome) => {
                requests::spend(state, outcome);
                let stops = self.scenario.uninstall.is_some_and(|plan| plan.stops_operator);
                let has_exact_end = stops && self.scenario.budget.delayed == 0;
                uninstall::perform_next(state, &self.decider, outcome, has_exact_end);
            }
            Transition::CrashUninstall => {
                state.budget.crashes -= 1;
                uninstall::begin(state);
            }
            Transition::FreezeReplica => {
                state.budget.frozen_replicas -= 1;
                state.replica = Some(Box::new((state.task, server::watched(&state.pods))));
            }
            Transition::CommitDelayed(index) => {
                let request = state.delayed_writes.remove(index);
                server::commit(state, self.variant(), request);
            }
            Transition::DeleteGarbage(pod) => {
                server::change_pod(state, pod, |pod| {
                    pod.deletion = Deletion::Requested;
                    true
                });
            }
            Transition::DeleteGarbagePvc(task) => state.pvcs.retain(|pvc| pvc.task != task),
            Transition::Pod(pod, event) => kubelet::happen(state, pod, event, self.scenario.ends[0]),
            Transition::TimePasses => server::pass_time(state),
            Transition::User(action) => {
                state.budget.user_actions = state.budget.user_actions.saturating_sub(1);
                user::act(state, action, self.scenario.spec);
            }
        }
        if state.budget.crashes == 0 {
            state.replica = None;
            state.budget.frozen_replicas = 0;
        }
        state.delayed_writes.sort_unstable();
        state.renumber();
    }
}

/// The process ends: what it was doing, and what it remembered, is gone.
fn stop(operator: &mut ModelOperator) {
    operator.process = ProcessState::Stopped;
    operator.memory = Memory::default();
    operator.reconcile = None;
    operator.orphan_check = None;
    operator.orphan_memories.clear();
    operator.orphans_to_check.clear();
    operator.orphans_to_recheck.clear();
    operator.timer = false;
    operator.woken = false;
}

/// The process ends and does not restart: its caches are of no matter any more.
pub fn remove_operator(operator: &mut ModelOperator) {
    stop(operator);
    operator.task = NOTHING;
    operator.pods = ModelPods::default();
}
