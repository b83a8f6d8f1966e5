//! Short ways to read objects of the API that are plain JSON.

use serde_json::Value;

/// The text at a JSON pointer; empty if there is none.
pub fn text<'a>(value: &'a Value, at: &str) -> &'a str {
    value.pointer(at).and_then(Value::as_str).unwrap_or_default()
}

/// The number at a JSON pointer; 0 if there is none.
pub fn number(value: &Value, at: &str) -> i64 {
    value.pointer(at).and_then(Value::as_i64).unwrap_or_default()
}

/// Whether there is something at a JSON pointer that is not null.
pub fn has(value: &Value, at: &str) -> bool {
    value.pointer(at).is_some_and(|found| !found.is_null())
}

/// The list at a JSON pointer; empty if there is none.
pub fn list<'a>(value: &'a Value, at: &str) -> &'a [Value] {
    value.pointer(at).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// An object's uid.
pub fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

/// An object's name.
pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// An object's version. One counter of etcd covers all kinds, so versions put everything that happened in order.
pub fn version(object: &Value) -> u64 {
    text(object, "/metadata/resourceVersion").parse().unwrap_or_default()
}
