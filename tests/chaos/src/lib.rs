//! The campaign: the shipped operator, the real API server, and thousands of planned disasters.
//!
//! A [`plan`] is one task with what its agents do, and everything that befalls it: the operator is killed
//! before or after any of its writes, answers are lost, creations arrive minutes late, caches are old, clocks
//! step, two operators work at once, people suspend, delete and change limits, nodes are lost. A plan is a
//! function of a seed and a number; its faults hang on moments such as "before write 7", never on a time. A
//! concurrent machine may still order two requests otherwise; most plans repeat exactly.
//!
//! The operator runs as its own process, as it is shipped. What it takes for the API server is a [`proxy`],
//! and a [`nemesis`] decides there what becomes of each request. The server has no kubelet: [`kubelet`] runs
//! whatever pod may run, without asking whether it should, and notes what each agent did ([`ground_truth`]).
//!
//! The [`checker`] reads two things: every write that the server saw, from watches that were open before the
//! plan began ([`history`]), and what the agents really did. It counts for itself, and holds each status
//! against its count. It never asks the operator.
//!
//! | Invariant | How the checker looks for it |
//! |---|---|
//! | S1 | after each write at most one pod of a task's name is neither gated nor ended; no agent is executed while another runs |
//! | S2 | claims and executions are contiguous; an iteration is executed again only after an attempt that is free; a gate goes only while the claim stands; a pod of somebody else's is not touched |
//! | S3 | each claim is within the limit that stood in the spec of that very version |
//! | S4 | the count, both streaks and every charge are those of what the agents did; a pod is let go only after it was settled |
//! | S5 | nothing is claimed while suspended, or by a task that is or should be stopped; a stop is called for by a rule |
//! | S6 | at each write the phase says IterationLimitReached exactly when it must |
//! | S7 | after a raised limit the next claim is the next number (with S2) |
//! | S8 | after the task's deletion its pods go |
//! | L1 | when nothing more happens, the task is at rest in the stop that the rules call for |
//! | L2 | then nothing is written any more |
//! | L3 | while every status is refused, requests come ever more rarely |
//!
//! That the campaign sees what it should is tried with [`mutations`]: the proxy makes a broken operator of a whole
//! one. Some mutations cannot be shown, because the server refuses them: a claim beyond `maxIterations`, a count
//! that goes back or by two, and a Succeeded that is taken back are refused by rules in the definition.
//!
//! Run it with `make chaos`, `make test-chaos` and `make endurance`.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub mod buffered;
pub mod campaign;
pub mod checker;
pub mod classify;
pub mod endurance;
pub mod experiment;
pub mod generate;
pub mod ground_truth;
pub mod history;
pub mod kubelet;
pub mod launch;
pub mod mutations;
pub mod nemesis;
pub mod network;
pub mod operator;
pub mod plan;
pub mod proxy;
pub mod refusals;
pub mod regressions;
pub mod report;
pub mod runner;
pub mod schedule;
pub mod self_test;
pub mod server;
pub mod stale_lists;
pub mod user;
pub mod world;

/// Locks it, whatever became of those that held it before: a plan is judged by the server's history.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
