//! The world as stateright searches it: which steps there are, and what each does.

use std::sync::Arc;

use agentloop_core::sync::{Memory, OrphanRequest, Request};
use stateright::{Model, Property};

use crate::decision::Decider;
use crate::handles::Modelled;
use crate::kubelet::{self, Happening};
use crate::liveness::{self, Failure, Known};
use crate::operator::{self, Fate};
use crate::scenarios::Scenario;
use crate::server;
use crate::state::{Operator, Pods, Read, Settings, State, Who};
use crate::sweep;
use crate::user::{self, Act};
use crate::variants::Variant;
use agentloop_test_support::invariants::Invariant;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Begin(Who),
    Act(Who, Fate),
    BeginSweep(Who),
    Sweep(Who, Fate),
    /// A cache catches up.
    SyncTask(Who),
    SyncPods(Who),
    SyncSettings(Who),
    /// Answers are forgotten before the caches have caught up.
    Forget(Who),
    /// The process dies, and lists anew: whether from a replica that lags, for tasks and for pods.
    Crash(Who, bool, bool),
    /// The replica follows no more.
    Snapshot,
    /// A write that nobody waits for any more is done.
    Late(usize),
    /// The garbage collector deletes a pod.
    Collect(u8),
    /// The garbage collector deletes the PVC of a task.
    CollectPvc(u8),
    Happens(u8, Happening),
    TimePasses,
    User(Act),
}

/// A scenario, with the operator as it is or broken.
pub struct World {
    pub scenario: Scenario,
    pub decider: Decider,
    known: Known,
}

impl World {
    pub fn new(scenario: Scenario, variant: Variant) -> Self {
        let decider = Decider::new(scenario.configs.clone(), variant);
        Self { scenario, decider, known: Known::default() }
    }

    fn variant(&self) -> Variant {
        self.decider.variant
    }

    /// The ordinary steps that come before the search, and where they lead.
    pub fn opening(&self) -> (Vec<(State, Step)>, State) {
        let mut state = self.first();
        let mut steps = Vec::new();
        for _ in 0..self.scenario.after {
            let Some(step) = liveness::next(self, &state, 1) else { break };
            steps.push((state.clone(), step));
            self.take(&mut state, step);
        }
        (steps, state)
    }

    /// A task that no operator has seen.
    fn first(&self) -> State {
        let nothing = Read { version: 0, task: None };
        let pods: Pods = Arc::default();
        let operator = |release| Operator {
            release,
            task: nothing,
            pods: Pods::default(),
            settings: Settings {
                newest: 0,
                last_good: 1,
                // It was read from the API server once.
                consistent: self.variant() == Variant::ConsistencyRemembered,
            },
            memory: Memory::default(),
            woken: false,
            timer: false,
            run: None,
            to_sweep: Vec::new(),
            sweep_later: Vec::new(),
            sweep: None,
        };
        let mut state = State {
            task: nothing,
            pods,
            pvcs: Vec::new(),
            settings: self.scenario.settings,
            late: Vec::new(),
            replica: None,
            next_pod: 0,
            next_task: 0,
            places: Vec::new(),
            operators: (0..)
                .take(self.scenario.operators)
                .map(|who| operator(if self.scenario.releases { who } else { 0 }))
                .collect(),
            budget: self.scenario.budget,
            free: self.decider.config(0).free,
            ran: Vec::new(),
            claimed: Vec::new(),
            broken: None,
        };
        user::create_task(&mut state, self.scenario.spec);
        state
    }

    /// Whether all ends well from here, once nothing goes wrong any more.
    pub fn rests(&self, state: &State) -> Result<(), Failure> {
        if state.broken.is_some() { Ok(()) } else { liveness::check(self, &self.known, state) }
    }

    fn is_sampled(&self, state: &State) -> bool {
        match self.scenario.rests {
            0 => false,
            1 => true,
            every => liveness::hash(state).is_multiple_of(every),
        }
    }

