//! The `CustomResourceDefinition`, generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;
use serde_json::json;

use super::{AgentTask, Phase, words::MOST_BYTES};
use crate::message::NOT_SEEN;

/// The definition that users install. `crds/` and the chart hold its rendering.
///
/// The API server itself answers for a task that no operator has seen: its status has a default.
pub fn crd() -> CustomResourceDefinition {
    let mut crd = AgentTask::crd();
    let schemas = crd.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut());
    let properties = schemas.filter_map(|schema| schema.open_api_v3_schema.as_mut()?.properties.as_mut());
    for status in properties.filter_map(|properties| properties.get_mut("status")) {
        let_words_be_any(status);
        status.default = Some(JSON(json!({ "phase": Phase::Pending, "message": NOT_SEEN })));
    }
    crd
}

/// Words of a status are plain strings, with those that this version knows in the description. With an
/// `enum`, the API server would refuse every write of a status that holds a word of a newer version.
fn let_words_be_any(schema: &mut JSONSchemaProps) {
    if let Some(words) = schema.enum_.take() {
        let known: Vec<&str> = words.iter().filter_map(|JSON(word)| word.as_str()).collect();
        let before = schema.description.take().unwrap_or_default();
        schema.description = Some(format!("{before} {KNOWN_VALUES}{}.", known.join(", ")).trim().to_owned());
        schema.max_length = i64::try_from(MOST_BYTES).ok();
    }
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(let_words_be_any);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        let_words_be_any(items);
    }
}

/// What stands before the words in a description.
pub const KNOWN_VALUES: &str = "Known values: ";
