//! How much a run measures.

use std::time::Duration;

/// The size of a run.
#[derive(Clone, Debug)]
pub struct Size {
    /// Rounds of each load.
    pub rounds: u32,
    /// Iterations of the single loop, and of a Job, which needs a second for each.
    pub one_loop: usize,
    /// See [`Size::one_loop`].
    pub one_job: usize,
    /// Loops with agents that run for seconds, and iterations of each.
    pub paced: (usize, usize),
    /// How long these agents run, in ms: the shortest and the longest.
    pub agent_ms: (u64, u64),
    /// Loops whose agents end immediately, and iterations of each.
    pub saturated: (usize, usize),
    /// Idle tasks, step by step.
    pub idle: Vec<usize>,
    /// Loops beside the idle tasks, and iterations of each.
    pub beside: (usize, usize),
    /// Pods that end while the operator is down.
    pub ended_meanwhile: usize,
    /// Measure the loss of the leader, which takes as long as a Lease lives.
    pub leader_loss: bool,
}

impl Size {
    /// What `make bench` measures.
    pub fn full() -> Self {
        Self {
            rounds: 3,
            one_loop: 200,
            one_job: 20,
            paced: (60, 10),
            agent_ms: (1500, 4500),
            saturated: (200, 10),
            idle: vec![10, 100, 1000, 2000, 5000, 10_000],
            beside: (50, 10),
            ended_meanwhile: 50,
            leader_loss: true,
        }
    }

    /// What `make bench-quick` measures: the same loads, smaller, so that it takes less than three minutes.
    pub fn quick() -> Self {
        Self {
            rounds: 1,
            one_loop: 30,
            one_job: 3,
            paced: (30, 2),
            agent_ms: (1500, 3000),
            saturated: (50, 6),
            idle: vec![10, 200, 1000],
            beside: (20, 5),
            ended_meanwhile: 20,
            leader_loss: false,
        }
    }

    /// How long the agent of a paced loop's iteration runs: another time for each, the same in every run.
    pub fn agent_time(&self, name: &str, number: usize) -> Duration {
        let mut seed = number as u64;
        for byte in name.bytes() {
            seed = seed.wrapping_mul(31).wrapping_add(u64::from(byte));
        }
        let (shortest, longest) = self.agent_ms;
        Duration::from_millis(fastrand::Rng::with_seed(seed).u64(shortest..=longest))
    }
}
