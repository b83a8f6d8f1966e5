//! Plans from a seed and a number.

use std::collections::BTreeMap;

use fastrand::Rng;

use crate::plan::{Act, Deed, Kind, Meanwhile, Mishap, Moment, Plan, Step, Task, Until, What, Work};

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
    (Kind::Mixed, 3),
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

/// Writes of the operator in a quiet life of so many iterations: claim, create and start, then settle,
/// release, create and start for each further one, and the last settle and release.
fn writes(iterations: i32) -> u32 {
    u32::try_from(iterations).unwrap_or(1) * 4 + 1
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

/// A task and its agents.
fn life(rng: &mut Rng, seed: u64, number: u64, kind: Kind) -> Plan {
    let count = [2, 2, 2, 2, 3, 3, 3, 4, 5, 6].get(rng.usize(..10)).copied().unwrap_or(2);
    let mut works: Vec<Work> = (0..count).map(|_| Work::Changed).collect();
    let mut task = Task {
        limit: count,
        no_change: 9,
        same_error: 9,
        history: *rng.choice([0, 1, 10].iter()).unwrap_or(&10),
    };
    let last = works.len().saturating_sub(1);
    let ending = if kind == Kind::Token { 3 + rng.u32(..3) } else { rng.u32(..10) };
    match ending {
        0 => end_in(&mut works, &[Work::Ready]),
        1 => {
            end_in(&mut works, &[Work::Ready]);
            task.limit += 2;
        }
        3 => {
            end_in(&mut works, &[Work::Unchanged, Work::Unchanged]);
            task.no_change = 2;
            task.limit += 3;
        }
        4 => {
            end_in(&mut works, &[Work::Error(1), Work::Error(1)]);
            task.same_error = 2;
            task.limit += 3;
        }
        5 => {
            end_in(&mut works, &[Work::Fatal]);
            task.limit += 3;
        }
        _ => {}
    }
    // What does not end the loop, before what does.
    for work in works.iter_mut().take(last.saturating_sub(1)) {
        *work = match rng.u32(..12) {
            0 => Work::Unchanged,
            1 => Work::Error(rng.u8(2..4)),
            2 => Work::Refused,
            _ => Work::Changed,
        };
    }
    let mut mishaps = BTreeMap::new();
    for iteration in 1..=count {
        if rng.u32(..3) == 0 {
            mishaps.insert(iteration, Mishap::Late);
        }
    }
    Plan { seed, number, kind, task, works, mishaps, operators: 1, lease: false, clock: 0, steps: Vec::new() }
}

/// The last iterations' agents.
fn end_in(works: &mut [Work], last: &[Work]) {
    for (work, wanted) in works.iter_mut().rev().zip(last.iter().rev()) {
        *work = *wanted;
    }
}

fn nth(rng: &mut Rng, most: u32) -> u32 {
    rng.u32(1..=most.max(1))
}

fn one_of<T: Clone>(rng: &mut Rng, choices: &[T], other: T) -> T {
    rng.choice(choices.iter()).cloned().unwrap_or(other)
}

/// A request of a quiet life by its place: each in turn, before and after.
fn every(place: u64, most: u32) -> u32 {
    u32::try_from(place % u64::from(most.max(1))).unwrap_or(0) + 1
}

#[allow(clippy::too_many_lines, reason = "one arm for each kind of plan")]
fn disturb(plan: &mut Plan, rng: &mut Rng, place: u64) {
    let count = plan.iterations();
    let most = writes(count);
    let some_write = |rng: &mut Rng| nth(rng, most);
    match plan.kind {
        Kind::Calm => {}
        Kind::KillBefore => plan.at(Moment::Before(What::Write, every(place, most)), Deed::Kill),
        Kind::KillAfter => plan.at(Moment::After(What::Write, every(place, most)), Deed::Kill),
        Kind::KillTwice => {
            // All pairs of the first thirteen writes, each before or after: those of a life of three.
            let first = u32::try_from(place % 13).unwrap_or(0) + 1;
            let second = first + u32::try_from(place / 13 % 13).unwrap_or(0);
            let side = |after: bool, n| {
                if after { Moment::After(What::Write, n) } else { Moment::Before(What::Write, n) }
            };
            plan.at(side(rng.bool(), first), Deed::Kill);
            plan.at(side(rng.bool(), second), Deed::Kill);
        }
        Kind::LostAnswer => {
            plan.at(Moment::After(What::Write, every(place, most)), Deed::Lose);
            if rng.bool() {
                plan.at(Moment::After(What::Write, some_write(rng)), Deed::Lose);
            }
        }
        Kind::RefusedWrite => refuse(plan, rng, What::Write, every(place / 5, most), place),
        Kind::RefusedRead => {
            refuse(plan, rng, What::Read, every(place / 5, u32::try_from(count).unwrap_or(1) + 4), place);
        }
        Kind::HeldCreate => {
            plan.task.history = one_of(rng, &[0, 0, 1], 0);
            let until = one_of(rng, &[Until::MovedOn, Until::Stopped], Until::MovedOn);
            let meanwhile = one_of(rng, &[Meanwhile::Cut, Meanwhile::Kill, Meanwhile::Wait], Meanwhile::Cut);
            let create = nth(rng, u32::try_from(count).unwrap_or(1));
            plan.at(Moment::Before(What::Create, create), Deed::Hold(until, meanwhile));
            if rng.bool() {
                plan.at(Moment::After(What::Write, some_write(rng)), Deed::Kill);
            }
        }
        Kind::HeldForMinutes => {
            plan.task.history = 0;
            let create = nth(rng, u32::try_from(count).unwrap_or(1));
            plan.at(
                Moment::Before(What::Create, create),
                Deed::Hold(Until::Millis(rng.u64(60_000..100_000)), Meanwhile::Wait),
            );
        }
        Kind::HeldWrite => {
            let until = one_of(rng, &[Until::MovedOn, Until::Stopped, Until::Millis(700)], Until::MovedOn);
            let meanwhile = one_of(rng, &[Meanwhile::Cut, Meanwhile::Kill], Meanwhile::Cut);
            plan.at(Moment::Before(What::Write, every(place, most)), Deed::Hold(until, meanwhile));
        }
        Kind::Watches => {
            for _ in 0..nth(rng, 3) {
                let deed = one_of(
                    rng,
                    &[
                        Deed::CutWatches,
                        Deed::ExpireWatches,
                        Deed::DelayWatches(400),
                        Deed::DelayWatches(1500),
                    ],
                    Deed::CutWatches,
                );
                let at = one_of(
                    rng,
                    &[Moment::Before(What::Write, most / 2), Moment::Running(1)],
                    Moment::Running(1),
                );
                let at = if rng.bool() { Moment::After(What::Write, some_write(rng)) } else { at };
                plan.at(at, deed);
            }
        }
        Kind::OldLists => {
            let remember = every(place, most - 1);
            plan.at(Moment::After(What::Write, remember), Deed::Remember);
            let kill = rng.u32(remember + 1..=most);
            plan.at(Moment::After(What::Write, kill), Deed::KillAndServeOldLists);
        }
        Kind::Ghost => ghost(plan, rng),
        Kind::Network => {
            let deed = Deed::CutNetwork(one_of(rng, &[300, 1000, 3000], 1000));
            let at = if rng.bool() {
                Moment::Running(nth_iteration(rng, count))
            } else {
                Moment::Before(What::Write, some_write(rng))
            };
            plan.at(at, deed);
        }
        Kind::Freeze => {
            let n = every(place, most);
            let until = one_of(
                rng,
                &[Until::Millis(500), Until::Millis(2500), Until::Millis(6000)],
                Until::Millis(500),
            );
            let at = if rng.bool() { Moment::Before(What::Write, n) } else { Moment::After(What::Write, n) };
            let act = one_of(
                rng,
                &[Act::Suspend, Act::DeletePod(false), Act::Limit(plan.task.limit)],
                Act::Suspend,
            );
            if rng.bool() {
                plan.at(at, Deed::User(act));
            }
            plan.at(at, Deed::Freeze(until));
        }
        Kind::FreezeAndSecond => {
            plan.task.history = one_of(rng, &[0, 1], 0);
            let n = every(place, most);
            let at = if rng.bool() { Moment::Before(What::Write, n) } else { Moment::After(What::Write, n) };
            plan.at(at, Deed::Second);
            plan.at(at, Deed::Freeze(one_of(rng, &[Until::MovedOn, Until::Stopped], Until::MovedOn)));
        }
        Kind::TwoOperators => {
            plan.operators = 2;
            for _ in 0..nth(rng, 3) {
                let n = nth(rng, most + 4);
                let at =
                    if rng.bool() { Moment::Before(What::Write, n) } else { Moment::After(What::Write, n) };
                let deed = one_of(
                    rng,
                    &[
                        Deed::Pause(Until::Writes(1)),
                        Deed::Pause(Until::Writes(3)),
                        Deed::Pause(Until::MovedOn),
                        Deed::DelayWatches(500),
                        Deed::Kill,
                        Deed::Freeze(Until::MovedOn),
                    ],
                    Deed::Kill,
                );
                plan.at(at, deed);
            }
        }
        Kind::Takeover => {
            plan.operators = 2;
            plan.lease = true;
            let deed = one_of(
                rng,
                &[Deed::Kill, Deed::CutNetwork(14_000), Deed::Freeze(Until::MovedOn)],
                Deed::Kill,
            );
            plan.at(Moment::After(What::Write, some_write(rng)), deed);
        }
        Kind::Clock => clock(plan, rng),
        Kind::Limit => limit(plan, rng),
        Kind::Suspend => {
            for _ in 0..nth(rng, 2) {
                let at = user_moment(rng, count, most);
                plan.at(at, Deed::User(Act::Suspend));
            }
            and_a_kill(plan, rng);
        }
        Kind::Token => {
            plan.at(Moment::Stopped(1), Deed::User(Act::Token));
            if rng.bool() {
                let at = user_moment(rng, count, most);
                plan.at(at, Deed::User(Act::Token));
            }
            and_a_kill(plan, rng);
        }
        Kind::Delete => {
            let at = user_moment(rng, count, most);
            plan.at(at, Deed::User(Act::Delete));
            and_a_kill(plan, rng);
        }
        Kind::Recreate => {
            let at = user_moment(rng, count, most);
            plan.at(at, Deed::User(Act::Recreate));
            and_a_kill(plan, rng);
        }
        Kind::DeletedPod => {
            let at = user_moment(rng, count, most);
            plan.at(at, Deed::User(Act::DeletePod(rng.bool())));
            and_a_kill(plan, rng);
        }
        Kind::Kubelet => {
            for _ in 0..nth(rng, 2) {
                let mishap = one_of(
                    rng,
                    &[Mishap::NeverStarted, Mishap::Evicted, Mishap::Killed, Mishap::NodeLost],
                    Mishap::Evicted,
                );
                plan.mishaps.insert(nth_iteration(rng, count), mishap);
            }
            and_a_kill(plan, rng);
        }
        Kind::ForeignPod => {
            plan.at(
                Moment::Before(What::Create, nth(rng, u32::try_from(count).unwrap_or(1))),
                Deed::User(Act::ForeignPod),
            );
            and_a_kill(plan, rng);
        }
        Kind::Mixed => mixed(plan, rng),
    }
}

fn nth_iteration(rng: &mut Rng, count: i32) -> i32 {
    rng.i32(1..=count.max(1))
}

/// When a person does something: around any write, or while an agent runs.
fn user_moment(rng: &mut Rng, count: i32, most: u32) -> Moment {
    match rng.u32(..3) {
        0 => Moment::Running(nth_iteration(rng, count)),
        1 => Moment::Before(What::Write, nth(rng, most)),
        _ => Moment::After(What::Write, nth(rng, most)),
    }
}

/// In every other plan the operator is killed as well.
fn and_a_kill(plan: &mut Plan, rng: &mut Rng) {
    if rng.bool() {
        let n = nth(rng, writes(plan.iterations()) + 2);
        let at = if rng.bool() { Moment::Before(What::Write, n) } else { Moment::After(What::Write, n) };
        plan.at(at, Deed::Kill);
    }
}

fn refuse(plan: &mut Plan, rng: &mut Rng, what: What, n: u32, place: u64) {
    let deeds = [Deed::Refuse(409), Deed::Refuse(429), Deed::Refuse(500), Deed::Refuse(503), Deed::Stall];
    let deed = deeds.get(usize::try_from(place % 5).unwrap_or(0)).cloned().unwrap_or(Deed::Stall);
    plan.at(Moment::Before(what, n), deed.clone());
    if rng.bool() && deed != Deed::Stall {
        plan.at(Moment::Before(what, n + 1), deed);
    }
}

/// A creation arrives when its iteration is long over, and an operator that starts just then is served lists
/// from the time at which it was claimed: only a consistent read tells it that the pod must not start.
fn ghost(plan: &mut Plan, rng: &mut Rng) {
    plan.task.history = 0;
    let create = nth(rng, u32::try_from(plan.iterations()).unwrap_or(1));
    plan.at(Moment::Before(What::Create, create), Deed::Haunt);
}

fn clock(plan: &mut Plan, rng: &mut Rng) {
    // Far enough for every timer, near enough that what waits for a time does not wait for long: with times
    // of its own writing in the status, a clock that goes back by an hour makes a task wait for an hour.
    let step = |rng: &mut Rng| one_of(rng, &[-15, -3, 4, 10, 3600, 86_400], 10);
    let patient = plan.works.contains(&Work::Refused);
    let step = |rng: &mut Rng| if patient { step(rng).min(10) } else { step(rng) };
    plan.clock = step(rng);
    let most = writes(plan.iterations());
    let n = nth(rng, most);
    let seconds = step(rng);
    plan.at(Moment::After(What::Write, n), Deed::Clock(seconds));
    plan.at(Moment::After(What::Write, rng.u32(n..=most)), Deed::Clock(0));
    if rng.bool() {
        let n = nth(rng, most);
        plan.at(Moment::Before(What::Write, n), Deed::Kill);
    }
}

fn limit(plan: &mut Plan, rng: &mut Rng) {
    let count = plan.iterations();
    let most = writes(count);
    let at = user_moment(rng, count, most);
    match rng.u32(..4) {
        0 => plan.at(at, Deed::User(Act::Limit(plan.task.limit + 1))),
        1 => {
            plan.at(at, Deed::User(Act::Limit(1)));
            plan.at(Moment::Stopped(1), Deed::User(Act::Limit(plan.task.limit)));
        }
        2 => plan.at(at, Deed::User(Act::Limit(nth_iteration(rng, count)))),
        _ => {
            plan.at(Moment::Stopped(1), Deed::User(Act::Limit(plan.task.limit + 1)));
            plan.at(Moment::Stopped(2), Deed::User(Act::Limit(plan.task.limit + 2)));
        }
    }
    and_a_kill(plan, rng);
}

fn mixed(plan: &mut Plan, rng: &mut Rng) {
    let count = plan.iterations();
    let most = writes(count) + 3;
    plan.operators = one_of(rng, &[1, 1, 2], 1);
    for _ in 0..rng.u32(2..=4) {
        let deed = one_of(
            rng,
            &[
                Deed::Kill,
                Deed::Kill,
                Deed::Lose,
                Deed::Refuse(409),
                Deed::Refuse(500),
                Deed::Refuse(503),
                Deed::Hold(Until::MovedOn, Meanwhile::Cut),
                Deed::Pause(Until::Writes(1)),
                Deed::Freeze(Until::Millis(800)),
                Deed::CutWatches,
                Deed::DelayWatches(700),
                Deed::CutNetwork(700),
                Deed::User(Act::Suspend),
                Deed::User(Act::DeletePod(false)),
                Deed::User(Act::DeletePod(true)),
                Deed::User(Act::Recreate),
            ],
            Deed::Kill,
        );
        let n = nth(rng, most);
        let after =
            matches!(deed, Deed::Lose) || (rng.bool() && !matches!(deed, Deed::Refuse(_) | Deed::Hold(..)));
        let at = if after { Moment::After(What::Write, n) } else { Moment::Before(What::Write, n) };
        plan.at(at, deed);
    }
    if rng.bool() {
        let mishap = one_of(rng, &[Mishap::NeverStarted, Mishap::Evicted, Mishap::Killed], Mishap::Evicted);
        plan.mishaps.insert(nth_iteration(rng, count), mishap);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

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
