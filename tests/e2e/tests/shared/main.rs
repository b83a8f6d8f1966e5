//! Tests of the operator that `hack/e2e up` installed, undisturbed: they run side by side, each in a namespace.

mod bounds;
mod breaker;
mod forged;
mod input;
mod kubelet;
mod many;
mod newborn;
mod pods;
mod start;
mod streams;
mod waiting;
mod workspace;
