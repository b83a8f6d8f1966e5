//! Plans that found a bug. They are carried out with every sample of plans.

use crate::plan::Plan;

/// Seed, number, and the bug that the plan found.
const PLANS: &[(u64, u64, &str)] = &[
    (
        1,
        2328,
        "a removal of the scheduling gate that was refused with 409 counted as done, and the loop stopped",
    ),
    (1, 2455, "the same bug"),
];

/// Every such plan.
pub fn all() -> Vec<Plan> {
    PLANS.iter().map(|(seed, number, _)| Plan::of(*seed, *number)).collect()
}
