//! The `CustomResourceDefinition`, generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::{AgentTask, Phase, words::MOST_BYTES};
use crate::message::PENDING;

/// The CRD that users install. `crds/` and the chart hold its rendering, [`crd_document`].
///
/// The API server itself answers for a task that no operator has seen: its status has a default.
pub fn crd() -> CustomResourceDefinition {
    let mut crd = AgentTask::crd();
    let schemas = crd.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut());
    let schemas = schemas.filter_map(|schema| schema.open_api_v3_schema.as_mut());
    for status in schemas.filter_map(|schema| {
        drop_nullable(schema);
        schema.properties.as_mut()?.get_mut("status")
    }) {
        let_words_be_any(status);
        status.default = Some(JSON(json!({ "phase": Phase::Pending, "message": PENDING })));
    }
    crd
}

/// The CRD as it is written into files: whole numbers are written as such, though the type of a bound is a float.
pub fn crd_document() -> Value {
    let mut document = serde_json::to_value(crd()).unwrap_or_default();
    write_whole_numbers(&mut document);
    document
}

fn write_whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let whole = number.as_f64().map(|float| format!("{float:.0}"));
            let whole = whole.and_then(|text| text.parse::<i64>().ok());
            if let Some(whole) = whole.filter(|whole| number.to_string() == format!("{whole}.0")) {
                *value = whole.into();
            }
        }
        Value::Array(list) => list.iter_mut().for_each(write_whole_numbers),
        Value::Object(map) => map.values_mut().for_each(write_whole_numbers),
        _ => {}
    }
}

/// Fields with a schema by hand.
const PASSED_ON: [&str; 2] = ["template", "volumeClaimTemplate"];

/// Optional fields are absent, not null: schemars marks each of them as nullable. The API server drops a null from an
/// object that is created. What is passed on to Kubernetes has a schema by hand, and is left as it is.
fn drop_nullable(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    // An optional enum comes with null as one more of its words.
    schema.enum_.iter_mut().for_each(|words| words.retain(|JSON(word)| !word.is_null()));
    for (name, below) in schema.properties.iter_mut().flatten() {
        if PASSED_ON.contains(&name.as_str()) {
            below.nullable = None;
        } else {
            drop_nullable(below);
        }
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => drop_nullable(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(drop_nullable),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        drop_nullable(values);
    }
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
