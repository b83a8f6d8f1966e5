//! End-to-end tests: real kubelets and containers, the operator installed by Helm.
//!
//! [`TestNamespace`] is where a test works: a namespace of its own under the restricted pod security standard, removed
//! after success and kept, with a report, after failure. A test writes a [`Task`] with a scripted agent,
//! waits for what the API shows ([`TaskSnapshot`]), and counts pods from [`History`], a watch that was open
//! before the task existed. Nothing here uses the operator's own code: the tests observe the API from outside.

mod cluster;
mod history;
mod node;
mod operator;
mod task;
mod task_snapshot;
mod test_namespace;
mod wait;

pub use cluster::{Cluster, Output};
pub use history::{History, PodRecord};
pub use node::Node;
pub use operator::Operator;
pub use task::Task;
pub use task_snapshot::TaskSnapshot;
pub use test_namespace::TestNamespace;
pub use wait::{PATIENCE, eventually, iterations};
