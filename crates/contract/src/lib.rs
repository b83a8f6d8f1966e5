//! What agentloop's operator and its runner say to each other.
//!
//! The operator hands the runner a [`context::Context`] as a mounted file; the runner answers with a
//! [`report::Report`] in the container's termination message. Both sides use the types of this crate,
//! so that neither can misread the other. Nothing here does any input or output.

pub mod completion_gate;
pub mod context;
pub mod error;
pub mod exit_code;
pub mod mac;
pub mod names;
pub mod report;
pub mod text;
