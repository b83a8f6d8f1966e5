//! A task as the API server sent it, decoded or not: a task that cannot be decoded must not hide the others.
//!
//! kube's `DeserializeGuard` does the same, but keeps each object as a tree of values, twice: up to a hundred times the
//! memory of the text, whose size a task's author chooses. This one keeps the text.

use std::borrow::Cow;
use std::sync::Arc;

use agentloop_core::api::{AgentTask, JsonText};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// A task, or what is known of one that cannot be decoded. A clone shares the task.
#[derive(Clone, Debug)]
pub(super) struct Guarded(pub(super) Result<Arc<AgentTask>, Arc<Invalid>>);

/// A task that cannot be decoded.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{error}")]
pub(super) struct Invalid {
    error: String,
    metadata: ObjectMeta,
}

/// The part of a task that is read if the whole cannot be decoded. The rest is skipped and takes no memory.
#[derive(Deserialize)]
struct MetadataOnly {
    #[serde(default)]
    metadata: ObjectMeta,
}

/// Removes the parts of a task that agentloop never reads. They can be most of it, and take many times the memory of their
/// text.
pub(super) fn slim(mut task: AgentTask) -> AgentTask {
    slim_metadata(&mut task.metadata);
    task
}

/// Removes the field owners and the last applied configuration.
fn slim_metadata(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

impl<'de> Deserialize<'de> for Guarded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = JsonText::deserialize(deserializer)?;
        let task = match serde_json::from_str(text.as_str()) {
            Ok(task) => Ok(Arc::new(slim(task))),
            Err(error) => {
                let MetadataOnly { mut metadata } =
                    serde_json::from_str(text.as_str()).map_err(D::Error::custom)?;
                slim_metadata(&mut metadata);
                Err(Arc::new(Invalid { error: error.to_string(), metadata }))
            }
        };
        Ok(Self(task))
    }
}

impl Resource for Guarded {
    type DynamicType = <AgentTask as Resource>::DynamicType;
    type Scope = <AgentTask as Resource>::Scope;

    fn kind(kind: &Self::DynamicType) -> Cow<'_, str> {
        AgentTask::kind(kind)
    }

    fn group(kind: &Self::DynamicType) -> Cow<'_, str> {
        AgentTask::group(kind)
    }

    fn version(kind: &Self::DynamicType) -> Cow<'_, str> {
        AgentTask::version(kind)
    }

    fn plural(kind: &Self::DynamicType) -> Cow<'_, str> {
        AgentTask::plural(kind)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|invalid| &invalid.metadata, |task| task.meta())
    }

    /// Copies the task if it is shared. It is not shared yet when a watch changes it.
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match &mut self.0 {
            Ok(task) => Arc::make_mut(task).meta_mut(),
            Err(invalid) => &mut Arc::make_mut(invalid).metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt;
    use kube::core::{ObjectList, WatchEvent};
    use serde_json::{Value, json};

    use super::*;

    fn object(name: &str, spec: &Value) -> Value {
        json!({
            "apiVersion": AgentTask::api_version(&()),
            "kind": AgentTask::kind(&()),
            "metadata": { "name": name, "namespace": "n", "uid": name },
            "spec": spec,
        })
    }

    fn sound() -> Value {
        let example = include_str!("../../examples/hello.yaml");
        let task: Value = serde_saphyr::from_str(example).expect("a task");
        task.get("spec").cloned().expect("a spec")
    }

    #[test]
    fn a_task_that_cannot_be_decoded_does_not_hide_the_others() {
        let list = json!({
            "apiVersion": AgentTask::api_version(&()),
            "kind": "AgentTaskList",
            "metadata": { "resourceVersion": "1" },
            "items": [object("a", &sound()), object("b", &json!("no spec")), object("c", &sound())],
        });
        let list: ObjectList<Guarded> = serde_json::from_str(&list.to_string()).expect("a list");
        let seen: Vec<_> = list.iter().map(|task| (task.name_any(), task.0.is_ok())).collect();
        assert_eq!(seen, [("a".to_owned(), true), ("b".to_owned(), false), ("c".to_owned(), true)]);
        let broken = list.iter().find_map(|task| task.0.as_ref().err()).expect("a broken one");
        assert!(broken.to_string().contains("no spec"), "{broken}");
        assert_eq!(broken.metadata.uid.as_deref(), Some("b"));
    }

    #[test]
    fn an_event_is_read_whether_its_type_comes_first_or_last() {
        for (spec, is_sound) in [(sound(), true), (json!(7), false)] {
            let object = object("a", &spec);
            for text in [
                format!(r#"{{"type":"MODIFIED","object":{object}}}"#),
                format!(r#"{{"object":{object},"type":"MODIFIED"}}"#),
            ] {
                let event: WatchEvent<Guarded> = serde_json::from_str(&text).expect("an event");
                let WatchEvent::Modified(task) = event else { panic!("{event:?}") };
                assert_eq!((task.name_any().as_str(), task.0.is_ok()), ("a", is_sound));
            }
        }
    }

    #[test]
    fn a_change_of_a_shared_task_leaves_the_others_alone() {
        let first: Guarded = serde_json::from_value(object("a", &sound())).expect("a task");
        let mut second = first.clone();
        second.meta_mut().name = Some("z".to_owned());
        assert_eq!((first.name_any(), second.name_any()), ("a".to_owned(), "z".to_owned()));
    }

    #[test]
    fn field_owners_and_the_last_applied_configuration_are_not_kept() {
        for spec in [sound(), json!("no spec")] {
            let mut object = object("a", &spec);
            let notes =
                json!({ "kubectl.kubernetes.io/last-applied-configuration": "x", "example.com/kept": "x" });
            object["metadata"]["annotations"] = notes;
            object["metadata"]["managedFields"] = json!([{ "manager": "m", "fieldsV1": { "f:spec": {} } }]);
            let task: Guarded = serde_json::from_value(object).expect("a task");
            assert_eq!(task.meta().managed_fields, None);
            assert_eq!(task.annotations().keys().collect::<Vec<_>>(), ["example.com/kept"]);
        }
    }
}
