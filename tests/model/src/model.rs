//! The transition system as stateright searches it, with the invariants as properties.

use agentloop_test_support::invariants::Invariant;
use stateright::{Model, Property};

use crate::fair;
use crate::liveness::{self, CheckedStates, LivenessFailure};
use crate::scenario::Scenario;
use crate::state::ModelState;
use crate::system::{Transition, TransitionSystem};
use crate::transitions;
use crate::variants::Variant;

/// A transition system, and the states whose liveness is known.
pub struct SearchModel {
    pub system: TransitionSystem,
    checked: CheckedStates,
}

impl SearchModel {
    pub fn new(scenario: Scenario, variant: Variant) -> Self {
        Self { system: TransitionSystem::new(scenario, variant), checked: CheckedStates::default() }
    }

    /// Whether everything ends well from here, once nothing goes wrong any more.
    pub fn ends_well(&self, state: &ModelState) -> Result<(), LivenessFailure> {
        if state.violation.is_some() {
            return Ok(());
        }
        liveness::check(&self.system, &self.checked, state)
    }

    fn is_sampled(&self, state: &ModelState) -> bool {
        match self.system.scenario.liveness_sample {
            0 => false,
            1 => true,
            every => liveness::hash(state).is_multiple_of(every),
        }
    }
}

impl Model for SearchModel {
    type State = ModelState;
    type Action = Transition;

    fn init_states(&self) -> Vec<ModelState> {
        vec![fair::prefix(&self.system).1]
    }

    fn actions(&self, state: &ModelState, out: &mut Vec<Transition>) {
        if state.violation.is_none() {
            transitions::possible(&self.system, state, out);
        }
    }

    fn next_state(&self, last: &ModelState, transition: Transition) -> Option<ModelState> {
        let mut state = last.clone();
        self.system.take(&mut state, transition);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        macro_rules! always {
            ($($invariant:ident),*) => { vec![$(Property::always(stringify!($invariant), |_: &Self, state: &ModelState| {
                state.violation.is_none_or(|(invariant, _)| invariant != Invariant::$invariant)
            })),*] };
        }
        let mut properties = always!(S1, S2, S3, S4, S5, S6, S7, S9, S10, S11, S12);
        // S8, L1 and L2.
        properties.push(Property::always("ends well", |model: &Self, state: &ModelState| {
            !model.is_sampled(state) || model.ends_well(state).is_ok()
        }));
        properties
    }
}
