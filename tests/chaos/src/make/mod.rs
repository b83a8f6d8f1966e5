//! Plans from a seed and a number.

mod disturb;
mod life;

use fastrand::Rng;

use crate::plan::{Deed, Kind, Mishap, Moment, Plan, Step};
use disturb::disturb;
use life::life;

/// How many plans in a hundred are of each kind. The number of a plan says its kind and its place among its
/// kind: so every write is hit, and not only those that chance picks.
const SHARES: &[(Kind, u64)] = &[
    (Kind::Calm, 1),
    (Kind::KillBefore, 9),
    (Kind::KillAfter, 9),
    (Kind::KillTwice, 9),
    (Kind::LostAnswer, 6),
    (Kind::RefusedWrite, 6),
    (Kind::RefusedRead, 3),
    (Kind::HeldCreate, 5),
    (Kind::HeldWrite, 3),
    (Kind::Watches, 4),
    (Kind::OldLists, 4),
    (Kind::Ghost, 3),
    (Kind::Network, 2),
    (Kind::Freeze, 2),
    (Kind::FreezeAndSecond, 3),
    (Kind::TwoOperators, 5),
    (Kind::Clock, 2),
    (Kind::Limit, 4),
    (Kind::Suspend, 4),
    (Kind::Token, 2),
    (Kind::Delete, 2),
    (Kind::Recreate, 2),
    (Kind::DeletedPod, 3),
    (Kind::Kubelet, 3),
    (Kind::ForeignPod, 1),
    (Kind::Mixed, 2),
    (Kind::RefusedForLong, 1),
];

/// Every so many plans one is of a kind that takes long: the two by turns.
const RARE: u64 = 97;

/// A hundred places; each kind's are spread, so that any run of plans has of everything.
fn kind_of(number: u64) -> (Kind, u64) {
    if number % RARE == RARE - 1 {
        let place = number / RARE;
        return (if place.is_multiple_of(3) { Kind::HeldForMinutes } else { Kind::Takeover }, place);
    }
    // 37 and 100 have no common divisor: each place is visited once in a hundred.
    let slot = number * 37 % 100;
    let mut first = 0;
    for (kind, share) in SHARES {
        if slot < first + share {
            return (*kind, number / 100 * share + (slot - first));
        }
        first += share;
    }
    (Kind::Calm, number)
}

impl Plan {
    /// The plan of this number.
    pub fn of(seed: u64, number: u64) -> Self {
        let (kind, place) = kind_of(number);
        let mut rng = Rng::with_seed(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xd134_2543_de82_ef95),
        );
        // The first numbers of neighbouring seeds resemble each other.
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

    fn at(&mut self, at: Moment, deed: Deed) {
        self.steps.push(Step { at, deed });
    }

    /// An agent that is told to stop takes its time.
    fn slow_down(&mut self) {
        let stopped = self.steps.iter().filter(|step| step.deed.stops_the_pod());
        let iterations: Vec<i32> = stopped
            .filter_map(|step| match step.at {
                Moment::Running(iteration) => Some(iteration),
                _ => None,
            })
            .collect();
        self.mishaps.extend(iterations.into_iter().map(|iteration| (iteration, Mishap::Slow)));
    }

    /// How many iterations the plan has when nothing is changed by hand.
    pub fn iterations(&self) -> i32 {
        i32::try_from(self.works.len()).unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::disturb::writes;
    use super::*;
    use crate::plan::What;

    #[test]
    fn a_plan_is_the_same_each_time() {
        for number in 0..500 {
            let words = || Plan::of(7, number).to_string();
            assert_eq!(words(), words());
        }
    }

    #[test]
    fn a_thousand_plans_are_of_every_kind_and_another_seed_gives_others() {
        let kinds: BTreeSet<Kind> = (0..1000).map(|number| Plan::of(1, number).kind).collect();
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
                .steps
                .iter()
                .filter_map(|step| match step.at {
                    Moment::Before(What::Write, n) | Moment::After(What::Write, n) => Some(n),
                    _ => None,
                })
                .collect();
            match (plan.kind, writes.as_slice()) {
                (Kind::KillBefore | Kind::KillAfter, [n]) => {
                    hit.entry(plan.kind == Kind::KillAfter).or_default().insert(*n);
                }
                (Kind::KillTwice, [first, second]) => drop(pairs.insert((*first, *second))),
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
