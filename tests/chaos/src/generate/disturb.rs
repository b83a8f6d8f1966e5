//! Chooses the faults of a plan by its kind.

use fastrand::Rng;

use crate::plan::{
    AgentWork, InjectedFault, Meanwhile, Moment, Plan, PlanKind, PodFault, RequestKind, Until, UserAction,
};

/// The number of the operator's writes in a plan of this many iterations without faults. The first iteration takes a
/// status write, the creation and the removal of the scheduling gate. Each later one also takes the removal of the
/// previous pod's finalizer. At the end, a status write and the removal of the last finalizer follow.
pub(super) fn writes(iterations: i32) -> u32 {
    u32::try_from(iterations).unwrap_or(1) * 4 + 1
}

fn nth(rng: &mut Rng, max: u32) -> u32 {
    rng.u32(1..=max.max(1))
}

/// Before or after the n-th write.
fn around(rng: &mut Rng, n: u32) -> Moment {
    if rng.bool() { Moment::Before(RequestKind::Write, n) } else { Moment::After(RequestKind::Write, n) }
}

fn one_of<T: Clone>(rng: &mut Rng, choices: &[T], other: T) -> T {
    rng.choice(choices.iter()).cloned().unwrap_or(other)
}

/// One request after the other, so that each of them is disturbed.
fn every(place: u64, max: u32) -> u32 {
    u32::try_from(place % u64::from(max.max(1))).unwrap_or(0) + 1
}

