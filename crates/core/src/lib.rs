//! The rules of agentloop, pure: nothing here has a client, a clock, threads or randomness.
//!
//! Data flows in one direction:
//!
//! ```text
//! AgentTask + pods + settings ──► facts ──► decide ──► new status, actions, requeue
//!      (api)      (facts)     (settings)     │
//!                                            └── outcome (of one ended pod) · rules (stops) · message (text)
//! ```
//!
//! * [`api`]: the `AgentTask` as users see it: spec, status, schema.
//! * [`settings`]: the ConfigMap's data read into checked settings.
//! * [`facts`]: what the rules read from a pod, and no more.
//! * [`decide`]: the decision: the new status and the actions.
//! * [`sync`]: one reconcile as a state machine without I/O that yields one request at a time.
//! * [`pod`]: the pod of an iteration, and the workspace PVC of a task.
//! * [`refused`]: what a rejection of a pod by the API server means.
//! * [`message`]: every sentence and command that a person reads.

// Times and numbers come from outside, and the plain operators panic if a result does not fit: jiff's in every
// build, those of integers in debug builds. Use checked or saturating ones.
#![deny(clippy::arithmetic_side_effects)]

pub mod api;
pub mod decide;
pub mod facts;
pub mod message;
pub mod pod;
pub mod refused;
pub mod settings;
pub mod sync;
mod time;
