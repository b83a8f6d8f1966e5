//! The `CustomResourceDefinition`, generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use super::AgentTask;

/// The definition that users install. `crds/` and the chart hold its rendering.
pub fn crd() -> CustomResourceDefinition {
    AgentTask::crd()
}
