//! The benchmark: agentloop beside other ways to run the same loops, in one interleaved run.
//!
//! All [`arms`] are driven by one [`load`], a fake kubelet that runs pods without containers. What a time window cost is
//! read from the kernel, the API server and etcd ([`measure`]). Each of the [`parts`] writes raw samples as JSON lines
//! ([`records`]), and the [`report`] computes every figure from these lines alone.

pub mod api;
pub mod arms;
pub mod load;
pub mod measure;
pub mod parts;
pub mod records;
pub mod report;
pub mod stats;
pub mod world;
