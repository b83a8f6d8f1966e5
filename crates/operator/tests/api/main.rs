//! The operator's periphery against a real API server.
//!
//! What needs a server runs only where it is asked for: `cargo test -p agentloop --test api -- --include-ignored`.
//! `AGENTLOOP_TEST_KUBECONFIG` names the cluster: never the one that a person's own context points at.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers fail by panicking"
)]

mod guards;
mod leader;
mod process;
mod relay;
mod uninstall;
mod world;
