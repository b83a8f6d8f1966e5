//! What befalls the task of a plan, by the plan's kind.

use fastrand::Rng;

use crate::plan::{Act, Deed, Kind, Meanwhile, Mishap, Moment, Plan, Until, What, Work};

/// Writes of the operator in a quiet life of so many iterations: claim, create and start, then settle,
/// release, create and start for each further one, and the last settle and release.
pub(super) fn writes(iterations: i32) -> u32 {
    u32::try_from(iterations).unwrap_or(1) * 4 + 1
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
pub(super) fn disturb(plan: &mut Plan, rng: &mut Rng, place: u64) {
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
        Kind::RefusedForLong => {
            let code = one_of(rng, &[409, 429, 500, 503], 500);
            // A claim, and what becomes of it: two writes an iteration make one status write, and one more.
            let n = every(place, u32::try_from(count).unwrap_or(1) + 1);
            plan.at(Moment::Before(What::Status, n), Deed::RefuseStatuses(code, 10_000));
        }
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
