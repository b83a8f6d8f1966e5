//! Random specs of tasks, drawn from the schema of the CRD.

use agentloop_core::api::crd;
use fastrand::Rng;
use serde_json::{Map, Value, json};

/// The schema of `.spec` in the API server.
pub fn schema() -> Value {
    let crd = serde_json::to_value(crd()).expect("the CRD");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// A spec that is valid by the schema; rules across fields may still refuse it.
pub fn draw(schema: &Value, rng: &mut Rng) -> Value {
    value(schema, "", rng)
}

fn value(schema: &Value, path: &str, rng: &mut Rng) -> Value {
    if let Some(hint) = hint(path, rng) {
        return hint;
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<&Value> = words.iter().filter(|word| !word.is_null()).collect();
        return words[rng.usize(..words.len())].clone();
    }
    match schema["type"].as_str() {
        Some("object") => object(schema, path, rng),
        Some("array") => {
            let least = schema["minItems"].as_u64().unwrap_or(0);
            let most = schema["maxItems"].as_u64().unwrap_or(4).min(least + 3);
            let items = format!("{path}[]");
            let mut drawn: Vec<Value> =
                (0..rng.u64(least..=most)).map(|_| value(&schema["items"], &items, rng)).collect();
            if schema["x-kubernetes-list-type"] == "set" {
                let mut seen = Vec::new();
                drawn.retain(|item| {
                    !seen.contains(item) && {
                        seen.push(item.clone());
                        true
                    }
                });
            }
            Value::Array(drawn)
        }
        Some("string") => text(schema, rng),
        Some("integer") => integer(schema, rng),
        Some("boolean") => json!(rng.u8(..5) == 0),
        other => panic!("{path}: unknown type {other:?}"),
    }
}

fn object(schema: &Value, path: &str, rng: &mut Rng) -> Value {
    let required = |name: &str| schema["required"].as_array().is_some_and(|list| list.contains(&json!(name)));
    let mut drawn = Map::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if required(name) || rng.u8(..3) == 0 {
            drawn.insert(name.clone(), value(property, &format!("{path}.{name}"), rng));
        }
    }
    Value::Object(drawn)
}

fn text(schema: &Value, rng: &mut Rng) -> Value {
    let most = usize::try_from(schema["maxLength"].as_u64().expect("every text has a maximum length"))
        .expect("small");
    let least = usize::try_from(schema["minLength"].as_u64().unwrap_or(0)).expect("small");
    let length = match rng.u8(..10) {
        0 => most,
        1 => least,
        _ => rng.usize(least..=most.min(least + 12)),
    };
    json!((0..length).map(|_| rng.lowercase()).collect::<String>())
}

fn integer(schema: &Value, rng: &mut Rng) -> Value {
    let bound =
        |name: &str| schema[name].as_f64().map(|bound| format!("{bound:.0}").parse::<i64>().expect("whole"));
    let least = bound("minimum").unwrap_or(i64::MIN);
    let most = bound("maximum").unwrap_or(i64::from(i32::MAX));
    json!(match rng.u8(..10) {
        0 => least,
        1 => most,
        _ => rng.i64(least..=most.min(least.saturating_add(6))),
    })
}

/// Values for what the schema does not express: pods and PVCs, and numbers that matter to a loop of a few iterations.
fn hint(path: &str, rng: &mut Rng) -> Option<Value> {
    let agent = || json!({ "name": "agent", "image": "none", "command": ["/bin/agent"] });
    Some(match path {
        ".template.spec" => match rng.u8(..5) {
            0 => {
                json!({ "containers": [{ "name": "coder", "image": "none", "command": ["/bin/coder", "-p"] }] })
            }
            1 => json!({ "containers": [agent(), { "name": "proxy", "image": "none" }] }),
            2 => json!({ "containers": [agent()], "initContainers": [{ "name": "clone", "image": "none" }] }),
            3 => {
                json!({ "containers": [agent()], "restartPolicy": "Never", "terminationGracePeriodSeconds": 5 })
            }
            _ => json!({ "containers": [agent()] }),
        },
        ".template.metadata" => json!({ "labels": { "team": rng.lowercase().to_string() } }),
        ".workspace.volumeClaimTemplate.metadata" => json!({}),
        ".workspace.volumeClaimTemplate.spec" => {
            json!({ "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } })
        }
        ".workspace.mountPath" => json!(if rng.bool() { "/workspace" } else { "/src" }),
        ".failOnExitCodes[]" => json!(rng.i32(3..=6)),
        ".retryOnExitCodes[]" => json!(rng.i32(70..=80)),
        ".ttlSecondsAfterSucceeded" => json!(if rng.u8(..4) == 0 { 0 } else { 3600 }),
        _ => return None,
    })
}
