//! A task and its agents, without faults.

use std::collections::BTreeMap;

use fastrand::Rng;

use crate::plan::{AgentWork, Plan, PlanKind, PlannedTask, PodFault};

/// A task and its agents.
pub(super) fn life(rng: &mut Rng, seed: u64, number: u64, kind: PlanKind) -> Plan {
    let count = [2, 2, 2, 2, 3, 3, 3, 4, 5, 6].get(rng.usize(..10)).copied().unwrap_or(2);
    let mut works: Vec<AgentWork> = (0..count).map(|_| AgentWork::Changed).collect();
    let mut task = PlannedTask {
        limit: count,
        no_change: 9,
        same_error: 9,
        history_limit: *rng.choice([0, 1, 10].iter()).unwrap_or(&10),
    };
    let last = works.len().saturating_sub(1);
    let ending = if kind == PlanKind::Token { 3 + rng.u32(..3) } else { rng.u32(..10) };
    match ending {
        0 => end_in(&mut works, &[AgentWork::Ready]),
        1 => {
            end_in(&mut works, &[AgentWork::Ready]);
            task.limit += 2;
        }
        3 => {
            end_in(&mut works, &[AgentWork::Unchanged, AgentWork::Unchanged]);
            task.no_change = 2;
            task.limit += 3;
        }
        4 => {
            end_in(&mut works, &[AgentWork::Error(1), AgentWork::Error(1)]);
            task.same_error = 2;
            task.limit += 3;
        }
        5 => {
            end_in(&mut works, &[AgentWork::Fatal]);
            task.limit += 3;
        }
        _ => {}
    }
    // The iterations before the last two must not end the loop.
    for work in works.iter_mut().take(last.saturating_sub(1)) {
        *work = match rng.u32(..12) {
            0 => AgentWork::Unchanged,
            1 => AgentWork::Error(rng.u8(2..4)),
            2 => AgentWork::Refused,
            _ => AgentWork::Changed,
        };
    }
    let mut pod_faults = BTreeMap::new();
    for iteration in 1..=count {
        if rng.u32(..3) == 0 {
            pod_faults.insert(iteration, PodFault::Late);
        }
    }
    Plan {
        seed,
        number,
        kind,
        task,
        works,
        pod_faults,
        operators: 1,
        lease: false,
        clock: 0,
        faults: Vec::new(),
    }
}

/// Sets what the agents of the last iterations do.
fn end_in(works: &mut [AgentWork], last: &[AgentWork]) {
    for (work, new) in works.iter_mut().rev().zip(last.iter().rev()) {
        *work = *new;
    }
}
