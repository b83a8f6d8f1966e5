//! The chaos campaign: the shipped operator, a real API server, and thousands of fault plans.
//!
//! A [`plan`] is one task, what its agents do, and the faults that happen meanwhile. The operator is killed before or
//! after any of its writes, responses are lost, creations arrive minutes late, caches are stale, clocks step, two
//! operators work at the same time, users suspend, delete and change limits, nodes are lost. A plan depends only on a seed
//! and a number. Its faults happen at moments such as "before write 7", never at a time. Two concurrent requests may still
//! arrive in a different order, but most plans repeat exactly.
//!
//! The operator runs as its own process, as it is shipped. It connects to a [`proxy`], where the [`nemesis`] injects
//! the faults. The server has no kubelet: [`kubelet`] runs every pod that may run, without checking whether it should,
//! and records what each agent did ([`ground_truth`]). An [`experiment`] is the state that they share.
//!
//! The [`checker`] reads two things: every write that the server recorded, from watches that were open before the plan
//! began ([`history`]), and what the agents really did. It keeps its own count and compares each status with it. It never
//! uses anything that the operator reports.
//!
//! | Invariant | How the checker looks for it |
//! |---|---|
//! | S1 | after each write at most one pod of a task's name is neither gated nor ended; no agent is executed while another runs |
//! | S2 | active iterations and executions are contiguous; an iteration is executed again only after a free attempt; a scheduling gate is removed only while the iteration is active; a foreign pod is never changed |
//! | S3 | each active iteration is within the limit in the spec of the same version |
//! | S4 | the count, both streaks and every charge match what the agents did; a pod loses its finalizer only after it was settled |
//! | S5 | no iteration becomes active while the task is suspended, has stopped or should have stopped; the rules require every stop |
//! | S6 | at each write the phase is IterationLimitReached exactly when it must be |
//! | S7 | after the limit was raised, the next active iteration is the next number (with S2) |
//! | S8 | after the task's deletion its pods are deleted |
//! | L1 | after the last fault the task comes to rest in the stop that the rules require |
//! | L2 | then nothing is written anymore |
//! | L3 | while every status write is refused, the operator sends ever fewer requests |
//!
//! The self-test shows that the checker detects what it should: [`mutations`] change the traffic in the proxy, so that
//! the operator behaves like a broken one. Some mutations cannot be shown, because CEL rules in the CRD refuse them: an
//! active iteration beyond `maxIterations`, a count that falls or grows by two, and a task that leaves Succeeded.
//!
//! Run it with `make chaos`, `make test-chaos` and `make endurance`.

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
pub mod testbed;
pub mod user;
