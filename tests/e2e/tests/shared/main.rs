//! Tests that share the operator that `hack/e2e up` installed and do not disturb it. They run in parallel, each in its own
//! namespace.

mod bounds;
mod breaker;
mod forged;
mod input;
mod kubelet;
mod many;
mod newborn;
mod plugin;
mod pods;
mod start;
mod streams;
mod waiting;
mod workspace;
