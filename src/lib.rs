//! The shell around the rules of `agentloop-core`: the parts of the operator that have a client, a clock or a socket.
//!
//! ```text
//! main ──► cli ──► app ──► lease ──► controller ──► write
//!                   │        (who works)   (the loop)   (bounded, guarded, counted)
//!                   ├──► http ◄── health, metrics
//!                   └──► shutdown
//! ```
//!
//! * [`cli`]: commands, flags and exit codes.
//! * [`app`]: the parts of `agentloop controller`, and the order in which they start and stop.
//! * [`client`]: the two clients, one to read and one to write, and requests with a timeout.
//! * [`write`](mod@write): every write of the protocol, with the precondition that guards it.
//! * [`namespaces`]: which namespaces are watched.
//! * [`lease`]: leader election.
//! * [`controller`]: the reconcile loop.
//! * [`health`], [`http`], [`metrics`], [`telemetry`]: what the process reports about itself.
//! * [`uninstall`]: the uninstall hook.
//! * [`shutdown`]: graceful shutdown on signals.

#[cfg(not(panic = "unwind"))]
compile_error!("the operator catches panics of single tasks: build it with panic = \"unwind\"");

pub mod app;
pub mod cli;
pub mod client;
pub mod controller;
pub mod health;
pub mod http;
pub mod lease;
pub mod metrics;
pub mod namespaces;
pub mod shutdown;
pub mod telemetry;
pub mod uninstall;
mod wire;
pub mod write;

/// The operator's name: the field manager of its writes, and the start of its user agent.
pub const NAME: &str = "agentloop";
