//! End-to-end tests: real kubelets and containers, the operator installed by Helm.
//!
//! [`Lab`] is where a test works: a namespace of its own under the restricted pod security standard, removed
//! after success and kept, with a report, after failure. A test writes a [`Task`] with a scripted agent,
//! waits for what the API shows of it ([`Seen`]), and counts pods from [`History`], a watch that was open
//! before the task existed. Nothing here uses the operator's own code: the API is judged from outside.

mod cluster;
mod history;
mod lab;
mod node;
mod operator;
mod seen;
mod task;
mod wait;

pub use cluster::{Cluster, Output};
pub use history::{History, PodSeen};
pub use lab::Lab;
pub use node::Node;
pub use operator::Operator;
pub use seen::Seen;
pub use task::Task;
pub use wait::{PATIENCE, eventually, iterations};
