//! What users, administrators, kubelets and other clients do.

use std::collections::BTreeMap;

use agentloop_contract::report::{Change, ProviderErrorKind, Report};
use agentloop_core::{api::AgentTask, decide::PodRef, facts::PodFacts, settings::Configuration};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::Simulation;
use crate::support::{interrupted, kubelet, merge};

impl Simulation {
    // === Users and administrators ===

    /// Merges `patch` into the spec, as a user does.
    pub fn edit(&mut self, patch: &Value) {
        self.patch(&json!({ "spec": patch }));
    }

    /// A merge patch of the task, as `kubectl patch` sends it.
    pub fn patch(&mut self, patch: &Value) {
        let mut whole = serde_json::to_value(self.task()).unwrap();
        merge(&mut whole, patch);
        let edited: AgentTask = serde_json::from_value(whole).unwrap();
        if edited.spec != self.task().spec {
            let task = self.task_mut();
            task.spec = edited.spec;
            *task.metadata.generation.as_mut().unwrap() += 1;
        }
    }

    /// An administrator writes the operator's ConfigMap.
    pub fn configure(&mut self, data: &[(&str, &str)]) {
        self.configurations += 1;
        let data: BTreeMap<_, _> = data.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let version = Some(self.configurations.to_string());
        self.cached = Configuration::read(&data, version, &self.cached.last_valid);
        self.real = self.cached.clone();
    }

    /// A user deletes the active iteration's pod.
    pub fn delete_pod(&mut self) {
        let pod = PodRef::from(&PodFacts::of(self.pod()));
        self.server.delete_pod(&pod, self.now).unwrap();
        self.remove_deleted_pods();
    }

    /// A user deletes the task, which stays until its pods are gone.
    pub fn delete_task(&mut self) {
        let now = self.now.to_string();
        let mut whole = serde_json::to_value(self.task()).unwrap();
        merge(&mut whole, &json!({ "metadata": { "deletionTimestamp": now } }));
        *self.task_mut() = serde_json::from_value(whole).unwrap();
    }

    /// The task is deleted, and its pods stay behind.
    pub fn delete_task_immediately(&mut self) {
        self.task_mut();
        self.server.is_task_gone = true;
    }

    /// The operator is uninstalled: the active iteration is marked as orphaned, then the finalizers are removed.
    pub fn uninstall(&mut self) {
        self.restart();
        if self.active().is_some() {
            self.task_mut().status.as_mut().unwrap().active.as_mut().unwrap().orphaned = true;
            // A pod that has its scheduling gate is not started any more, and proves nothing.
            if !self.has_pod() || kubelet::is_gated(self.pod()) {
                self.expect_charge(true);
            }
        }
        self.thaw_caches();
        for pod in self.pods_mut() {
            pod.metadata.finalizers = None;
        }
        self.remove_deleted_pods();
    }

    /// Another operator creates the PVC, with these annotations.
    pub fn create_pvc(&mut self, annotations: &Value) {
        let mut body = agentloop_core::pod::pvc(self.task()).unwrap().unwrap();
        merge(&mut body, &json!({ "metadata": { "annotations": annotations } }));
        self.server.create_pvc(body).unwrap();
    }

    pub fn delete_pvc(&mut self) {
        self.server.delete_pvc();
    }

    pub fn patch_pvc(&mut self, metadata: &Value) {
        let mut metadata = metadata.clone();
        let version = self.pvc().unwrap().resource_version();
        merge(&mut metadata, &json!({ "resourceVersion": version }));
        self.server.patch_pvc(&metadata).unwrap();
    }

    /// A task of the same name, which is gone, has left this pod behind.
    pub fn leave_previous_pod(&mut self, name: &str) {
        let previous = json!({
            "metadata": {
                "name": name, "uid": name,
                "labels": { "agentloop.dev/task": "x", "agentloop.dev/task-uid": "previous" },
            },
            "spec": { "containers": [] },
            "status": { "phase": "Running" },
        });
        self.pods_mut().push(serde_json::from_value(previous).unwrap());
    }

    /// The first pod exists once more, gated and under this name: a request to create it has arrived late.
    pub fn create_late_pod(&mut self, name: &str) {
        let mut late = self.pods()[0].clone();
        late.metadata.name = Some(name.to_owned());
        late.metadata.uid = Some(name.to_owned());
        late.metadata.finalizers = Some(vec!["agentloop.dev/settle".to_owned()]);
        late.status = None;
        let spec = late.spec.as_mut().unwrap();
        spec.node_name = None;
        spec.scheduling_gates = serde_json::from_value(json!([{ "name": "agentloop.dev/start" }])).unwrap();
        self.pods_mut().push(late);
    }

