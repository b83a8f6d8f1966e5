//! Plans that once found something. They are carried out with every sample.

use crate::plan::Plan;

/// Seed, number, and what the plan found when it was new.
const FOUND: &[(u64, u64, &str)] = &[
    (1, 2328, "a start refused with 409 was taken for done, and the loop stood still"),
    (1, 2455, "the same"),
];

/// All of them.
pub fn all() -> Vec<Plan> {
    FOUND.iter().map(|(seed, number, _)| Plan::of(*seed, *number)).collect()
}
