//! What the tests of agentloop share.
//!
//! Nothing that ships depends on this package, and it uses neither the operator nor the rules. The checkers of the
//! tests stay independent of each other on purpose: they share the [names of the invariants](invariants), not the
//! code that checks them.

#[cfg(feature = "eventually")]
pub mod eventually;
pub mod invariants;
pub mod json;
pub mod pods;
