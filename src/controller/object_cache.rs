//! The objects of a watch, by name and by task.
//!
//! Why not kube's `Store`: it has no index, so that every decision would look at every pod; it keeps the name of an object
//! three times, which is as much as the facts about a pod; and it keeps a list twice while it is read.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::runtime::watcher::Event;
use parking_lot::RwLock;
use serde::{Deserialize, Deserializer};

/// The namespace and the name of an object. A clone shares the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ObjectName(Arc<str>);

impl ObjectName {
    pub(super) fn new(namespace: &str, name: &str) -> Self {
        // Neither may contain a slash.
        Self(format!("{namespace}/{name}").into())
    }

    pub(super) fn of(metadata: &ObjectMeta) -> Self {
        Self::new(
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.name.as_deref().unwrap_or_default(),
        )
    }

    pub(super) fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    pub(super) fn name(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(_, name)| name)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What is kept of an object.
pub(super) trait CachedObject: Clone + fmt::Debug + Send + Sync + Sized + 'static {
    /// Its kind in the API.
    type Kind: Resource<DynamicType = (), Scope = NamespaceResourceScope>;

    /// Decodes an object, and keeps of it what is needed.
    fn receive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Received<Self>, D::Error>;

    /// Its namespace and name.
    fn name(&self) -> &ObjectName;

    /// The uid of the task that it is or belongs to.
    fn task_uid(&self) -> Option<&str>;

    /// The same in less memory. Objects that do not change are kept so.
    fn compact(&self) -> Option<Self> {
        None
    }
}

/// An object as the API server sent it: what is kept of it, and the metadata that kube reads while it arrives.
#[derive(Clone, Debug)]
pub(super) struct Received<T> {
    metadata: ObjectMeta,
    pub(super) kept: T,
}

impl<T> Received<T> {
    /// Of `metadata`, only what identifies the object and its version is taken.
    pub(super) fn new(metadata: &ObjectMeta, kept: T) -> Self {
        let metadata = ObjectMeta {
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            uid: metadata.uid.clone(),
            resource_version: metadata.resource_version.clone(),
            ..ObjectMeta::default()
        };
        Self { metadata, kept }
    }
}

impl<'de, T: CachedObject> Deserialize<'de> for Received<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::receive(deserializer)
    }
}

impl<T: CachedObject> Resource for Received<T> {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind(kind: &()) -> Cow<'_, str> {
        T::Kind::kind(kind)
    }

    fn group(kind: &()) -> Cow<'_, str> {
        T::Kind::group(kind)
    }

    fn version(kind: &()) -> Cow<'_, str> {
        T::Kind::version(kind)
    }

    fn plural(kind: &()) -> Cow<'_, str> {
        T::Kind::plural(kind)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The objects of one watch. A clone shares them.
pub(super) struct ObjectCache<T>(Arc<RwLock<Objects<T>>>);

struct Objects<T> {
    by_name: HashMap<ObjectName, Entry<T>>,
    by_task: HashMap<Box<str>, Vec<Arc<T>>>,
    /// How many lists have begun.
    lists: u32,
    /// How often [`ObjectCache::compact`] was called.
    compactions: u32,
}

struct Entry<T> {
    object: Arc<T>,
    /// [`Objects::lists`] when the object was last listed or changed.
    list: u32,
    /// [`Objects::compactions`] when the object changed.
    compaction: u32,
}

impl<T> Clone for ObjectCache<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for ObjectCache<T> {
    fn default() -> Self {
        let (by_name, by_task) = (HashMap::new(), HashMap::new());
        Self(Arc::new(RwLock::new(Objects { by_name, by_task, lists: 0, compactions: 0 })))
    }
}

impl<T: CachedObject> ObjectCache<T> {
    /// The object of this name.
    pub(super) fn get(&self, name: &ObjectName) -> Option<Arc<T>> {
        self.0.read().by_name.get(name).map(|entry| entry.object.clone())
    }

    /// All objects.
    pub(super) fn all(&self) -> Vec<Arc<T>> {
        self.0.read().by_name.values().map(|entry| entry.object.clone()).collect()
    }

    /// The objects that are or belong to the task with this uid.
    pub(super) fn of_task(&self, task_uid: &str) -> Vec<Arc<T>> {
        self.0.read().by_task.get(task_uid).cloned().unwrap_or_default()
    }

