//! What can happen to agentloop's rules, searched exhaustively within bounds.
//!
//! agentloop promises an exact count. This crate shows that no crash, race or fault breaks it, within the bounds of each
//! search: it models a small world around the *real* state machines (`agentloop_core::sync`), `decide` and
//! `PodFacts::of`, and stateright visits every state that this world can reach.
//!
//! Each file uses only files above it:
//!
//! | What | Where |
//! |---|---|
//! | times, step counts and limits | `bounds` |
//! | the cluster's objects in small numbers; the names of the real ones | `api`, `names` |
//! | every status that was decided, once | `statuses` |
//! | the real task, pods and facts that `decide` is given | `objects` |
//! | how the operator is broken on purpose | `variants` |
//! | the input of a decision, and what was decided | `decision` |
//! | the handles by which the machines name modelled objects; a state of the world; what is behind the handles | `handles`, `state`, `environment` |
//! | what must hold, checked against what really happened | `invariants` |
//! | API server: versions, conflicts, finalizers, garbage collection, delayed writes | `server` |
//! | scheduler, kubelets, silent nodes; users and administrators | `kubelet`, `user` |
//! | what can happen to a request | `requests` |
//! | the caches around the operator's machines, and the uninstall: each request is one transition | `operator`, `orphans`, `uninstall` |
//! | bounds of one search | `scenario` |
//! | what each transition does; which ones are possible | `system`, `transitions` |
//! | how the world continues without faults, and that everything ends well then | `fair`, `liveness` |
//! | the search, and a counterexample as text | `model`, `trace`, `search` |
//! | every scenario; the smallest scenario that finds each broken variant | `scenarios`, `cases` |
//!
//! Time is not counted: a wait is still to come, or over. Versions are compared and never counted. So the number of
//! states is finite, and the budget of faults and user actions of a scenario bounds it.
//!
//! S1 to S7 and S9 to S12 are checked at every transition. L1, L2 and S8 are checked by following a state along fair
//! schedules until the world is at rest, from every state or from a sample of them (`liveness_sample`). A fair schedule
//! wakes the operator only when the shell would.
#![allow(clippy::expect_used, clippy::indexing_slicing)]

mod api;
mod bounds;
mod cases;
mod decision;
mod environment;
mod fair;
mod handles;
mod invariants;
mod kubelet;
mod liveness;
mod model;
mod names;
mod objects;
mod operator;
mod orphans;
mod requests;
mod scenario;
mod scenarios;
mod search;
mod server;
mod state;
mod statuses;
mod system;
mod trace;
mod transitions;
mod uninstall;
mod user;
mod variants;

pub use agentloop_test_support::invariants::Invariant;
pub use cases::{VariantCase, cases};
pub use scenario::Scenario;
pub use scenarios::all;
pub use search::{SearchResult, search};
pub use variants::Variant;
