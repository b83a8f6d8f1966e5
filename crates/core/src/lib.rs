//! The rules of agentloop. This crate is pure: it has no client, no clock, no threads and no randomness.
//!
//! Data flows in one direction:
//!
//! ```text
//! AgentTask + pods + settings ──► facts ──► decide ──► new status, actions, requeue
//!      (api)      (facts)     (settings)     │
//!                                            └── outcome (of one ended pod) · rules (stops) · message (text)
//! ```
//!
//! * [`api`]: the `AgentTask` resource: spec, status and schema.
//! * [`settings`]: the settings in the operator's ConfigMap, checked.
//! * [`facts`]: the facts that the rules read from a pod.
//! * [`decide`]: the decision: the new status and the actions.
//! * [`sync`]: one reconcile, as a state machine without I/O that returns one request at a time.
//! * [`pod`]: builds the pod of an iteration and the workspace PVC of a task.
//! * [`rejection`]: what a rejection of a pod by the API server means.
//! * [`resume`]: the changes of a spec that resume a stopped task.
//! * [`message`]: every sentence and command that a person reads.

// Times and numbers come from outside, and the plain operators panic if a result does not fit: those of jiff in every
// build, those of integers in debug builds. Use checked or saturating operations.
#![deny(clippy::arithmetic_side_effects)]

pub mod api;
pub mod decide;
pub mod facts;
pub mod message;
pub mod pod;
pub mod rejection;
pub mod resume;
pub mod settings;
pub mod sync;
mod time;
