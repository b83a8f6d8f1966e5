//! Tests of the operator against a real API server.
//!
//! Run them with `make test-api`, or with `cargo test -p agentloop --features api-tests --test api`:
//! `AGENTLOOP_TEST_KUBECONFIG` names the cluster. The current kubectl context is never used.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers fail by panicking"
)]

mod faults;
mod faulty;
mod guards;
mod injection;
mod kubelet;
mod leader;
mod load;
mod loops;
mod memory;
mod namespace;
mod newborn;
mod panics;
mod process;
mod refused;
mod relay;
mod releases;
mod retries;
mod rights;
mod schema;
mod slow;
mod specs;
mod transitions;
mod uninstall;
mod waiting;