    pub fn remove_pod(&mut self, name: &str) {
        self.pods_mut().retain(|pod| pod.name_any() != name);
    }

    // === Time ===

    /// Lets time pass. Nothing but time makes the operator reconcile: it continues if its time has come.
    pub fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
        if self.requeue_at.is_some_and(|due| due <= self.now) {
            self.reconcile();
        }
    }

    /// Lets time pass until the task may be tried again.
    pub fn pass_wait(&mut self) {
        self.pass(self.seconds_until_retry());
    }

    // === The active iteration's pod ===

    /// Its agent starts.
    pub fn run(&mut self) {
        let now = self.now;
        let attempt = self.active().unwrap();
        let pod = self.pod_mut();
        assert!(!kubelet::is_gated(pod), "a gated pod cannot run");
        assert!(!kubelet::is_deleting(pod) || kubelet::is_bound(pod), "a pod under deletion is never bound");
        if !kubelet::is_bound(pod) {
            kubelet::bind(pod);
        }
        kubelet::run(pod, now);
        self.ran.insert(attempt);
    }

    /// It ends with `report`.
    pub fn end(&mut self, report: &Report) {
        if !kubelet::is_running(self.pod()) {
            self.run();
        }
        let is_free = report.changed == Change::Unchanged
            && report.provider_refused.as_ref().is_some_and(|r| r.kind == ProviderErrorKind::RateLimited);
        self.expect_charge(!is_free);
        let state = kubelet::reported(report, self.now);
        kubelet::end(self.pod_mut(), &state);
    }

    /// It ends because the provider refused once more than is free.
    pub fn end_charged(&mut self, report: &Report) {
        self.end(report);
        self.expect_charge(true);
        self.reconcile();
    }

    /// It ends without a report.
    pub fn end_silently(&mut self, code: i32, reason: &str) {
        if !kubelet::is_running(self.pod()) {
            self.run();
        }
        self.expect_charge(true);
        let state = kubelet::terminated(code, reason, None, self.now);
        kubelet::end(self.pod_mut(), &state);
    }

    /// It is bound and ends before its agent started.
    pub fn fail_to_start(&mut self) {
        let pod = self.pod_mut();
        kubelet::bind(pod);
        kubelet::set_status(pod, "Failed", &kubelet::waiting(), &kubelet::waiting());
    }

    /// The active attempt must be charged, if `is_charged`.
    pub fn expect_charge(&mut self, is_charged: bool) {
        let attempt = self.active().unwrap();
        if is_charged {
            self.charged.insert(attempt);
        }
    }

    /// One whole iteration.
    pub fn iterate(&mut self, report: &Report) {
        self.reconcile();
        self.end(report);
        self.reconcile();
    }

    pub fn iterate_times(&mut self, times: usize, report: &Report) {
        for _ in 0..times {
            self.iterate(report);
        }
    }

    // === Kubelets and the API server ===

    /// Kubelets stop the pods that are being deleted.
    pub fn stop_deleted_pods(&mut self) {
        let now = self.now;
        let must_stop =
            |pod: &Pod| kubelet::is_deleting(pod) && kubelet::is_bound(pod) && !kubelet::is_ended(pod);
        if !self.pods().iter().any(must_stop) {
            return;
        }
        let mut charged = Vec::new();
        for pod in self.server.pods_mut().iter_mut().filter(|pod| must_stop(pod)) {
            if kubelet::has_ended_agent(pod) {
                kubelet::end_sidecars(pod);
            } else if kubelet::is_running(pod) {
                let facts = PodFacts::of(pod);
                charged.push((facts.iteration, facts.attempt));
                kubelet::end(pod, &kubelet::reported(&interrupted(Change::Unknown), now));
            } else {
                kubelet::set_status(pod, "Failed", &kubelet::waiting(), &kubelet::waiting());
            }
        }
        self.charged.extend(charged);
        self.remove_deleted_pods();
    }

    /// The API server removes the pods whose deletion is complete.
    pub(super) fn remove_deleted_pods(&mut self) {
        let removed = self.server.remove_deleted_pods();
        let orphaned = self.status().active.filter(|active| active.orphaned);
        let Some(orphaned) = orphaned.filter(|active| removed.contains(&active.pod_name)) else { return };
        let attempt = (orphaned.iteration, orphaned.attempt);
        // What happened in it cannot be known any more, unless a cache still shows it.
        if self.cache.as_ref().is_some_and(|cache| cache.shows_end_of(&orphaned.pod_name)) {
            self.unsure.insert(attempt);
        } else {
            self.charged.insert(attempt);
        }
    }
}
