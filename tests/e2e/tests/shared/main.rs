//! What the operator that `hack/e2e up` installed does, and nobody disturbs: side by side, a namespace for each test.

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
