//! A world of one task: an API server in memory, a kubelet that does what a test says, and an operator
//! without any memory that decides and does what was decided. Every write is checked against the
//! protocol's invariants.

use std::collections::{BTreeMap, BTreeSet};

use agentloop_contract::report::{Change, ProviderErrorKind, Report};
use agentloop_core::{
    api::{AgentTask, AgentTaskStatus, Phase, WaitReason},
    decide::{Action, Decision, Observed, PodRef, PreviousPod, decide},
    facts::{Obstacle, PodFacts},
    pod,
    settings::Configuration,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{injection, interrupted, kubelet, merge, start, task};

/// Turns after which an operator that is still busy is said to be in a loop.
const MOST_TURNS: usize = 60;

pub struct World {
    pub task: AgentTask,
    /// The task was deleted by its time to live.
    pub expired: bool,
    pub pods: Vec<Pod>,
    pub now: Timestamp,
    /// What the operator's cache holds of the ConfigMap, and what the API server holds.
    pub cached: Configuration,
    pub real: Configuration,
    version: u64,
    /// A pod of an earlier task that still runs.
    pub previous_pod: Option<String>,
    /// What the API server says to every new pod.
    pub refusal: Option<Obstacle>,
    /// How the operator gets the runner into pods.
    pub injection: agentloop_core::pod::Injection,
    /// What Events tell.
    pub events: Option<Obstacle>,
    /// Pods that were created, by iteration and attempt.
    pub created: Vec<(i32, i32)>,
    /// Agents that started.
    pub ran: BTreeSet<(i32, i32)>,
    /// Ended pods that nobody can prove to be free of cost.
    pub charged: BTreeSet<(i32, i32)>,
    /// Writes of the status.
    pub writes: usize,
    /// When the operator wants to look again.
    pub again: Option<Timestamp>,
    uids: u64,
}

impl World {
    pub fn new(spec: &Value) -> Self {
        Self {
            task: task(spec),
            expired: false,
            pods: Vec::new(),
            now: start(),
            cached: Configuration::absent(),
            real: Configuration::absent(),
            version: 0,
            previous_pod: None,
            refusal: None,
            injection: injection(),
            events: None,
            created: Vec::new(),
            ran: BTreeSet::new(),
            charged: BTreeSet::new(),
            writes: 0,
            again: None,
            uids: 0,
        }
    }

    // === What tests read ===

    pub fn status(&self) -> AgentTaskStatus {
        self.task.status.clone().unwrap_or_default()
    }

    pub fn phase(&self) -> Phase {
        self.status().phase.unwrap()
    }

    pub fn reason(&self) -> String {
        self.status().reason.unwrap_or_default()
    }

    pub fn message(&self) -> String {
        self.status().message.unwrap_or_default()
    }

    pub fn iterations(&self) -> i32 {
        self.status().iterations
    }

    pub fn waits_for(&self) -> Option<WaitReason> {
        self.status().waiting.map(|waiting| waiting.reason)
    }

    /// Seconds from now until the next try.
    pub fn held_for(&self) -> i64 {
        let until = self.status().waiting.and_then(|waiting| waiting.retry_time).unwrap().0;
        until.duration_since(self.now).as_secs()
    }

    pub fn active(&self) -> Option<(i32, i32)> {
        self.status().active.map(|active| (active.iteration, active.attempt))
    }

    pub fn condition(&self, type_: &str) -> (String, String) {
        let found = self.status().conditions.into_iter().find(|c| c.type_ == type_).unwrap();
        (found.status, found.reason)
    }

    fn place_of_active(&self) -> usize {
        let name = self.status().active.expect("something is claimed").pod_name;
        self.pods.iter().position(|pod| pod.metadata.name.as_ref() == Some(&name)).expect("its pod exists")
    }

    pub fn pod(&mut self) -> &mut Pod {
        let place = self.place_of_active();
        &mut self.pods[place]
    }

    pub fn has_pod(&self) -> bool {
        self.status().active.is_some_and(|active| {
            self.pods.iter().any(|pod| pod.metadata.name.as_ref() == Some(&active.pod_name))
        })
    }

    // === What the world does ===

    /// Merges `patch` into the spec, as a user does.
    pub fn edit(&mut self, patch: &Value) {
        self.patch(&json!({ "spec": patch }));
    }

    /// A merge patch of the task, as `kubectl patch` sends it.
    pub fn patch(&mut self, patch: &Value) {
        let mut whole = serde_json::to_value(&self.task).unwrap();
        merge(&mut whole, patch);
        let edited: AgentTask = serde_json::from_value(whole).unwrap();
        if edited.spec != self.task.spec {
            self.task.spec = edited.spec;
            *self.task.metadata.generation.as_mut().unwrap() += 1;
        }
    }

    pub fn configure(&mut self, data: &[(&str, &str)]) {
        self.version += 1;
        let data: BTreeMap<_, _> = data.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let version = Some(self.version.to_string());
        self.cached = Configuration::read(&data, version, &self.cached.last_good);
        self.real = self.cached.clone();
    }

    /// The operator restarts: it knows only what it can read.
    pub fn restart(&mut self) {
        let last_good = self.cached.newest.clone().unwrap_or_default();
        self.cached.last_good = last_good.clone();
        self.real.last_good = last_good;
    }

    pub fn run(&mut self) {
        let now = self.now;
        let claim = self.active().unwrap();
        let pod = self.pod();
        assert!(!kubelet::is_gated(pod), "a gated pod cannot run");
        assert!(!kubelet::is_deleting(pod) || kubelet::is_bound(pod), "a deleting pod is never bound");
        if !kubelet::is_bound(pod) {
            kubelet::bind(pod);
        }
        kubelet::run(pod, now);
        self.ran.insert(claim);
    }

    /// The claimed pod ends with `report`.
    pub fn end(&mut self, report: &Report) {
        if !kubelet::is_running(self.pod()) {
            self.run();
        }
        let is_free = report.changed == Change::Unchanged
            && report.provider_refused.as_ref().is_some_and(|r| r.kind == ProviderErrorKind::RateLimited);
        self.note_charge(!is_free);
        let state = kubelet::reported(report, self.now);
        kubelet::end(self.pod(), &state);
    }

    /// The claimed pod ends with a refusal beyond those that are free.
    pub fn end_charged(&mut self, report: &Report) {
        self.end(report);
        self.note_charge(true);
        self.go();
    }

    /// The claimed pod ends without a word.
    pub fn end_silently(&mut self, code: i32, reason: &str) {
        if !kubelet::is_running(self.pod()) {
            self.run();
        }
        self.note_charge(true);
        let state = kubelet::terminated(code, reason, None, self.now);
        kubelet::end(self.pod(), &state);
    }

    /// The claimed pod is bound and ends before its agent started.
    pub fn fail_to_start(&mut self) {
        let pod = self.pod();
        kubelet::bind(pod);
        kubelet::set_status(pod, "Failed", &kubelet::waiting(), &kubelet::waiting());
    }

    pub fn note_charge(&mut self, charged: bool) {
        let claim = self.active().unwrap();
        if charged {
            self.charged.insert(claim);
        }
    }

    /// Kubelets end the pods that are to be deleted.
    pub fn kubelets_obey(&mut self) {
        let now = self.now;
        for pod in &mut self.pods {
            if !kubelet::is_deleting(pod) || !kubelet::is_bound(pod) || kubelet::is_ended(pod) {
                continue;
            }
            if kubelet::has_ended_agent(pod) {
                kubelet::end_sidecars(pod);
            } else if kubelet::is_running(pod) {
                let facts = PodFacts::of(pod);
                self.charged.insert((facts.iteration, facts.attempt));
                kubelet::end(pod, &kubelet::reported(&interrupted(Change::Unknown), now));
            } else {
                kubelet::set_status(pod, "Failed", &kubelet::waiting(), &kubelet::waiting());
            }
        }
        self.collect();
    }

    /// Somebody deletes the claimed pod.
    pub fn delete_pod(&mut self) {
        let pod = self.pod();
        let pod = PodRef { name: pod.metadata.name.clone().unwrap(), uid: pod.metadata.uid.clone().unwrap() };
        self.delete(&pod);
    }

    pub fn delete_task(&mut self) {
        let now = self.now.to_string();
        let mut whole = serde_json::to_value(&self.task).unwrap();
        merge(&mut whole, &json!({ "metadata": { "deletionTimestamp": now } }));
        self.task = serde_json::from_value(whole).unwrap();
    }

    // === What the operator does ===

    /// Decides and acts until nothing is left to do.
    pub fn go(&mut self) {
        for _ in 0..MOST_TURNS {
            if !self.turn() {
                return;
            }
        }
        panic!("after {MOST_TURNS} turns the operator is still busy: {:?}", self.status());
    }

    /// Lets time pass. Nothing but time tells the operator to look again: it goes on where it wanted to by now.
    pub fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
        if self.again.is_some_and(|again| again <= self.now) {
            self.go();
        }
    }

    /// One whole iteration.
    pub fn iterate(&mut self, report: &Report) {
        self.go();
        self.end(report);
        self.go();
    }

    pub fn iterate_times(&mut self, times: usize, report: &Report) {
        for _ in 0..times {
            self.iterate(report);
        }
    }

    /// Applies one decision; whether it did anything.
    pub fn turn(&mut self) -> bool {
        let mut configuration = self.cached.clone();
        let mut previous_pod = PreviousPod::Unknown;
        let mut refused = None;
        let mut did_something = false;
        let mut is_gone = false;
        for _ in 0..5 {
            let decision = self.decide(&configuration, previous_pod.clone(), refused.clone(), is_gone);
            if decision.actions.contains(&Action::ReadPod) {
                assert_eq!(decision.status, None, "nothing is written before the pod is read");
                let claim = self.status().active.expect("only a claimed pod is read");
                is_gone = self.pods.iter().all(|pod| pod.metadata.name.as_ref() != Some(&claim.pod_name));
                continue;
            }
            if decision.actions.contains(&Action::ReadConfiguration) {
                assert_eq!(decision.status, None, "nothing is written before the configuration is read");
                configuration = Configuration { consistent: true, ..self.real.clone() };
                continue;
            }
            if decision.actions.contains(&Action::ListPreviousPods) {
                assert_eq!(decision.status, None, "nothing is written before the pods are listed");
                previous_pod = self.previous_pod.clone().map_or(PreviousPod::None, PreviousPod::Pod);
                continue;
            }
            self.again =
                decision.requeue_after.map(|delay| self.now + SignedDuration::try_from(delay).unwrap());
            if let Some(status) = decision.status {
                self.write(&status);
                did_something = true;
            }
            let was_refused = refused.is_some();
            for action in decision.actions {
                if action == Action::CreatePod && self.refusal.is_some() {
                    refused.clone_from(&self.refusal);
                    continue;
                }
                self.act(action);
                did_something = true;
            }
            self.collect();
            self.check_pods();
            if refused.is_none() || was_refused {
                return did_something;
            }
        }
        panic!("the operator reads and reads");
    }

    pub fn decide(
        &self,
        configuration: &Configuration,
        previous_pod: PreviousPod,
        refused: Option<Obstacle>,
        is_gone: bool,
    ) -> Decision {
        let pods: Vec<PodFacts> = self.pods.iter().map(PodFacts::of).collect();
        decide(&Observed {
            task: &self.task,
            pods: &pods,
            configuration,
            injection: &self.injection,
            obstacle: self.events.clone(),
            previous_pod,
            refused,
            was_started: false,
            pvc_is_checked: true,
            is_gone,
            now: self.now,
        })
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::CheckPvcOwner => {}
            Action::CreatePod => self.create(),
            Action::RemoveSchedulingGate(pod) => {
                let claim = self.status().active.expect("only a claimed pod is started");
                assert_eq!(claim.pod_name, pod.name);
                assert!(!self.task.spec.suspend, "nothing starts while suspended");
                self.found(&pod).spec.as_mut().unwrap().scheduling_gates = None;
            }
            Action::AddFinalizer(pod) => {
                self.found(&pod)
                    .metadata
                    .finalizers
                    .get_or_insert_default()
                    .push("agentloop.dev/settle".to_owned());
            }
            Action::DeletePod(pod) => self.delete(&pod),
            Action::RemoveFinalizer { pod, .. } => {
                assert!(
                    self.status().active.is_none_or(|active| active.pod_name != pod.name)
                        || self.task.metadata.deletion_timestamp.is_some(),
                    "a pod is held until it is settled"
                );
                let finalizers = self.found(&pod).metadata.finalizers.as_mut().unwrap();
                finalizers.retain(|name| name != "agentloop.dev/settle");
            }
            Action::DeleteTask => self.expired = true,
            Action::ReadConfiguration | Action::ListPreviousPods | Action::ReadPod => {
                unreachable!("handled before")
            }
        }
    }

    fn found(&mut self, pod: &PodRef) -> &mut Pod {
        self.pods
            .iter_mut()
            .find(|found| found.metadata.uid.as_ref() == Some(&pod.uid))
            .expect("the pod is there")
    }

    fn create(&mut self) {
        let status = self.status();
        let active = status.active.clone().unwrap();
        assert!(
            self.pods.iter().all(|pod| pod.metadata.name.as_ref() != Some(&active.pod_name)),
            "created twice"
        );
        let built = pod::build(
            &self.task,
            &active,
            status.thresholds.as_ref().unwrap(),
            &status.breaker,
            &status.history,
            &super::means(&self.injection),
        );
        self.uids += 1;
        let mut pod: Pod = serde_json::from_value(built.unwrap()).unwrap();
        let uid = format!("pod-{}", self.uids);
        let now = self.now.to_string();
        kubelet::change(&mut pod, &json!({ "metadata": { "uid": uid, "creationTimestamp": now } }));
        self.created.push((active.iteration, active.attempt));
        self.pods.push(pod);
    }

    fn delete(&mut self, pod: &PodRef) {
        let now = self.now;
        let found = self.found(pod);
        if kubelet::is_deleting(found) {
            return;
        }
        let grace = if kubelet::is_bound(found) && !kubelet::is_ended(found) { 30 } else { 0 };
        let until = (now + SignedDuration::from_secs(grace)).to_string();
        let deletion = json!({ "deletionTimestamp": until, "deletionGracePeriodSeconds": grace });
        kubelet::change(found, &json!({ "metadata": deletion }));
        self.collect();
    }

    /// Deleting pods that nothing holds go.
    fn collect(&mut self) {
        let goes = |pod: &Pod| {
            let held = pod.metadata.finalizers.iter().flatten().count() > 0;
            let stopped = kubelet::is_ended(pod) || !kubelet::is_bound(pod);
            kubelet::is_deleting(pod) && stopped && !held
        };
        if let Some(orphaned) = self.status().active.filter(|active| active.orphaned) {
            let name = Some(orphaned.pod_name);
            if self.pods.iter().any(|pod| pod.metadata.name == name && goes(pod)) {
                // What became of it cannot be known any more.
                self.charged.insert((orphaned.iteration, orphaned.attempt));
            }
        }
        self.pods.retain(|pod| !goes(pod));
    }
}
