//! Which pods belong to which task: without it, every decision would look at every pod of the cache.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::Event;
use parking_lot::RwLock;

use super::cached_pod::CachedPod;

type PodName = ObjectRef<CachedPod>;

/// The names of pods by the uid of their task. A clone shares the index.
#[derive(Clone, Default)]
pub(super) struct PodIndex(Arc<RwLock<Names>>);

#[derive(Default)]
struct Names {
    by_task: HashMap<String, HashSet<PodName>>,
    task_of: HashMap<PodName, String>,
    /// The pods of a list that is not complete yet: what it lacks is gone.
    listed: HashSet<PodName>,
}

impl PodIndex {
    /// The names of a task's pods.
    pub(super) fn of(&self, task_uid: &str) -> Vec<PodName> {
        self.0.read().by_task.get(task_uid).into_iter().flatten().cloned().collect()
    }

    /// Takes over an event of the watch that fills the cache.
    pub(super) fn apply(&self, event: &Event<CachedPod>) {
        let mut names = self.0.write();
        match event {
            Event::Init => names.listed.clear(),
            Event::InitApply(pod) => {
                names.listed.insert(ObjectRef::from_obj(pod));
                names.insert(pod);
            }
            Event::InitDone => names.keep_listed(),
            Event::Apply(pod) => names.insert(pod),
            Event::Delete(pod) => names.remove(&ObjectRef::from_obj(pod)),
        }
    }
}

impl Names {
    fn insert(&mut self, pod: &CachedPod) {
        let name = ObjectRef::from_obj(pod);
        let task = pod.facts.task_uid.as_ref();
        if self.task_of.get(&name) == task {
            return;
        }
        self.remove(&name);
        if let Some(task) = task {
            self.by_task.entry(task.clone()).or_default().insert(name.clone());
            self.task_of.insert(name, task.clone());
        }
    }

    fn remove(&mut self, name: &PodName) {
        let Some(task) = self.task_of.remove(name) else { return };
        if let Some(pods) = self.by_task.get_mut(&task) {
            pods.remove(name);
            if pods.is_empty() {
                self.by_task.remove(&task);
            }
        }
    }

    fn keep_listed(&mut self) {
        let listed = std::mem::take(&mut self.listed);
        let gone: Vec<PodName> = self.task_of.keys().filter(|name| !listed.contains(name)).cloned().collect();
        for name in gone {
            self.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use agentloop_contract::names::LABEL_TASK_UID;
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn pod(name: &str, task: &str) -> CachedPod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.namespace = Some("team".to_owned());
        pod.metadata.labels = Some([(LABEL_TASK_UID.to_owned(), task.to_owned())].into());
        CachedPod::from(pod)
    }

    fn of(index: &PodIndex, task: &str) -> Vec<String> {
        let mut names: Vec<String> = index.of(task).into_iter().map(|name| name.name).collect();
        names.sort();
        names
    }

    fn listed(names: &[(&str, &str)]) -> PodIndex {
        let index = PodIndex::default();
        index.apply(&Event::Init);
        for (name, task) in names {
            index.apply(&Event::InitApply(pod(name, task)));
        }
        index.apply(&Event::InitDone);
        index
    }

    #[test]
    fn each_task_has_its_own_pods() {
        let index = listed(&[("x-1", "x"), ("x-2", "x"), ("y-1", "y")]);
        assert_eq!(
            (of(&index, "x"), of(&index, "y")),
            (vec!["x-1".into(), "x-2".into()], vec!["y-1".into()])
        );
        index.apply(&Event::Delete(pod("x-1", "x")));
        index.apply(&Event::Apply(pod("y-2", "y")));
        assert_eq!(
            (of(&index, "x"), of(&index, "y")),
            (vec!["x-2".into()], vec!["y-1".into(), "y-2".into()])
        );
    }

    #[test]
    fn a_pod_whose_label_names_another_task_now_moves() {
        let index = listed(&[("x-1", "x")]);
        index.apply(&Event::Apply(pod("x-1", "y")));
        assert_eq!((of(&index, "x"), of(&index, "y")), (Vec::new(), vec!["x-1".to_owned()]));
    }

    #[test]
    fn what_a_new_list_lacks_is_gone() {
        let index = listed(&[("x-1", "x"), ("x-2", "x")]);
        index.apply(&Event::Init);
        index.apply(&Event::InitApply(pod("x-2", "x")));
        index.apply(&Event::InitDone);
        assert_eq!(of(&index, "x"), ["x-2"]);
        index.apply(&Event::Delete(pod("x-2", "x")));
        assert!(index.0.read().by_task.is_empty() && index.0.read().task_of.is_empty(), "nothing is left");
    }
}
