//! Tests of every command against a real API server: the program as its users run it.
//!
//! Run them with `make test-api`, or with `cargo test -p kubectl-agentloop --features api-tests --test api`:
//! `AGENTLOOP_TEST_KUBECONFIG` names the cluster. The current kubectl context is never used.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers fail by panicking"
)]

mod change;
mod cluster;
mod complete;
mod doctor;
mod follow;
mod read;
mod reader;
mod rights;
mod screen;