    /// Steps of the operators and their caches.
    fn steps_of(&self, state: &State, who: Who, out: &mut Vec<Step>) {
        let op = &state.operators[who];
        if operator::may_begin(op) {
            out.push(Step::Begin(who));
        }
        if let Some(request) = operator::next(op) {
            fates(state, &Kind::of(request), |fate| out.push(Step::Act(who, fate)));
        }
        if sweep::may_begin(op) {
            out.push(Step::BeginSweep(who));
        }
        if let Some(request) = sweep::next(op) {
            fates(state, &Kind::of_sweep(request), |fate| out.push(Step::Sweep(who, fate)));
        }
        if op.task != state.task && !(self.scenario.frozen && who == 0) {
            out.push(Step::SyncTask(who));
        }
        if op.pods != server::watched(&state.pods) {
            out.push(Step::SyncPods(who));
        }
        if op.settings.newest != state.settings {
            out.push(Step::SyncSettings(who));
        }
        if state.budget.forgotten > 0 && op.memory.has_answers() {
            out.push(Step::Forget(who));
        }
        if state.budget.crashes > 0 {
            out.push(Step::Crash(who, false, false));
            if let Some(replica) = &state.replica {
                let (task, pods) = (replica.0 != op.task, replica.1 != op.pods);
                for (of_task, of_pods) in [(true, false), (false, true), (true, true)] {
                    if (task || !of_task) && (pods || !of_pods) {
                        out.push(Step::Crash(who, of_task, of_pods));
                    }
                }
            }
        }
    }

    fn sync_task(state: &mut State, who: Who) {
        let operator = &mut state.operators[who];
        operator.task = state.task;
        operator.woken = operator.task.task.is_some();
        sweep::look_again(operator);
    }

    fn sync_pods(&self, state: &mut State, who: Who) {
        let operator = &mut state.operators[who];
        let before = std::mem::replace(&mut operator.pods, server::watched(&state.pods));
        operator.woken = operator.task.task.is_some();
        for pod in operator.pods.clone().iter().filter(|pod| !before.contains(pod)) {
            sweep::tell(operator, &self.decider, pod);
        }
        sweep::look_again(operator);
    }

    fn crash(&self, state: &mut State, who: Who, old_task: bool, old_pods: bool) {
        let replica = state.replica.as_deref().cloned();
        let operator = &mut state.operators[who];
        if let Some((task, pods)) = replica {
            if old_task {
                operator.task = task;
            }
            if old_pods {
                operator.pods = pods;
            }
        }
        operator.memory = Memory::default();
        operator.run = None;
        operator.sweep = None;
        operator.to_sweep.clear();
        operator.sweep_later.clear();
        operator.timer = false;
        operator.woken = operator.task.task.is_some();
        let newest = operator.settings.newest;
        let last_good = if self.decider.config(newest).bad { 0 } else { newest + 1 };
        operator.settings = Settings { newest, last_good, consistent: false };
        for pod in operator.pods.clone().iter() {
            sweep::tell(operator, &self.decider, pod);
        }
    }

    /// Does a step.
    pub fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Begin(who) => operator::begin(state, &self.decider, who),
            Step::Act(who, fate) => {
                pay(state, fate);
                operator::step(state, &self.decider, who, fate);
            }
            Step::BeginSweep(who) => sweep::begin(&mut state.operators[who]),
            Step::Sweep(who, fate) => {
                pay(state, fate);
                sweep::step(state, &self.decider, who, fate);
            }
            Step::SyncTask(who) => Self::sync_task(state, who),
            Step::SyncPods(who) => self.sync_pods(state, who),
            Step::SyncSettings(who) => {
                let place = state.settings;
                let operator = &mut state.operators[who];
                operator::take_settings(operator, &self.decider, place, false);
                operator.woken = operator.task.task.is_some();
            }
            Step::Forget(who) => {
                state.budget.forgotten = state.budget.forgotten.saturating_sub(1);
                forget(&mut state.operators[who]);
            }
            Step::Crash(who, task, pods) => {
                state.budget.crashes -= 1;
                self.crash(state, who, task, pods);
            }
            Step::Snapshot => {
                state.budget.snapshots -= 1;
                state.replica = Some(Box::new((state.task, server::watched(&state.pods))));
            }
            Step::Late(place) => {
                let request = state.late.remove(place);
                server::commit(state, self.variant(), request);
            }
            Step::Collect(pod) => {
                server::change_pod(state, pod, |pod| {
                    pod.deletion = crate::state::Deletion::Asked;
                    true
                });
            }
            Step::CollectPvc(task) => state.pvcs.retain(|pvc| pvc.task != task),
            Step::Happens(pod, what) => {
                kubelet::happen(state, pod, what, self.scenario.ends[0]);
            }
            Step::TimePasses => server::pass_time(state),
            Step::User(act) => {
                state.budget.acts = state.budget.acts.saturating_sub(1);
                user::act(state, act, self.scenario.spec);
            }
        }
        if state.budget.crashes == 0 {
            state.replica = None;
            state.budget.snapshots = 0;
        }
        state.late.sort_unstable();
        state.renumber();
    }
}

