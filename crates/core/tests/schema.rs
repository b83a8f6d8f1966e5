//! The CRD's schema: what applies to every field.

use agentloop_core::api::crd_document;
use serde_json::{Value, json};

fn root() -> Value {
    crd_document()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Every schema below `schema`, with its path.
fn walk<'a>(schema: &'a Value, path: &str, into: &mut Vec<(String, &'a Value)>) {
    into.push((path.to_owned(), schema));
    for (name, below) in schema["properties"].as_object().into_iter().flatten() {
        walk(below, &format!("{path}.{name}"), into);
    }
    for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if let Some(below) = schema.get(key).filter(|below| below.is_object()) {
            walk(below, &format!("{path}{mark}"), into);
        }
    }
}

#[test]
fn a_list_of_tasks_shows_state_progress_reason_and_cost_and_more_only_if_asked() {
    let columns = crd_document()["spec"]["versions"][0]["additionalPrinterColumns"].clone();
    let named = |wide: bool| -> Vec<String> {
        let columns = columns.as_array().into_iter().flatten();
        let of_kind = columns.filter(|column| (column["priority"].as_i64().unwrap_or(0) > 0) == wide);
        of_kind.map(|column| column["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(named(false), ["Phase", "Progress", "Reason", "Cost", "Age"]);
    assert_eq!(named(true), ["No-Change", "Same-Error", "Message"]);
}

#[test]
fn every_list_says_how_server_side_apply_merges_it() {
    let root = root();
    let mut all = Vec::new();
    walk(&root, "", &mut all);
    let lists: Vec<_> = all.iter().filter(|(_, schema)| schema["type"] == "array").collect();
    assert!(lists.len() > 15, "{}", lists.len());
    for (path, list) in lists {
        match list["x-kubernetes-list-type"].as_str() {
            Some("atomic") => {}
            // Only a value that is compared as a whole can be in a set.
            Some("set") => assert_ne!(list["items"]["type"], "object", "{path}"),
            Some("map") => {
                let keys = list["x-kubernetes-list-map-keys"].as_array().expect("keys");
                let required = list["items"]["required"].as_array().expect("required fields");
                assert!(!keys.is_empty() && keys.iter().all(|key| required.contains(key)), "{path}");
            }
            other => panic!("{path}: {other:?}"),
        }
    }
    let type_of = |path: &str| {
        let (_, list) = all.iter().find(|(at, _)| at == path).unwrap_or_else(|| panic!("{path}"));
        (list["x-kubernetes-list-type"].clone(), list["x-kubernetes-list-map-keys"].clone())
    };
    let containers = ".spec.template.spec.containers";
    assert_eq!(type_of(containers), (json!("map"), json!(["name"])));
    assert_eq!(type_of(&format!("{containers}[].command")), (json!("atomic"), Value::Null));
    assert_eq!(type_of(&format!("{containers}[].volumeMounts")), (json!("map"), json!(["mountPath"])));
    assert_eq!(type_of(".spec.failOnExitCodes"), (json!("set"), Value::Null));
    assert_eq!(type_of(".status.conditions"), (json!("map"), json!(["type"])));
}

#[test]
fn optional_fields_are_never_null_except_in_templates_of_other_tools() {
    let root = root();
    let mut all = Vec::new();
    walk(&root, "", &mut all);
    assert!(all.len() > 100, "{}", all.len());
    for (path, schema) in all {
        let of_others = ["labels", "annotations", "creationTimestamp", "volumeMounts", "volumeDevices"]
            .iter()
            .any(|field| path.contains("emplate.") && path.ends_with(field));
        assert_eq!(schema.get("nullable"), of_others.then_some(&json!(true)), "{path}");
        let words = schema["enum"].as_array().into_iter().flatten();
        assert!(words.into_iter().all(Value::is_string), "{path}: {}", schema["enum"]);
    }
}

#[test]
fn every_number_is_an_integer_of_the_right_width() {
    let root = root();
    let mut all = Vec::new();
    walk(&root, "", &mut all);
    for (path, schema) in all {
        for bound in ["minimum", "maximum"] {
            assert!(!schema[bound].is_f64(), "{path}: {}", schema[bound]);
        }
        // Generations are 64 bits wide in all of Kubernetes, and tokens are many.
        let is_wide = path.ends_with("eneration") || path.ends_with("Tokens");
        if schema["type"] == "integer" {
            assert_eq!(schema["format"], if is_wide { "int64" } else { "int32" }, "{path}");
        }
    }
}

#[test]
fn every_validation_rule_has_a_message_and_most_name_the_field() {
    let root = root();
    let mut all = Vec::new();
    walk(&root, "", &mut all);
    let rules = all.iter().flat_map(|(path, schema)| {
        schema["x-kubernetes-validations"].as_array().into_iter().flatten().map(move |rule| (path, rule))
    });
    let mut without_field = Vec::new();
    for (path, rule) in rules {
        assert!(rule["message"].is_string() && rule["reason"].is_string(), "{path}: {rule}");
        if !rule["fieldPath"].is_string() {
            without_field.push(path.as_str());
        }
    }
    // Rules about the object's name, the field itself, two of its fields, or several texts together.
    let itself = ["", ".spec", ".spec.prompt", ".spec.promptFrom", ".spec.workspace.mountPath"];
    without_field.sort_unstable();
    assert_eq!(without_field, itself);
}
