//! What can happen to agentloop's rules, searched exhaustively within bounds.
//!
//! agentloop's promise is a count. This crate shows that no crash, race or fault breaks it, as far as its bounds
//! reach: it builds a small world around the *real* machine (`agentloop_core::sync`), `decide` and `PodFacts::of`, and
//! has stateright visit every state that the world can get into.
//!
//! | What | Where |
//! |---|---|
//! | a state of the world, in small numbers | `state`; statuses are kept once, in `statuses` |
//! | the real task, pods and facts that `decide` is given; the question and what it decided | `objects`, `decision` |
//! | API server: versions, conflicts, finalizers, garbage collection, late writes | `server` |
//! | scheduler, kubelets, nodes that go silent | `kubelet` |
//! | users and administrators | `user` |
//! | the handles by which the operator's own machine names all this | `handles` |
//! | the caches around that machine, each request one step; what wakes the removal of orphaned pods | `operator`, `sweep` |
//! | all steps that there are; caches that lag, crashes | `model` |
//! | what must hold, judged by what really happened | `invariants` |
//! | that all ends well once nothing goes wrong any more | `liveness` |
//! | bounds: which faults, how many | `scenarios` |
//! | the operator broken on purpose, and the search that must see it | `variants`, `cases` |
//! | a counterexample in words | `trace` |
//!
//! Time is not counted: a wait is still to come, or over. Versions are compared and never counted. So the space is
//! finite, and a scenario's budget of faults and acts bounds it.
//!
//! S1 to S7 and S9 to S11 are checked at every step. L1, L2 and S8 are checked by following a state to its end without faults,
//! in the shell's own rhythm of wake-ups: in scenarios with `rests: 1` from every state, else from a share of them.
#![allow(clippy::expect_used, clippy::indexing_slicing)]

mod cases;
mod decision;
mod handles;
mod invariants;
mod kubelet;
mod liveness;
mod model;
mod objects;
mod operator;
mod scenarios;
mod search;
mod server;
mod state;
mod statuses;
mod sweep;
mod trace;
mod user;
mod variants;

pub use agentloop_test_support::invariants::Invariant;
pub use cases::{Case, cases};
pub use scenarios::{Scenario, all};
pub use search::{Found, search};
pub use variants::Variant;