#[allow(clippy::too_many_lines, reason = "one arm for each kind of plan")]
pub(super) fn disturb(plan: &mut Plan, rng: &mut Rng, place: u64) {
    let count = plan.iterations();
    let last_write = writes(count);
    let some_write = |rng: &mut Rng| nth(rng, last_write);
    match plan.kind {
        PlanKind::Calm => {}
        PlanKind::KillBefore => {
            plan.at(Moment::Before(RequestKind::Write, every(place, last_write)), InjectedFault::Kill);
        }
        PlanKind::KillAfter => {
            plan.at(Moment::After(RequestKind::Write, every(place, last_write)), InjectedFault::Kill);
        }
        PlanKind::KillTwice => {
            // All pairs of the first thirteen writes, each before or after: a task of three iterations has thirteen.
            let first = u32::try_from(place % 13).unwrap_or(0) + 1;
            let second = first + u32::try_from(place / 13 % 13).unwrap_or(0);
            let side = |after: bool, n| {
                if after {
                    Moment::After(RequestKind::Write, n)
                } else {
                    Moment::Before(RequestKind::Write, n)
                }
            };
            plan.at(side(rng.bool(), first), InjectedFault::Kill);
            plan.at(side(rng.bool(), second), InjectedFault::Kill);
        }
        PlanKind::LostAnswer => {
            plan.at(Moment::After(RequestKind::Write, every(place, last_write)), InjectedFault::Lose);
            if rng.bool() {
                plan.at(Moment::After(RequestKind::Write, some_write(rng)), InjectedFault::Lose);
            }
        }
        PlanKind::RefusedWrite => refuse(plan, rng, RequestKind::Write, every(place / 5, last_write), place),
        PlanKind::RefusedForLong => {
            let code = one_of(rng, &[409, 429, 500, 503], 500);
            // Each iteration has one status write, and the last one has another at its end.
            let n = every(place, u32::try_from(count).unwrap_or(1) + 1);
            plan.at(Moment::Before(RequestKind::Status, n), InjectedFault::RefuseStatuses(code, 10_000));
        }
        PlanKind::RefusedRead => {
            refuse(
                plan,
                rng,
                RequestKind::Read,
                every(place / 5, u32::try_from(count).unwrap_or(1) + 4),
                place,
            );
        }
        PlanKind::DeferredCreate => {
            plan.task.history_limit = one_of(rng, &[0, 0, 1], 0);
            let until = one_of(rng, &[Until::MovedOn, Until::Stopped], Until::MovedOn);
            let meanwhile = one_of(rng, &[Meanwhile::Cut, Meanwhile::Kill, Meanwhile::Wait], Meanwhile::Cut);
            let create = nth(rng, u32::try_from(count).unwrap_or(1));
            plan.at(Moment::Before(RequestKind::Create, create), InjectedFault::Defer(until, meanwhile));
            if rng.bool() {
                plan.at(Moment::After(RequestKind::Write, some_write(rng)), InjectedFault::Kill);
            }
        }
        PlanKind::DeferredForMinutes => {
            plan.task.history_limit = 0;
            let create = nth(rng, u32::try_from(count).unwrap_or(1));
            plan.at(
                Moment::Before(RequestKind::Create, create),
                InjectedFault::Defer(Until::Millis(rng.u64(60_000..100_000)), Meanwhile::Wait),
            );
        }
        PlanKind::DeferredWrite => {
            let until = one_of(rng, &[Until::MovedOn, Until::Stopped, Until::Millis(700)], Until::MovedOn);
            let meanwhile = one_of(rng, &[Meanwhile::Cut, Meanwhile::Kill], Meanwhile::Cut);
            plan.at(
                Moment::Before(RequestKind::Write, every(place, last_write)),
                InjectedFault::Defer(until, meanwhile),
            );
        }
        PlanKind::Watches => {
            for _ in 0..nth(rng, 3) {
                let fault = one_of(
                    rng,
                    &[
                        InjectedFault::CutWatches,
                        InjectedFault::ExpireWatches,
                        InjectedFault::DelayWatches(400),
                        InjectedFault::DelayWatches(1500),
                    ],
                    InjectedFault::CutWatches,
                );
                let at = one_of(
                    rng,
                    &[Moment::Before(RequestKind::Write, last_write / 2), Moment::Running(1)],
                    Moment::Running(1),
                );
                let at = if rng.bool() { Moment::After(RequestKind::Write, some_write(rng)) } else { at };
                plan.at(at, fault);
            }
        }
        PlanKind::StaleLists => {
            let remember = every(place, last_write - 1);
            plan.at(Moment::After(RequestKind::Write, remember), InjectedFault::KeepLists);
            let kill = rng.u32(remember + 1..=last_write);
            plan.at(Moment::After(RequestKind::Write, kill), InjectedFault::KillAndServeStaleLists);
        }
        PlanKind::DelayedCreate => delayed_create(plan, rng),
        PlanKind::Network => {
            let fault = InjectedFault::CutNetwork(one_of(rng, &[300, 1000, 3000], 1000));
            let at = if rng.bool() {
                Moment::Running(nth_iteration(rng, count))
            } else {
                Moment::Before(RequestKind::Write, some_write(rng))
            };
            plan.at(at, fault);
        }
        PlanKind::Freeze => {
            let n = every(place, last_write);
            let until = one_of(
                rng,
                &[Until::Millis(500), Until::Millis(2500), Until::Millis(6000)],
                Until::Millis(500),
            );
            let at = around(rng, n);
            let act = one_of(
                rng,
                &[UserAction::Suspend, UserAction::DeletePod(false), UserAction::Limit(plan.task.limit)],
                UserAction::Suspend,
            );
            if rng.bool() {
                plan.at(at, InjectedFault::User(act));
            }
            plan.at(at, InjectedFault::Freeze(until));
        }
        PlanKind::FreezeAndSecond => {
            plan.task.history_limit = one_of(rng, &[0, 1], 0);
            let n = every(place, last_write);
            let at = around(rng, n);
            plan.at(at, InjectedFault::StartSecondOperator);
            plan.at(
                at,
                InjectedFault::Freeze(one_of(rng, &[Until::MovedOn, Until::Stopped], Until::MovedOn)),
            );
        }
        PlanKind::TwoOperators => {
            plan.operators = 2;
            for _ in 0..nth(rng, 3) {
                let n = nth(rng, last_write + 4);
                let at = around(rng, n);
                let fault = one_of(
                    rng,
                    &[
                        InjectedFault::Pause(Until::Writes(1)),
                        InjectedFault::Pause(Until::Writes(3)),
                        InjectedFault::Pause(Until::MovedOn),
                        InjectedFault::DelayWatches(500),
                        InjectedFault::Kill,
                        InjectedFault::Freeze(Until::MovedOn),
                    ],
                    InjectedFault::Kill,
                );
                plan.at(at, fault);
            }
        }
        PlanKind::Takeover => {
            plan.operators = 2;
            plan.lease = true;
            let fault = one_of(
                rng,
                &[
                    InjectedFault::Kill,
                    InjectedFault::CutNetwork(14_000),
                    InjectedFault::Freeze(Until::MovedOn),
                ],
                InjectedFault::Kill,
            );
            plan.at(Moment::After(RequestKind::Write, some_write(rng)), fault);
        }
        PlanKind::Clock => clock(plan, rng),
        PlanKind::Limit => limit(plan, rng),
        PlanKind::Suspend => {
            for _ in 0..nth(rng, 2) {
                let at = user_moment(rng, count, last_write);
                plan.at(at, InjectedFault::User(UserAction::Suspend));
            }
            and_a_kill(plan, rng);
        }
        PlanKind::Token => {
            plan.at(Moment::Stopped(1), InjectedFault::User(UserAction::Token));
            if rng.bool() {
                let at = user_moment(rng, count, last_write);
                plan.at(at, InjectedFault::User(UserAction::Token));
            }
            and_a_kill(plan, rng);
        }
        PlanKind::Delete => {
            let at = user_moment(rng, count, last_write);
            plan.at(at, InjectedFault::User(UserAction::Delete));
            and_a_kill(plan, rng);
        }
        PlanKind::Recreate => {
            let at = user_moment(rng, count, last_write);
            plan.at(at, InjectedFault::User(UserAction::Recreate));
            and_a_kill(plan, rng);
        }
        PlanKind::DeletedPod => {
            let at = user_moment(rng, count, last_write);
            plan.at(at, InjectedFault::User(UserAction::DeletePod(rng.bool())));
            and_a_kill(plan, rng);
        }
        PlanKind::Kubelet => {
            for _ in 0..nth(rng, 2) {
                let pod_fault = one_of(
                    rng,
                    &[PodFault::NeverStarted, PodFault::Evicted, PodFault::Killed, PodFault::NodeLost],
                    PodFault::Evicted,
                );
                plan.pod_faults.insert(nth_iteration(rng, count), pod_fault);
            }
            and_a_kill(plan, rng);
        }
        PlanKind::ForeignPod => {
            plan.at(
                Moment::Before(RequestKind::Create, nth(rng, u32::try_from(count).unwrap_or(1))),
                InjectedFault::User(UserAction::ForeignPod),
            );
            and_a_kill(plan, rng);
        }
        PlanKind::Mixed => mixed(plan, rng),
    }
}

