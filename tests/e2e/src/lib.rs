//! End-to-end tests: real kubelets and containers, the operator installed by Helm.
//!
//! [`TestNamespace`] is where a test works: a namespace of its own under the restricted pod security standard, removed
//! after success and kept, with a report, after failure. A test writes a [`TaskManifest`] with a scripted agent, waits
//! until the API shows a certain state ([`TaskSnapshot`]), and counts pods from [`History`], a watch that was open before
//! the task existed. Nothing here uses the operator's own code: the tests observe the API from outside.

mod cluster;
mod history;
mod node;
mod operator;
mod task;
mod task_snapshot;
mod test_namespace;
mod wait;

pub use cluster::{Cluster, ProgramOutput};
pub use history::{History, PodRecord};
pub use node::Node;
pub use operator::OperatorRelease;
pub use task::{TaskManifest, pvc};
pub use task_snapshot::{DONE, LIMIT, TaskSnapshot};
pub use test_namespace::TestNamespace;
pub use wait::{PATIENCE, eventually, iterations};
