//! The contract between agentloop's operator and its runner.
//!
//! The operator mounts a [`context::Context`] into the pod. The runner answers with a [`report::Report`] in the
//! container's termination message, and with the container's [exit code](exit_code). Both programs use the types of
//! this crate, so neither can misread the other. This crate does no input or output.
//!
//! Some types have a twin of the same meaning in the operator's API (`agentloop_core::api`): [`report::Change`],
//! [`report::Usage`], [`completion_gate::CompletionGate`], [`context::Policy`], [`context::LoopContext`] and
//! [`context::Verify`]. They are separate on purpose, and the operator maps them by hand. The contract changes with
//! [`context::VERSION`] and [`report::VERSION`], and a pod keeps the runner that it was created with; the API changes
//! with its own version and carries defaults, bounds and descriptions for users. A change of one must not change the
//! other unnoticed.

pub mod completion_gate;
pub mod context;
pub mod error;
pub mod exit_code;
pub mod hex;
pub mod mac;
pub mod names;
pub mod report;
pub mod text;
