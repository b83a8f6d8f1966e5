//! A task as the cache keeps it: decoded while it changes, else as JSON text, which takes less memory. A task that cannot
//! be decoded must not hide the others.
//!
//! kube's `DeserializeGuard` also keeps such a task, but as a tree of values, twice: up to a hundred times the memory of
//! the text, whose size a task's author chooses.

use std::sync::Arc;

use agentloop_core::api::{AgentTask, JsonText, Phase};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::object_cache::{CachedObject, ObjectName, Received};
use crate::wire::{self, Lean};

/// A task, or what is known of one that cannot be decoded. A clone shares the task.
#[derive(Clone, Debug)]
pub(super) struct CachedTask {
    pub(super) name: ObjectName,
    pub(super) uid: String,
    pub(super) phase: Option<Phase>,
    pub(super) served_by: Option<String>,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Decoded(Arc<AgentTask>),
    /// The same as JSON.
    Text(Arc<str>),
    Undecodable(Arc<Undecodable>),
}

/// A task cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Undecodable(String);

impl CachedTask {
    fn new(metadata: &ObjectMeta, content: Content) -> Self {
        let status = match &content {
            Content::Decoded(task) => task.status.as_ref(),
            Content::Text(_) | Content::Undecodable(_) => None,
        };
        Self {
            name: ObjectName::of(metadata),
            uid: metadata.uid.clone().unwrap_or_default(),
            phase: status.and_then(|status| status.phase),
            served_by: status.and_then(|status| status.served_by.clone()),
            content,
        }
    }

    /// The task itself.
    pub(super) fn decoded(&self) -> Result<Arc<AgentTask>, Undecodable> {
        match &self.content {
            Content::Decoded(task) => Ok(task.clone()),
            Content::Text(text) => {
                serde_json::from_str(text).map(Arc::new).map_err(|error| Undecodable(error.to_string()))
            }
            Content::Undecodable(error) => Err((**error).clone()),
        }
    }

    /// What an Event says that it is about.
    pub(super) fn object_reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some(AgentTask::api_version(&()).into_owned()),
            kind: Some(AgentTask::kind(&()).into_owned()),
            namespace: Some(self.name.namespace().to_owned()),
            name: Some(self.name.name().to_owned()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        }
    }
}

impl CachedObject for CachedTask {
    type Kind = AgentTask;

    fn receive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Received<Self>, D::Error> {
        let text = JsonText::deserialize(deserializer)?;
        let (metadata, content) = match serde_json::from_str(text.as_str()) {
            Ok(Lean::<AgentTask>(task)) => (task.metadata.clone(), Content::Decoded(Arc::new(task))),
            Err(error) => {
                let mut json = serde_json::Deserializer::from_str(text.as_str());
                let metadata = wire::metadata(&mut json).map_err(D::Error::custom)?;
                (metadata, Content::Undecodable(Arc::new(Undecodable(error.to_string()))))
            }
        };
        Ok(Received::new(&metadata, Self::new(&metadata, content)))
    }

    fn name(&self) -> &ObjectName {
        &self.name
    }

    fn task_uid(&self) -> Option<&str> {
        Some(&self.uid)
    }

    fn compact(&self) -> Option<Self> {
        let Content::Decoded(task) = &self.content else { return None };
        let text = serde_json::to_string(&**task).ok()?;
        Some(Self { content: Content::Text(text.into()), ..self.clone() })
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

    fn received(object: Value) -> Received<CachedTask> {
        serde_json::from_value(object).expect("a task")
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
        let list: ObjectList<Received<CachedTask>> = serde_json::from_str(&list.to_string()).expect("a list");
        let seen: Vec<_> = list.iter().map(|task| (task.name_any(), task.kept.decoded().is_ok())).collect();
        assert_eq!(seen, [("a".to_owned(), true), ("b".to_owned(), false), ("c".to_owned(), true)]);
        let broken = list.iter().find_map(|task| task.kept.decoded().err()).expect("a broken one");
        assert!(broken.to_string().contains("no spec"), "{broken}");
        assert_eq!(list.items.get(1).map(|task| task.kept.uid.as_str()), Some("b"));
    }

    #[test]
    fn an_event_is_read_whether_its_type_comes_first_or_last() {
        for (spec, is_sound) in [(sound(), true), (json!(7), false)] {
            let object = object("a", &spec);
            for text in [
                format!(r#"{{"type":"MODIFIED","object":{object}}}"#),
                format!(r#"{{"object":{object},"type":"MODIFIED"}}"#),
            ] {
                let event: WatchEvent<Received<CachedTask>> = serde_json::from_str(&text).expect("an event");
                let WatchEvent::Modified(task) = event else { panic!("{event:?}") };
                assert_eq!((task.name_any().as_str(), task.kept.decoded().is_ok()), ("a", is_sound));
            }
        }
    }

    #[test]
    fn field_owners_and_the_last_applied_configuration_are_not_kept() {
        let mut object = object("a", &sound());
        let notes =
            json!({ "kubectl.kubernetes.io/last-applied-configuration": "x", "example.com/kept": "x" });
        object["metadata"]["annotations"] = notes;
        object["metadata"]["managedFields"] = json!([{ "manager": "m", "fieldsV1": { "f:spec": {} } }]);
        let task = received(object).kept.decoded().expect("a task");
        assert_eq!(task.metadata.managed_fields, None);
        assert_eq!(task.annotations().keys().collect::<Vec<_>>(), ["example.com/kept"]);
    }

    #[test]
    fn a_compact_task_is_the_same_task() {
        let mut object = object("a", &sound());
        object["status"] = json!({ "phase": "Running", "servedBy": "other/agentloop", "iterations": 3 });
        let task = received(object).kept;
        let compact = task.compact().expect("a compact one");
        assert!(matches!(compact.content, Content::Text(_)) && compact.compact().is_none());
        let (before, after) = (task.decoded().expect("a task"), compact.decoded().expect("a task"));
        assert_eq!(json!(*before), json!(*after));
        assert_eq!(
            (compact.phase, compact.served_by.as_deref()),
            (Some(Phase::Running), Some("other/agentloop"))
        );
        assert_eq!((compact.name, compact.uid), (task.name, task.uid));
    }
}
