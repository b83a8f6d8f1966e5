//! The bounds of one search.

use crate::api::{ConfigMapVersion, ModelSpec, PodEnd};
use crate::state::Budget;
use crate::user::UserAction;

/// How the first operator's release is uninstalled, at any moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UninstallPlan {
    /// The first operator is stopped before the uninstall begins. Otherwise it is stopped at some later moment: the
    /// uninstall believes that it is gone, for example because its pod was deleted by force.
    pub stops_operator: bool,
    /// The second operator runs from the beginning. Otherwise it is installed once the uninstall has reported success.
    pub second_runs: bool,
}

/// Bounds of one search.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// One word.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// How many operators there are.
    pub operators: usize,
    /// Each operator is of a release of its own; otherwise they are replicas of one.
    pub releases: bool,
    /// The first release is uninstalled.
    pub uninstall: Option<UninstallPlan>,
    /// The task as its user creates it.
    pub spec: ModelSpec,
    /// How agents end: the first is the usual end, the others happen within the budget.
    pub ends: &'static [PodEnd],
    /// What users and administrators do, in any order, within the budget.
    pub user_actions: &'static [UserAction],
    /// The versions of the ConfigMap, in their order.
    pub config_maps: Vec<ConfigMapVersion>,
    /// The version of the ConfigMap at the beginning; operators have observed the one before.
    pub config_map: u8,
    /// How many faults of each kind.
    pub budget: Budget,
    /// Fair transitions of the first operator alone that come before the search.
    pub prefix: usize,
    /// How many transitions after those are searched; 0: to the end.
    pub max_depth: usize,
    /// The first operator's cache of tasks never catches up after the prefix.
    pub is_first_cache_frozen: bool,
    /// From one of how many states liveness is checked; 0: none, 1: all.
    pub liveness_sample: u64,
}

/// One operator, a limit of two iterations, no faults.
pub fn plain(name: &'static str, about: &'static str) -> Scenario {
    Scenario {
        name,
        about,
        operators: 1,
        releases: false,
        uninstall: None,
        spec: ModelSpec::of_limit(2),
        ends: &[PodEnd::Changed],
        user_actions: &[],
        config_maps: vec![ConfigMapVersion::default()],
        config_map: 0,
        budget: Budget::default(),
        prefix: 0,
        max_depth: 0,
        is_first_cache_frozen: false,
        liveness_sample: 1,
    }
}
