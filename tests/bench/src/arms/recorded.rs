//! What the operator writes into a task's status, recorded for the raw writer: both then send the same bytes.

use agentloop_core::api::{ActiveIteration, AgentTask, AgentTaskStatus, Thresholds};
use agentloop_core::pod::{BuildInputs, Injection, build, pod_name};
use agentloop_core::settings::Settings;
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::arms::agentloop::PLAYED;

/// A status of the operator, and the part of it that changes with every iteration.
#[derive(Clone, Debug)]
pub struct Recorded {
    whole: Value,
    changing: Value,
    thresholds: Thresholds,
}

impl Recorded {
    /// From two statuses of one task, an iteration or more apart.
    pub fn new(earlier: &Value, later: &Value) -> Result<Self> {
        let status: AgentTaskStatus = serde_json::from_value(later.clone()).context("a status")?;
        let thresholds = status.thresholds.context("a status without thresholds")?;
        let changing = changed(earlier, later).context("two statuses that are the same")?;
        Ok(Self { whole: later.clone(), changing, thresholds })
    }

    /// The size of the status patch of an iteration, in bytes.
    pub fn patch_bytes(&self) -> usize {
        self.changing.to_string().len()
    }

    /// The status patch that settles iteration `number - 1` and makes `number` the active one.
    pub fn patch(&self, task: &AgentTask, number: i32, version: &str) -> Value {
        let mut status = if number <= 1 { self.whole.clone() } else { self.changing.clone() };
        if let Some(status) = status.as_object_mut() {
            status.insert("iterations".to_owned(), json!(number.saturating_sub(1)));
            status.insert("maxIterations".to_owned(), json!(task.spec.max_iterations));
            status.insert("active".to_owned(), json!(active(task, number)));
        }
        json!({ "metadata": { "resourceVersion": version }, "status": status })
    }

    /// The status patch that settles the last iteration.
    pub fn last_patch(&self, iterations: i32, version: &str) -> Value {
        let mut status = self.changing.clone();
        if let Some(status) = status.as_object_mut() {
            status.insert("iterations".to_owned(), json!(iterations));
            status.insert("active".to_owned(), Value::Null);
        }
        json!({ "metadata": { "resourceVersion": version }, "status": status })
    }

    /// The pod of an iteration, as the operator creates it.
    pub fn pod(&self, task: &AgentTask, number: i32) -> Result<Value> {
        let injection = Injection {
            image: PLAYED.image.to_owned(),
            pull_policy: Some("IfNotPresent".to_owned()),
            image_volume: true,
            ..Injection::default()
        };
        let key = format!("{number:064x}");
        let means = BuildInputs { injection: &injection, settings: &Settings::default(), report_key: &key };
        let status = task.status.clone().unwrap_or_default();
        let active = active(task, number);
        let pod = build(task, &active, &self.thresholds, &status.breaker, &status.history, &means);
        pod.context("building a pod")
    }
}

fn active(task: &AgentTask, iteration: i32) -> ActiveIteration {
    let name = task.metadata.name.clone().unwrap_or_default();
    let uid = task.metadata.uid.clone().unwrap_or_default();
    ActiveIteration {
        iteration,
        attempt: 0,
        pod_name: pod_name(&name, &uid, iteration, 0),
        generation: task.metadata.generation.unwrap_or_default(),
        orphaned: false,
    }
}

/// The merge patch from one value to another; `None` if they are the same.
fn changed(from: &Value, to: &Value) -> Option<Value> {
    match (from, to) {
        (Value::Object(from), Value::Object(to)) => {
            let mut patch = Map::new();
            for (key, value) in to {
                let part = match from.get(key) {
                    Some(old) => changed(old, value),
                    None => Some(value.clone()),
                };
                if let Some(part) = part {
                    patch.insert(key.clone(), part);
                }
            }
            for key in from.keys().filter(|key| !to.contains_key(*key)) {
                patch.insert(key.clone(), Value::Null);
            }
            (!patch.is_empty()).then_some(Value::Object(patch))
        }
        _ => (from != to).then(|| to.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_has_what_changed_and_nothing_else() {
        let (from, to) = (
            json!({ "a": 1, "b": { "c": 1, "d": 2 }, "list": [1, 2], "gone": true }),
            json!({ "a": 1, "b": { "c": 1, "d": 3 }, "list": [2, 3], "new": 0 }),
        );
        let patch = json!({ "b": { "d": 3 }, "list": [2, 3], "gone": null, "new": 0 });
        assert_eq!(changed(&from, &to), Some(patch));
        assert_eq!(changed(&from, &from), None);
    }
}