    /// Whether there is one.
    pub(super) fn has_of_task(&self, task_uid: &str) -> bool {
        self.0.read().by_task.contains_key(task_uid)
    }

    /// Takes over an event of the watch. While a list is read, objects of the list before are still there.
    pub(super) fn apply(&self, event: &Event<Received<T>>) {
        let mut objects = self.0.write();
        match event {
            Event::Init => objects.lists = objects.lists.wrapping_add(1),
            Event::InitApply(received) => {
                objects.insert(received.kept.compact().unwrap_or_else(|| received.kept.clone()));
            }
            Event::InitDone => objects.keep_listed(),
            Event::Apply(received) => objects.insert(received.kept.clone()),
            Event::Delete(received) => objects.remove(received.kept.name()),
        }
    }

    /// Keeps the objects that have not changed since the last call in less memory.
    pub(super) fn compact(&self) {
        let unchanged: Vec<Arc<T>> = {
            let mut objects = self.0.write();
            let before = objects.compactions;
            objects.compactions = before.wrapping_add(1);
            let entries = objects.by_name.values().filter(|entry| entry.compaction != before);
            entries.map(|entry| entry.object.clone()).collect()
        };
        for object in unchanged {
            if let Some(compact) = object.compact() {
                self.0.write().replace(&object, compact);
            }
        }
    }
}

impl<T: CachedObject> Objects<T> {
    fn insert(&mut self, object: T) {
        let object = Arc::new(object);
        let entry = Entry { object: object.clone(), list: self.lists, compaction: self.compactions };
        let before = self.by_name.insert(object.name().clone(), entry);
        if let Some(before) = before {
            self.leave_task(&before.object);
        }
        if let Some(task) = object.task_uid() {
            self.by_task.entry(task.into()).or_default().push(object.clone());
        }
    }

    /// Replaces `old` unless the object has changed in the meantime.
    fn replace(&mut self, old: &Arc<T>, new: T) {
        let Some(entry) = self.by_name.get_mut(old.name()).filter(|entry| Arc::ptr_eq(&entry.object, old))
        else {
            return;
        };
        entry.object = Arc::new(new);
        let new = entry.object.clone();
        let of_task = old.task_uid().and_then(|task| self.by_task.get_mut(task));
        for object in of_task.into_iter().flatten().filter(|object| Arc::ptr_eq(object, old)) {
            *object = new.clone();
        }
    }

    fn remove(&mut self, name: &ObjectName) {
        if let Some(entry) = self.by_name.remove(name) {
            self.leave_task(&entry.object);
        }
    }

    fn leave_task(&mut self, object: &Arc<T>) {
        let Some(task) = object.task_uid() else { return };
        let Some(objects) = self.by_task.get_mut(task) else { return };
        objects.retain(|one| !Arc::ptr_eq(one, object));
        if objects.is_empty() {
            self.by_task.remove(task);
        }
    }

    fn keep_listed(&mut self) {
        let gone = self.by_name.iter().filter(|(_, entry)| entry.list != self.lists);
        let gone: Vec<ObjectName> = gone.map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.remove(&name);
        }
        self.by_name.shrink_to_fit();
        self.by_task.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    /// An object that says whether it is compact.
    #[derive(Clone, Debug, PartialEq)]
    struct Thing {
        name: ObjectName,
        task: Option<String>,
        is_compact: bool,
    }

    impl CachedObject for Thing {
        type Kind = Pod;

        fn receive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Received<Self>, D::Error> {
            let metadata = ObjectMeta::deserialize(deserializer)?;
            let thing = Self {
                name: ObjectName::of(&metadata),
                task: metadata.generate_name.clone(),
                is_compact: false,
            };
            Ok(Received::new(&metadata, thing))
        }

        fn name(&self) -> &ObjectName {
            &self.name
        }

        fn task_uid(&self) -> Option<&str> {
            self.task.as_deref()
        }

        fn compact(&self) -> Option<Self> {
            (!self.is_compact).then(|| Self { is_compact: true, ..self.clone() })
        }
    }

    fn thing(name: &str, task: &str) -> Received<Thing> {
        let thing =
            Thing { name: ObjectName::new("team", name), task: Some(task.to_owned()), is_compact: false };
        Received::new(&ObjectMeta::default(), thing)
    }

