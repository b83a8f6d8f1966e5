//! Reading what a process, the API server and etcd have done.

pub mod counters;
pub mod exposition;
pub mod process;