fn nth_iteration(rng: &mut Rng, count: i32) -> i32 {
    rng.i32(1..=count.max(1))
}

/// When the user does something: around any write, or while an agent runs.
fn user_moment(rng: &mut Rng, count: i32, last_write: u32) -> Moment {
    match rng.u32(..3) {
        0 => Moment::Running(nth_iteration(rng, count)),
        1 => Moment::Before(RequestKind::Write, nth(rng, last_write)),
        _ => Moment::After(RequestKind::Write, nth(rng, last_write)),
    }
}

/// In half of the plans, the operator is also killed.
fn and_a_kill(plan: &mut Plan, rng: &mut Rng) {
    if rng.bool() {
        let n = nth(rng, writes(plan.iterations()) + 2);
        let at = around(rng, n);
        plan.at(at, InjectedFault::Kill);
    }
}

fn refuse(plan: &mut Plan, rng: &mut Rng, what: RequestKind, n: u32, place: u64) {
    let faults = [
        InjectedFault::Refuse(409),
        InjectedFault::Refuse(429),
        InjectedFault::Refuse(500),
        InjectedFault::Refuse(503),
        InjectedFault::Stall,
    ];
    let fault = faults.get(usize::try_from(place % 5).unwrap_or(0)).cloned().unwrap_or(InjectedFault::Stall);
    plan.at(Moment::Before(what, n), fault.clone());
    if rng.bool() && fault != InjectedFault::Stall {
        plan.at(Moment::Before(what, n + 1), fault);
    }
}

