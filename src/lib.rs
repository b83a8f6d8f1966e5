//! The shell around the rules of `agentloop-core`: everything of the operator that has a client, a clock or a socket.
//!
//! ```text
//! main ──► cli ──► app ──► lease ──► controller ──► write
//!                   │        (who works)   (the loop)   (bounded, guarded, counted)
//!                   ├──► http ◄── health, metrics
//!                   └──► shutdown
//! ```
//!
//! * [`cli`]: commands, flags and exit codes.
//! * [`app`]: what `agentloop controller` is put together from, and in which order it starts and ends.
//! * [`client`]: the two clients, one to read and one to write, and requests that end in time.
//! * [`write`](mod@write): every write of the protocol, with the precondition that guards it.
//! * [`namespaces`]: which namespaces are watched.
//! * [`lease`]: leader election.
//! * [`controller`]: the reconcile loop.
//! * [`health`], [`http`], [`metrics`], [`telemetry`]: what the outside sees of the process.
//! * [`uninstall`]: the uninstall hook.
//! * [`shutdown`]: from signals to a graceful end.

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
pub mod write;

/// Who the operator says it is: field manager of its writes, and the start of its user agent.
pub const NAME: &str = "agentloop";