    fn of(cache: &ObjectCache<Thing>, task: &str) -> Vec<String> {
        let mut names: Vec<String> =
            cache.of_task(task).iter().map(|thing| thing.name.name().to_owned()).collect();
        names.sort();
        names
    }

    fn list(cache: &ObjectCache<Thing>, things: &[(&str, &str)]) {
        cache.apply(&Event::Init);
        for (name, task) in things {
            cache.apply(&Event::InitApply(thing(name, task)));
        }
        cache.apply(&Event::InitDone);
    }

    fn listed(things: &[(&str, &str)]) -> ObjectCache<Thing> {
        let cache = ObjectCache::default();
        list(&cache, things);
        cache
    }

    #[test]
    fn a_name_has_its_two_parts() {
        let name = ObjectName::new("team", "fix-parser");
        assert_eq!((name.namespace(), name.name()), ("team", "fix-parser"));
        assert_eq!(name.to_string(), "team/fix-parser");
    }

    #[test]
    fn each_task_has_its_own_objects() {
        let cache = listed(&[("x-1", "x"), ("x-2", "x"), ("y-1", "y")]);
        assert_eq!(
            (of(&cache, "x"), of(&cache, "y")),
            (vec!["x-1".into(), "x-2".into()], vec!["y-1".into()])
        );
        cache.apply(&Event::Delete(thing("x-1", "x")));
        cache.apply(&Event::Apply(thing("y-2", "y")));
        assert_eq!(
            (of(&cache, "x"), of(&cache, "y")),
            (vec!["x-2".into()], vec!["y-1".into(), "y-2".into()])
        );
    }

    #[test]
    fn a_changed_object_replaces_its_former_state_everywhere() {
        let cache = listed(&[("x-1", "x")]);
        cache.apply(&Event::Apply(thing("x-1", "x")));
        assert_eq!(of(&cache, "x"), ["x-1"], "once");
        cache.apply(&Event::Apply(thing("x-1", "y")));
        assert_eq!((of(&cache, "x"), of(&cache, "y")), (Vec::new(), vec!["x-1".to_owned()]));
        assert!(!cache.has_of_task("x"));
    }

    #[test]
    fn what_a_new_list_lacks_is_gone_once_it_is_complete() {
        let cache = listed(&[("x-1", "x"), ("x-2", "x"), ("x-3", "x")]);
        cache.apply(&Event::Init);
        cache.apply(&Event::InitApply(thing("x-2", "x")));
        cache.apply(&Event::Apply(thing("x-3", "x")));
        assert_eq!(of(&cache, "x"), ["x-1", "x-2", "x-3"], "the list is not complete yet");
        cache.apply(&Event::InitDone);
        assert_eq!(of(&cache, "x"), ["x-2", "x-3"]);
        list(&cache, &[]);
        assert!(cache.all().is_empty() && cache.0.read().by_task.is_empty(), "nothing is left");
    }

    #[test]
    fn listed_objects_are_kept_compact_and_changed_ones_become_so() {
        let cache = listed(&[("x-1", "x")]);
        let is_compact = || cache.get(&ObjectName::new("team", "x-1")).map(|thing| thing.is_compact);
        assert_eq!(is_compact(), Some(true));
        cache.apply(&Event::Apply(thing("x-1", "x")));
        cache.compact();
        assert_eq!(is_compact(), Some(false), "it has just changed");
        cache.compact();
        assert_eq!(is_compact(), Some(true));
        assert!(cache.of_task("x").iter().all(|thing| thing.is_compact) && of(&cache, "x") == ["x-1"]);
    }

    #[test]
    fn an_object_that_changes_while_it_is_made_compact_keeps_its_new_state() {
        let cache = listed(&[]);
        cache.apply(&Event::Apply(thing("x-1", "x")));
        let old = cache.get(&ObjectName::new("team", "x-1")).expect("the object");
        cache.apply(&Event::Apply(thing("x-1", "y")));
        cache.0.write().replace(&old, old.compact().expect("a compact one"));
        assert_eq!((of(&cache, "x"), of(&cache, "y")), (Vec::new(), vec!["x-1".to_owned()]));
    }
}
