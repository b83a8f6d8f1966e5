//! Prints crds/schema/agenttask.schema.json: a JSON Schema with which editors complete and check tasks.
//!
//! The CRD accepts any field in the parts that are passed on to Kubernetes, so that no field of a newer Kubernetes is
//! lost. This schema adds the fields of the Kubernetes version that agentloop is built with, as a help. Unknown fields
//! are valid.
//!
//! `make generate` writes the file; `tests/generated.rs` fails if the file differs from the types.

use std::io::Write as _;

use agentloop_core::api::crd_document;
use k8s_openapi::api::core::v1::{PersistentVolumeClaimSpec, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(schema().as_bytes())
}

/// The whole file.
pub fn schema() -> String {
    let crd = crd_document();
    let version = crd.pointer("/spec/versions/0").cloned().unwrap_or_default();
    let text =
        |value: &Value, at: &str| value.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
    let api_version = format!("{}/{}", text(&crd, "/spec/group"), text(&version, "/name"));
    let mut generator = SchemaSettings::draft07().into_generator();
    let root = version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_default();
    let mut spec = root.pointer("/properties/spec").cloned().unwrap_or_default();
    let of_pod = reference::<PodSpec>(&mut generator);
    let of_pvc = reference::<PersistentVolumeClaimSpec>(&mut generator);
    let metadata = reference::<ObjectMeta>(&mut generator);
    close(&mut spec);
    refine(&mut spec, "/properties/template/properties/spec", &of_pod);
    refine(&mut spec, "/properties/workspace/properties/volumeClaimTemplate/properties/spec", &of_pvc);
    let definitions = Value::Object(generator.take_definitions(true));
    let mut whole = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": text(&crd, "/spec/names/kind"),
        "description": text(&root, "/description"),
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": false,
        "properties": {
            "apiVersion": { "type": "string", "const": api_version },
            "kind": { "type": "string", "const": text(&crd, "/spec/names/kind") },
            "metadata": metadata,
            "spec": spec,
            "status": { "type": "object", "description": "Written by the operator." },
        },
        "definitions": definitions,
    });
    plain(&mut whole);
    let mut text = serde_json::to_string_pretty(&whole).unwrap_or_default();
    text.push('\n');
    text
}

/// A reference to the type's schema, which is added to the definitions.
fn reference<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

/// The schema at `path` becomes that of the type, with the additional constraints of the CRD.
fn refine(schema: &mut Value, path: &str, of_type: &Value) {
    if let Some(own) = schema.pointer_mut(path) {
        let description = own.get("description").cloned().unwrap_or_default();
        let rest = own.take();
        *own = json!({ "description": description, "allOf": [of_type, rest] });
    }
}

/// An object whose fields are all known accepts no others, because the API server would drop them.
fn close(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    let is_open = object.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    if object.contains_key("properties") && !is_open {
        object.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    let below = object.get_mut("properties").and_then(Value::as_object_mut);
    below.into_iter().flat_map(Map::values_mut).for_each(close);
    object.get_mut("items").into_iter().for_each(close);
}

/// Converts OpenAPI keywords to those of JSON Schema, and removes what editors do not know.
fn plain(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(plain),
        Value::Object(map) => {
            if map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
                map.insert("type".to_owned(), json!(["string", "number"]));
            }
            if map.get("nullable") == Some(&Value::Bool(true)) {
                map.remove("nullable");
                if let Some(type_) = map.get_mut("type") {
                    *type_ = json!([type_.take(), "null"]);
                }
            }
            map.retain(|key, value| !key.starts_with("x-kubernetes-") && !is_width(key, value));
            map.values_mut().for_each(plain);
        }
        _ => {}
    }
}

/// Whether this is the width of a number, which is not a format of JSON Schema.
fn is_width(key: &str, value: &Value) -> bool {
    key == "format" && matches!(value.as_str(), Some("int32" | "int64" | "double" | "byte"))
}
