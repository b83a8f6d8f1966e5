//! A small API server in memory: one task, its pods and its PVC, with the versions and the answers of a real one.

use std::collections::BTreeMap;

use agentloop_core::{api::AgentTask, decide::PodRef, sync::Failure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::handles::{CachedPod, Handle, version};
use crate::support::{kubelet, merge};

pub struct ApiServer {
    task: AgentTask,
    /// The task is deleted. What it was when it went can still be looked at.
    pub is_task_gone: bool,
    pods: Vec<Pod>,
    pvc: Option<PersistentVolumeClaim>,
    /// The version of the last change.
    version: u64,
    uids: u64,
    /// What the operator's cache made of pods, by uid.
    cached: BTreeMap<String, Handle<CachedPod>>,
}

impl ApiServer {
    pub fn new(task: AgentTask) -> Self {
        let version = version(&task);
        Self {
            task,
            is_task_gone: false,
            pods: Vec::new(),
            pvc: None,
            version,
            uids: 0,
            cached: BTreeMap::new(),
        }
    }

    /// The version of the last change: the same as long as nothing changes.
    pub fn version(&self) -> u64 {
        self.version
    }

    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    fn renew_pod(&mut self, place: usize) {
        let version = self.next_version();
        self.pods[place].metadata.resource_version = Some(version);
    }

    fn next_uid(&mut self, kind: &str) -> String {
        self.uids += 1;
        format!("{kind}-{}", self.uids)
    }

    pub fn task(&self) -> &AgentTask {
        &self.task
    }

    /// The task, to be changed: its version is a new one.
    pub fn task_mut(&mut self) -> &mut AgentTask {
        self.task.metadata.resource_version = Some(self.next_version());
        &mut self.task
    }

    /// The task, if it still has this uid.
    pub fn task_of(&self, uid: &str) -> Result<&AgentTask, Failure> {
        let is_same = self.task.metadata.uid.as_deref() == Some(uid);
        if is_same && !self.is_task_gone { Ok(&self.task) } else { Err(Failure::NotFound) }
    }

    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// All pods, to be changed: their versions are new ones.
    pub fn pods_mut(&mut self) -> &mut Vec<Pod> {
        for place in 0..self.pods.len() {
            self.renew_pod(place);
        }
        &mut self.pods
    }

    /// The pod of this name, to be changed: its version is a new one.
    pub fn pod_mut(&mut self, name: &str) -> Option<&mut Pod> {
        let place = self.pods.iter().position(|pod| pod.name_any() == name)?;
        self.renew_pod(place);
        Some(&mut self.pods[place])
    }

    pub fn pod(&self, name: &str) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.name_any() == name)
    }

    /// The pods as the operator's cache keeps them.
    pub fn cached_pods(&mut self) -> Vec<Handle<CachedPod>> {
        let Self { pods, cached, .. } = self;
        pods.iter()
            .map(|pod| {
                let known = cached.entry(pod.uid().unwrap_or_default());
                let newest =
                    known.and_modify(|known| renew(known, pod)).or_insert_with(|| Handle::new(pod.into()));
                newest.clone()
            })
            .collect()
    }

    /// The pod of this name and uid.
    fn place_of(&self, pod: &PodRef) -> Result<usize, Failure> {
        let place = self.pods.iter().position(|found| found.name_any() == pod.name);
        let place = place.ok_or(Failure::NotFound)?;
        if self.pods[place].uid().as_ref() == Some(&pod.uid) { Ok(place) } else { Err(Failure::Conflict) }
    }

    /// Patches the pod of this name and uid. A patch that changes nothing makes no new version, nor does one that removes
    /// the pod because nothing keeps it any more.
    pub fn patch_pod(&mut self, pod: &PodRef, patch: impl FnOnce(&mut Pod)) -> Result<&Pod, Failure> {
        let place = self.place_of(pod)?;
        let before = self.pods[place].clone();
        patch(&mut self.pods[place]);
        if self.pods[place] != before && !is_deletion_complete(&self.pods[place]) {
            self.renew_pod(place);
        }
        Ok(&self.pods[place])
    }

    pub fn create_pod(&mut self, body: Value, now: Timestamp) -> Result<&Pod, Failure> {
        let mut pod: Pod = serde_json::from_value(body).unwrap();
        if self.pod(&pod.name_any()).is_some() {
            return Err(Failure::Exists);
        }
        let uid = self.next_uid("pod");
        let created = json!({ "metadata": { "uid": uid, "creationTimestamp": now.to_string() } });
        kubelet::change(&mut pod, &created);
        pod.metadata.resource_version = Some(self.next_version());
        self.pods.push(pod);
        Ok(self.pods.last().unwrap())
    }

    /// Begins the deletion of a pod. It stays until nothing of it runs and it has no finalizer.
    pub fn delete_pod(&mut self, pod: &PodRef, now: Timestamp) -> Result<(), Failure> {
        let place = self.place_of(pod)?;
        let found = &self.pods[place];
        if kubelet::is_deleting(found) {
            return Ok(());
        }
        let grace = if kubelet::is_bound(found) && !kubelet::is_ended(found) { 30 } else { 0 };
        let until = (now + SignedDuration::from_secs(grace)).to_string();
        let deletion = json!({ "deletionTimestamp": until, "deletionGracePeriodSeconds": grace });
        kubelet::change(&mut self.pods[place], &json!({ "metadata": deletion }));
        self.renew_pod(place);
        Ok(())
    }

    /// Removes the pods whose deletion is complete, and returns their names.
    pub fn remove_deleted_pods(&mut self) -> Vec<String> {
        let complete = self.pods.iter().filter(|pod| is_deletion_complete(pod));
        let removed: Vec<String> = complete.map(ResourceExt::name_any).collect();
        if !removed.is_empty() {
            self.pods.retain(|pod| !is_deletion_complete(pod));
            self.next_version();
        }
        removed
    }

    /// The PVC of this name.
    pub fn pvc(&self, name: &str) -> Result<&PersistentVolumeClaim, Failure> {
        self.pvc.as_ref().filter(|pvc| pvc.name_any() == name).ok_or(Failure::NotFound)
    }

    pub fn create_pvc(&mut self, body: Value) -> Result<(), Failure> {
        if self.pvc.is_some() {
            return Err(Failure::Exists);
        }
        let mut pvc: PersistentVolumeClaim = serde_json::from_value(body).unwrap();
        pvc.metadata.uid = Some(self.next_uid("pvc"));
        pvc.metadata.resource_version = Some(self.next_version());
        self.pvc = Some(pvc);
        Ok(())
    }

    /// Merges `metadata` into that of the PVC, if its version is the one that `metadata` names.
    pub fn patch_pvc(&mut self, metadata: &Value) -> Result<(), Failure> {
        let pvc = self.pvc.as_ref().ok_or(Failure::NotFound)?;
        if pvc.meta().resource_version.as_deref() != metadata["resourceVersion"].as_str() {
            return Err(Failure::Conflict);
        }
        let mut whole = serde_json::to_value(pvc).unwrap();
        merge(&mut whole, &json!({ "metadata": metadata }));
        let mut pvc: PersistentVolumeClaim = serde_json::from_value(whole).unwrap();
        pvc.metadata.resource_version = Some(self.next_version());
        self.pvc = Some(pvc);
        Ok(())
    }

    pub fn delete_pvc(&mut self) {
        self.pvc = None;
        self.next_version();
    }
}

/// Whether the pod is being deleted, and nothing keeps it any more.
fn is_deletion_complete(pod: &Pod) -> bool {
    let has_finalizers = pod.metadata.finalizers.iter().flatten().count() > 0;
    let is_stopped = kubelet::is_ended(pod) || !kubelet::is_bound(pod);
    kubelet::is_deleting(pod) && is_stopped && !has_finalizers
}

fn renew(known: &mut Handle<CachedPod>, pod: &Pod) {
    if known.version != version(pod) {
        *known = Handle::new(pod.into());
    }
}
