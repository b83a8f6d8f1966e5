//! The merge patch that turns one document into another.
//!
//! Why not the crate json-patch: version 5 applies merge patches (`merge`) but does not create them. Its `diff` creates a
//! JSON Patch (RFC 6902), which addresses list items by their index and fails if a field that it removes is missing.

use serde_json::{Map, Value};

/// The JSON merge patch (RFC 7396) from `before` to `after`; `None` if they are equal.
///
/// A null removes what `after` lacks; lists are replaced as a whole. So a patch does not touch what neither document has,
/// such as fields that are newer than our types.
pub(super) fn patch(before: &Value, after: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        return (before != after).then(|| after.clone());
    };
    let removed = old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = new
        .iter()
        .filter_map(|(key, value)| Some((key.clone(), patch(old.get(key).unwrap_or(&Value::Null), value)?)));
    let patch: Map<String, Value> = removed.chain(changed).collect();
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn equal_documents_need_no_patch() {
        assert_eq!(patch(&json!({"a": {"b": [1]}}), &json!({"a": {"b": [1]}})), None);
    }

    #[test]
    fn a_field_that_is_gone_becomes_null_and_a_new_one_is_included_whole() {
        let before = json!({"phase": "Running", "active": {"iteration": 3, "attempt": 0}, "history": [1]});
        let after = json!({"phase": "Running", "iterations": 3, "history": [2, 1]});
        assert_eq!(patch(&before, &after), Some(json!({"active": null, "iterations": 3, "history": [2, 1]})));
    }

    #[test]
    fn a_nested_change_includes_only_the_changed_field() {
        let before = json!({"breaker": {"consecutiveNoChange": 1, "consecutiveSameError": 0}});
        let after = json!({"breaker": {"consecutiveNoChange": 2, "consecutiveSameError": 0}});
        assert_eq!(patch(&before, &after), Some(json!({"breaker": {"consecutiveNoChange": 2}})));
        assert_eq!(patch(&Value::Null, &after), Some(after.clone()));
    }
}
