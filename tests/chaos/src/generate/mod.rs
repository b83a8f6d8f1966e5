//! Generates plans from a seed and a number.

mod disturb;
mod life;

use fastrand::Rng;

use crate::plan::{InjectedFault, Moment, Plan, PlanKind, PlannedFault, PodFault};
use disturb::disturb;
use life::life;

/// How many plans in a hundred are of each kind. The number of a plan determines its kind and its index within the
/// kind, so that every write is disturbed, and not only those that are chosen at random.
const SHARES: &[(PlanKind, u64)] = &[
    (PlanKind::Calm, 1),
    (PlanKind::KillBefore, 9),
    (PlanKind::KillAfter, 9),
    (PlanKind::KillTwice, 9),
    (PlanKind::LostAnswer, 6),
    (PlanKind::RefusedWrite, 6),
    (PlanKind::RefusedRead, 3),
    (PlanKind::DeferredCreate, 5),
    (PlanKind::DeferredWrite, 3),
    (PlanKind::Watches, 4),
    (PlanKind::StaleLists, 4),
    (PlanKind::DelayedCreate, 3),
    (PlanKind::Network, 2),
    (PlanKind::Freeze, 2),
    (PlanKind::FreezeAndSecond, 3),
    (PlanKind::TwoOperators, 5),
    (PlanKind::Clock, 2),
    (PlanKind::Limit, 4),
    (PlanKind::Suspend, 4),
    (PlanKind::Token, 2),
    (PlanKind::Delete, 2),
    (PlanKind::Recreate, 2),
    (PlanKind::DeletedPod, 3),
    (PlanKind::Kubelet, 3),
    (PlanKind::ForeignPod, 1),
    (PlanKind::Mixed, 2),
    (PlanKind::RefusedForLong, 1),
];

/// One plan in this many is of one of the two slow kinds.
const RARE: u64 = 97;

/// The kind of a plan and its index within the kind. Kinds are distributed evenly, so that any range of plans has all of
/// them.
fn kind_of(number: u64) -> (PlanKind, u64) {
    if number % RARE == RARE - 1 {
        let place = number / RARE;
        return (
            if place.is_multiple_of(3) { PlanKind::DeferredForMinutes } else { PlanKind::Takeover },
            place,
        );
    }
    // 37 and 100 have no common divisor, so each slot occurs once in a hundred plans.
    let slot = number * 37 % 100;
    let mut first = 0;
    for (kind, share) in SHARES {
        if slot < first + share {
            return (*kind, number / 100 * share + (slot - first));
        }
        first += share;
    }
    (PlanKind::Calm, number)
}

impl Plan {
    /// The plan of this number.
    pub fn of(seed: u64, number: u64) -> Self {
        let (kind, place) = kind_of(number);
        let mut rng = Rng::with_seed(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xd134_2543_de82_ef95),
        );
        // The first random numbers of neighbouring seeds are similar.
        for _ in 0..4 {
            rng.u64(..);
        }
        let mut plan = life(&mut rng, seed, number, kind);
        disturb(&mut plan, &mut rng, place);
        if place % 2 == 1 {
            plan.slow_down();
        }
        plan
    }

    fn at(&mut self, at: Moment, fault: InjectedFault) {
        self.faults.push(PlannedFault { at, fault });
    }

    /// Makes the agents slow that are stopped while they run.
    fn slow_down(&mut self) {
        let stopped = self.faults.iter().filter(|planned| planned.fault.stops_the_pod());
        let iterations: Vec<i32> = stopped
            .filter_map(|planned| match planned.at {
                Moment::Running(iteration) => Some(iteration),
                _ => None,
            })
            .collect();
        self.pod_faults.extend(iterations.into_iter().map(|iteration| (iteration, PodFault::Slow)));
    }

    /// How many iterations the plan has unless the user changes the task.
    pub fn iterations(&self) -> i32 {
        i32::try_from(self.works.len()).unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::disturb::writes;
    use super::*;
    use crate::plan::RequestKind;

    #[test]
    fn a_plan_is_the_same_each_time() {
        for number in 0..500 {
            let text = || Plan::of(7, number).to_string();
            assert_eq!(text(), text());
        }
    }

    #[test]
    fn a_thousand_plans_are_of_every_kind_and_another_seed_gives_others() {
        let kinds: BTreeSet<PlanKind> = (0..1000).map(|number| Plan::of(1, number).kind).collect();
        assert_eq!(kinds.len(), SHARES.len() + 2);
        let same =
            (0..1000).filter(|number| Plan::of(1, *number).to_string() == Plan::of(2, *number).to_string());
        assert_eq!(same.count(), 0);
    }

    #[test]
    fn ten_thousand_plans_kill_the_operator_on_both_sides_of_every_write_of_five_iterations() {
        let mut hit: BTreeMap<bool, BTreeSet<u32>> = BTreeMap::new();
        let mut pairs = BTreeSet::new();
        for plan in (0..10_000).map(|number| Plan::of(1, number)) {
            let writes: Vec<u32> = plan
                .faults
                .iter()
                .filter_map(|planned| match planned.at {
                    Moment::Before(RequestKind::Write, n) | Moment::After(RequestKind::Write, n) => Some(n),
                    _ => None,
                })
                .collect();
            match (plan.kind, writes.as_slice()) {
                (PlanKind::KillBefore | PlanKind::KillAfter, [n]) => {
                    hit.entry(plan.kind == PlanKind::KillAfter).or_default().insert(*n);
                }
                (PlanKind::KillTwice, [first, second]) => drop(pairs.insert((*first, *second))),
                _ => {}
            }
        }
        for side in [false, true] {
            let hit = hit.get(&side).cloned().unwrap_or_default();
            assert!((1..=writes(5)).all(|n| hit.contains(&n)), "after: {side}: {hit:?}");
        }
        assert_eq!(pairs.len(), 13 * 13, "every pair of the first writes");
    }
}
