//! The `CustomResourceDefinition`, generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::CustomResourceExt;
use serde_json::json;

use super::{AgentTask, Phase};
use crate::message::NOT_SEEN;

/// The definition that users install. `crds/` and the chart hold its rendering.
///
/// The API server itself answers for a task that no operator has seen: its status has a default.
pub fn crd() -> CustomResourceDefinition {
    let mut crd = AgentTask::crd();
    let schemas = crd.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut());
    let properties = schemas.filter_map(|schema| schema.open_api_v3_schema.as_mut()?.properties.as_mut());
    for status in properties.filter_map(|properties| properties.get_mut("status")) {
        status.default = Some(JSON(json!({ "phase": Phase::Pending, "message": NOT_SEEN })));
    }
    crd
}