/// A creation arrives long after its iteration is over, and an operator that starts at that moment is served lists from
/// the start of the iteration. Only a consistent read shows that the pod must not run.
fn delayed_create(plan: &mut Plan, rng: &mut Rng) {
    plan.task.history_limit = 0;
    let create = nth(rng, u32::try_from(plan.iterations()).unwrap_or(1));
    plan.at(Moment::Before(RequestKind::Create, create), InjectedFault::DelayCreate);
}

fn clock(plan: &mut Plan, rng: &mut Rng) {
    // Far enough for every timer, but not so far that a task waits for long: the operator compares the clock with
    // times that it wrote into the status, so a clock that is set back by an hour makes a task wait for an hour.
    let step = |rng: &mut Rng| one_of(rng, &[-15, -3, 4, 10, 3600, 86_400], 10);
    let patient = plan.works.contains(&AgentWork::Refused);
    let step = |rng: &mut Rng| if patient { step(rng).min(10) } else { step(rng) };
    plan.clock = step(rng);
    let last_write = writes(plan.iterations());
    let n = nth(rng, last_write);
    let seconds = step(rng);
    plan.at(Moment::After(RequestKind::Write, n), InjectedFault::Clock(seconds));
    plan.at(Moment::After(RequestKind::Write, rng.u32(n..=last_write)), InjectedFault::Clock(0));
    if rng.bool() {
        let n = nth(rng, last_write);
        plan.at(Moment::Before(RequestKind::Write, n), InjectedFault::Kill);
    }
}

fn limit(plan: &mut Plan, rng: &mut Rng) {
    let count = plan.iterations();
    let last_write = writes(count);
    let at = user_moment(rng, count, last_write);
    match rng.u32(..4) {
        0 => plan.at(at, InjectedFault::User(UserAction::Limit(plan.task.limit + 1))),
        1 => {
            plan.at(at, InjectedFault::User(UserAction::Limit(1)));
            plan.at(Moment::Stopped(1), InjectedFault::User(UserAction::Limit(plan.task.limit)));
        }
        2 => plan.at(at, InjectedFault::User(UserAction::Limit(nth_iteration(rng, count)))),
        _ => {
            plan.at(Moment::Stopped(1), InjectedFault::User(UserAction::Limit(plan.task.limit + 1)));
            plan.at(Moment::Stopped(2), InjectedFault::User(UserAction::Limit(plan.task.limit + 2)));
        }
    }
    and_a_kill(plan, rng);
}

fn mixed(plan: &mut Plan, rng: &mut Rng) {
    let count = plan.iterations();
    let last_write = writes(count) + 3;
    plan.operators = one_of(rng, &[1, 1, 2], 1);
    for _ in 0..rng.u32(2..=4) {
        let fault = one_of(
            rng,
            &[
                InjectedFault::Kill,
                InjectedFault::Kill,
                InjectedFault::Lose,
                InjectedFault::Refuse(409),
                InjectedFault::Refuse(500),
                InjectedFault::Refuse(503),
                InjectedFault::Defer(Until::MovedOn, Meanwhile::Cut),
                InjectedFault::Pause(Until::Writes(1)),
                InjectedFault::Freeze(Until::Millis(800)),
                InjectedFault::CutWatches,
                InjectedFault::DelayWatches(700),
                InjectedFault::CutNetwork(700),
                InjectedFault::User(UserAction::Suspend),
                InjectedFault::User(UserAction::DeletePod(false)),
                InjectedFault::User(UserAction::DeletePod(true)),
                InjectedFault::User(UserAction::Recreate),
            ],
            InjectedFault::Kill,
        );
        let n = nth(rng, last_write);
        let after = matches!(fault, InjectedFault::Lose)
            || (rng.bool() && !matches!(fault, InjectedFault::Refuse(_) | InjectedFault::Defer(..)));
        let at =
            if after { Moment::After(RequestKind::Write, n) } else { Moment::Before(RequestKind::Write, n) };
        plan.at(at, fault);
    }
    if rng.bool() {
        let pod_fault =
            one_of(rng, &[PodFault::NeverStarted, PodFault::Evicted, PodFault::Killed], PodFault::Evicted);
        plan.pod_faults.insert(nth_iteration(rng, count), pod_fault);
    }
}
