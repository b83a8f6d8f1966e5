//! The campaign: the shipped operator, the real API server, and thousands of planned disasters.

pub mod breaks;
pub mod call;
pub mod campaign;
pub mod director;
pub mod endurance;
pub mod history;
pub mod json;
pub mod judge;
pub mod kubelet;
pub mod make;
pub mod named;
pub mod operator;
pub mod plan;
pub mod proxy;
pub mod report;
pub mod runner;
pub mod seen;
pub mod server;
pub mod truth;
pub mod user;
pub mod world;
