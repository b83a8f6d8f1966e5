//! The `CustomResourceDefinition`, generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::{AgentTask, Phase, open_enum::MAX_BYTES};
use crate::message::PENDING;

/// The CRD that users install. `crds/` and the chart have copies of its rendering, [`crd_document`].
///
/// The default of the status is what users see of a task that no operator has seen.
pub fn crd() -> CustomResourceDefinition {
    let mut crd = AgentTask::crd();
    let schemas = crd.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut());
    let schemas = schemas.filter_map(|schema| schema.open_api_v3_schema.as_mut());
    for status in schemas.filter_map(|schema| {
        drop_nullable(schema);
        schema.properties.as_mut()?.get_mut("status")
    }) {
        open_enums(status);
        status.default = Some(JSON(json!({ "phase": Phase::Pending, "message": PENDING })));
    }
    crd
}

/// The CRD as it is written into files. Bounds are floats in the types; here whole numbers are written as integers.
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

/// Fields with a hand-written schema.
const PASSED_ON: [&str; 2] = ["template", "volumeClaimTemplate"];

/// Removes `nullable`, which schemars sets on every optional field. An optional field is absent, not null; the API
/// server drops a null when an object is created. Hand-written schemas are left unchanged.
fn drop_nullable(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    // An optional enum has null as one of its values.
    schema.enum_.iter_mut().for_each(|values| values.retain(|JSON(value)| !value.is_null()));
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

/// Makes the enums of the status plain strings, and lists the known values in the description. With an `enum`, the API
/// server would reject every write of a status that has a value of a newer version.
fn open_enums(schema: &mut JSONSchemaProps) {
    if let Some(values) = schema.enum_.take() {
        let known: Vec<&str> = values.iter().filter_map(|JSON(value)| value.as_str()).collect();
        let before = schema.description.take().unwrap_or_default();
        schema.description = Some(format!("{before} {KNOWN_VALUES}{}.", known.join(", ")).trim().to_owned());
        schema.max_length = i64::try_from(MAX_BYTES).ok();
    }
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(open_enums);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        open_enums(items);
    }
}

/// The text before the values in a description.
pub const KNOWN_VALUES: &str = "Known values: ";
