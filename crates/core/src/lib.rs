//! The rules of agentloop, pure: nothing here has a client, a clock, threads or randomness.
//!
//! Data flows one way:
//!
//! ```text
//! AgentTask + pods + settings ──► facts ──► decide ──► new status, actions, when to look again
//!      (api)      (facts)     (settings)     │
//!                                            └── judge (one ended pod) · stop (verdict) · message (words)
//! ```
//!
//! * [`api`]: the `AgentTask` as users see it: spec, status, schema.
//! * [`settings`]: the ConfigMap's data read into checked settings.
//! * [`facts`]: what one pod tells, and no more.
//! * [`decide`]: the decision: what the status becomes and what is done.
//! * [`sync`]: one reconcile as a machine without I/O: which request comes next.
//! * [`pod`]: the pod of one iteration, and the volume claim of a task.
//! * [`refused`]: what it means that the API server refuses a pod.
//! * [`message`]: every sentence and command that a person reads.

// Times and numbers come from outside, and the plain operators panic where a result does not fit: jiff's in every
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