/// Answers are a minute old: they are not trusted any more.
pub fn forget(operator: &mut Operator) {
    operator.memory.forget_answers(|()| true);
}

/// What can become of a request depends on its kind.
#[allow(clippy::struct_excessive_bools)] // each for itself
struct Kind {
    is_sent: bool,
    is_write: bool,
    is_pod_patch: bool,
    is_create: bool,
    /// A PVC that is created late is empty, and bears an old generation: the next iteration sets its owner right.
    may_be_late: bool,
}

impl Kind {
    fn of(request: &Request<Modelled>) -> Self {
        Self {
            is_sent: operator::is_sent(request),
            is_write: operator::is_write(request),
            is_pod_patch: operator::is_pod_patch(request),
            is_create: matches!(request, Request::CreatePod),
            may_be_late: !matches!(request, Request::CreatePvc),
        }
    }

    fn of_sweep(request: &OrphanRequest<Modelled>) -> Self {
        Self {
            is_sent: true,
            is_write: sweep::is_write(request),
            is_pod_patch: matches!(request, OrphanRequest::RemoveFinalizer { .. }),
            is_create: false,
            may_be_late: true,
        }
    }
}

fn fates(state: &State, kind: &Kind, mut out: impl FnMut(Fate)) {
    out(Fate::Answered);
    if !kind.is_sent {
        return;
    }
    if kind.is_create && state.budget.refusals > 0 {
        out(Fate::Refused);
    }
    if state.budget.overtaken > 0 && kind.is_pod_patch {
        out(Fate::Overtaken);
    }
    if state.budget.lost > 0 {
        out(Fate::Lost);
        if kind.is_write {
            out(Fate::AnswerLost);
        }
    }
    if state.budget.delayed > 0 && kind.is_write && kind.may_be_late {
        out(Fate::Delayed);
    }
}

fn pay(state: &mut State, fate: Fate) {
    match fate {
        Fate::Answered => {}
        Fate::Lost | Fate::AnswerLost => state.budget.lost -= 1,
        Fate::Delayed => state.budget.delayed -= 1,
        Fate::Refused => state.budget.refusals -= 1,
        Fate::Overtaken => state.budget.overtaken -= 1,
    }
}

impl Model for World {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![self.opening().1]
    }

    fn actions(&self, state: &State, out: &mut Vec<Step>) {
        if state.broken.is_some() {
            return;
        }
        for who in 0..state.operators.len() {
            self.steps_of(state, who, out);
        }
        out.extend((0..state.late.len()).map(Step::Late));
        out.extend(server::garbage(state).map(|pod| Step::Collect(pod.uid)));
        out.extend(server::garbage_pvcs(state).map(Step::CollectPvc));
        let mut happenings = Vec::new();
        for pod in state.pods.iter() {
            kubelet::happenings(state, pod, self.scenario.ends, &mut happenings);
            out.extend(happenings.drain(..).map(|what| Step::Happens(pod.uid, what)));
        }
        if server::waits_for_time(state) {
            out.push(Step::TimePasses);
        }
        if state.budget.snapshots > 0 {
            out.push(Step::Snapshot);
        }
        if state.budget.acts > 0 {
            let configs = self.decider.configs();
            let possible = self.scenario.acts.iter().filter(|act| user::is_possible(state, **act, configs));
            out.extend(possible.map(|act| Step::User(*act)));
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        self.take(&mut state, step);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        macro_rules! always {
            ($($invariant:ident),*) => { vec![$(Property::always(stringify!($invariant), |_: &Self, state: &State| {
                state.broken.is_none_or(|(invariant, _)| invariant != Invariant::$invariant)
            })),*] };
        }
        let mut properties = always!(S1, S2, S3, S4, S5, S6, S7, S9, S10, S11);
        // S8, L1 and L2.
        properties.push(Property::always("rest", |world: &Self, state: &State| {
            !world.is_sampled(state) || world.rests(state).is_ok()
        }));
        properties
    }
}
