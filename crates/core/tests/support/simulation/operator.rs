//! The operator: drives the machines of `agentloop_core::sync`, one request at a time.

use agentloop_core::{
    decide::served::Serving,
    sync::{
        Failure, Memory, NextStep, OrphanRequest, OrphanResponse, OrphanStep, OrphanSync, Request, Response,
        SyncOutcome, TaskSync,
    },
};
use jiff::SignedDuration;

use super::{
    Cache, Simulation,
    handles::{CachedPod, Handle, Known, Simulated},
};

/// Reconciles after which an operator that still writes is in an endless loop.
const MAX_RECONCILES: usize = 30;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Gather,
    ReadEvents,
    WriteStatus,
    ReadTask,
    ConfirmTask,
    ReadConfiguration,
    ListPreviousPods,
    ReadPod,
    ReadPvc,
    CreatePvc,
    SetPvcOwner,
    CreatePod,
    RemoveSchedulingGate,
    AddFinalizer,
    RemoveFinalizer,
    DeletePod,
    DeleteTask,
}

impl From<&Request<Simulated>> for Call {
    fn from(request: &Request<Simulated>) -> Self {
        match request {
            Request::Gather => Self::Gather,
            Request::ReadEvents(_) => Self::ReadEvents,
            Request::WriteStatus { .. } => Self::WriteStatus,
            Request::ReadTask => Self::ReadTask,
            Request::ConfirmTask => Self::ConfirmTask,
            Request::ReadConfiguration => Self::ReadConfiguration,
            Request::ListPreviousPods => Self::ListPreviousPods,
            Request::ReadPod => Self::ReadPod,
            Request::ReadPvc => Self::ReadPvc,
            Request::CreatePvc => Self::CreatePvc,
            Request::SetPvcOwner(_) => Self::SetPvcOwner,
            Request::CreatePod => Self::CreatePod,
            Request::RemoveSchedulingGate(_) => Self::RemoveSchedulingGate,
            Request::AddFinalizer(_) => Self::AddFinalizer,
            Request::RemoveFinalizer { .. } => Self::RemoveFinalizer,
            Request::DeletePod(_) => Self::DeletePod,
            Request::DeleteTask(_) => Self::DeleteTask,
        }
    }
}

impl From<&OrphanRequest<Simulated>> for Call {
    fn from(request: &OrphanRequest<Simulated>) -> Self {
        match request {
            OrphanRequest::ReadTask => Self::ReadTask,
            OrphanRequest::DeletePod(_) => Self::DeletePod,
            OrphanRequest::RemoveFinalizer { .. } => Self::RemoveFinalizer,
        }
    }
}

/// The server cannot do what it should.
pub fn server_error() -> Failure {
    Failure::Rejected { code: 500, message: "etcdserver: leader changed".to_owned() }
}

/// What becomes of one request.
pub enum Fault {
    /// It is not carried out.
    Fails(Failure),
    /// It is carried out, but the answer does not arrive.
    AnswerLost,
    /// It is not carried out; this is the answer.
    Answers(Response<Simulated>),
    /// Something happens just before it is carried out.
    After(Box<dyn FnOnce(&mut Simulation)>),
}

/// A reconcile under way, and its next request.
pub struct Running {
    sync: TaskSync<Simulated>,
    request: Request<Simulated>,
}

impl Simulation {
    // === Faults ===

    /// The next request of this kind is not carried out, and fails.
    pub fn fail(&mut self, call: Call, failure: Failure) {
        self.faults.push((call, Fault::Fails(failure)));
    }

    /// The next request of this kind is carried out, but the answer does not arrive.
    pub fn lose_answer(&mut self, call: Call) {
        self.faults.push((call, Fault::AnswerLost));
    }

    /// The next request of this kind is answered by this instead of being carried out.
    pub fn answer(&mut self, call: Call, response: Response<Simulated>) {
        self.faults.push((call, Fault::Answers(response)));
    }

    /// Something happens just before the next request of this kind.
    pub fn before(&mut self, call: Call, event: impl FnOnce(&mut Self) + 'static) {
        self.faults.push((call, Fault::After(Box::new(event))));
    }

    /// The requests since the last call.
    pub fn take_requests(&mut self) -> Vec<Call> {
        std::mem::take(&mut self.requests)
    }

    pub fn remove_faults(&mut self) {
        self.faults.clear();
    }

    fn fault_of(&mut self, call: Call) -> Option<Fault> {
        let place = self.faults.iter().position(|(of, _)| *of == call)?;
        Some(self.faults.remove(place).1)
    }

    // === Reconciles ===

    /// Reconciles until nothing is left to do.
    pub fn reconcile(&mut self) {
        if self.running.is_some() {
            self.reconcile_once();
        }
        for _ in 0..MAX_RECONCILES {
            let version = self.server.version();
            let outcome = self.reconcile_once();
            assert_ne!(outcome, SyncOutcome::NotConverged, "{:?}", self.status());
            if outcome != SyncOutcome::Failed && version == self.server.version() {
                return;
            }
        }
        panic!("after {MAX_RECONCILES} reconciles the operator still writes: {:?}", self.status());
    }

    /// Completes the reconcile under way, or else a new one.
    pub fn reconcile_once(&mut self) -> SyncOutcome {
        loop {
            if let Some(outcome) = self.round() {
                return outcome;
            }
        }
    }

    /// Continues until the operator has changed something, or until its reconcile is over; whether it changed
    /// something.
    pub fn step(&mut self) -> bool {
        let version = self.server.version();
        loop {
            let outcome = self.round();
            let has_changed = version != self.server.version();
            if has_changed || outcome.is_some() {
                return has_changed;
            }
        }
    }

    /// One round of a reconcile: a decision and what follows from it.
    fn round(&mut self) -> Option<SyncOutcome> {
        if self.server.is_task_gone && self.cache.is_none() {
            self.running = None;
            self.requeue_at = None;
            self.clean_up_orphans();
            return Some(SyncOutcome::Done(None));
        }
        let mut running = self.running.take().unwrap_or_else(|| self.begin());
        loop {
            let response = self.ask(&running.sync, running.request);
            self.check_pods();
            let (known, memory) = self.known();
            match running.sync.next(&known, memory, response) {
                NextStep::Request(Request::Gather) => {
                    self.running = Some(Running { request: Request::Gather, ..running });
                    return None;
                }
                NextStep::Request(request) => running.request = request,
                NextStep::Finished(outcome) => {
                    if let SyncOutcome::Done(after) = outcome {
                        self.requeue_at =
                            after.map(|after| self.now + SignedDuration::try_from(after).unwrap());
                    }
                    return Some(outcome);
                }
            }
        }
    }

    fn begin(&mut self) -> Running {
        let cached = self.cache.as_ref().and_then(|cache| cache.task.clone());
        let cached = cached.unwrap_or_else(|| self.task().clone());
        let configuration = Handle::new(self.cached.clone());
        let (known, memory) = self.known();
        let sync = TaskSync::new(&known, memory, Handle::new(cached), configuration);
        Running { sync, request: Request::Gather }
    }

    fn ask(&mut self, sync: &TaskSync<Simulated>, request: Request<Simulated>) -> Response<Simulated> {
        let call = Call::from(&request);
        if call != Call::Gather {
            self.requests.push(call);
        }
        match self.fault_of(call) {
            None => self.perform(sync, request),
            Some(Fault::Fails(failure)) => Response::Failed(failure),
            Some(Fault::Answers(response)) => response,
            Some(Fault::AnswerLost) => {
                self.perform(sync, request);
                Response::Failed(Failure::Lost)
            }
            Some(Fault::After(event)) => {
                event(self);
                self.perform(sync, request)
            }
        }
    }

    /// What the operator knows, and what it remembers.
    fn known(&mut self) -> (Known<'_>, &mut Memory<Simulated>) {
        let pods = match &self.cache {
            Some(cache) => cache.pods.clone(),
            None => self.server.cached_pods(),
        };
        let Self { injection, serving, served_by, now, late_from, memory, .. } = self;
        let served_by = served_by.as_deref();
        (Known { pods, injection, serving, served_by, now: *now, late_from: *late_from }, memory)
    }

    /// The operator restarts: it knows only what it can read.
    pub fn restart(&mut self) {
        self.running = None;
        self.memory = Memory::default();
        self.orphan_memories.clear();
        let last_valid = self.cached.newest.clone().unwrap_or_default();
        self.cached.last_valid = last_valid.clone();
        self.real.last_valid = last_valid;
    }

    /// From now on the operator's caches show the task and its pods as they are now, whatever changes.
    pub fn freeze_caches(&mut self) {
        let task = Some(self.task().clone());
        self.cache = Some(Cache { task, pods: self.server.cached_pods() });
    }

    /// From now on the operator's cache shows the pods as they are now. It still follows the task.
    pub fn freeze_pod_cache(&mut self) {
        self.cache = Some(Cache { task: None, pods: self.server.cached_pods() });
    }

    /// The operator's caches catch up.
    pub fn thaw_caches(&mut self) {
        self.cache = None;
    }

    // === Pods without a task ===

    /// Cleans up every pod of the task.
    fn clean_up_orphans(&mut self) {
        for pod in self.server.cached_pods() {
            if pod.facts.task_uid == self.task().metadata.uid {
                self.clean_up_orphan(&pod);
            }
        }
    }

    /// Checks whether the task of a pod that the cache shows like this is gone, and removes the pod if it is.
    pub fn clean_up_orphan(&mut self, pod: &Handle<CachedPod>) -> OrphanStep<Simulated> {
        let task_uid = pod.facts.task_uid.clone().unwrap_or_default();
        let mut memory = self.orphan_memories.remove(&pod.facts.uid).unwrap_or_default();
        let (mut sync, mut step) = OrphanSync::begin(&self.known().0, &mut memory, pod.clone());
        while let OrphanStep::Request(request) = step {
            let response = self.ask_about_orphan(&task_uid, &request);
            self.check_pods();
            step = sync.next(&self.known().0, &mut memory, response);
        }
        self.orphan_memories.insert(pod.facts.uid.clone(), memory);
        step
    }

    fn ask_about_orphan(
        &mut self,
        task_uid: &str,
        request: &OrphanRequest<Simulated>,
    ) -> OrphanResponse<Simulated> {
        let call = Call::from(request);
        self.requests.push(call);
        match self.fault_of(call) {
            None => self.perform_on_orphan(task_uid, request),
            Some(Fault::Fails(failure)) => OrphanResponse::Failed(failure),
            Some(Fault::Answers(Response::Pod(pod))) => OrphanResponse::Pod(pod),
            Some(Fault::Answers(_)) => OrphanResponse::Done,
            Some(Fault::AnswerLost) => {
                self.perform_on_orphan(task_uid, request);
                OrphanResponse::Failed(Failure::Lost)
            }
            Some(Fault::After(event)) => {
                event(self);
                self.perform_on_orphan(task_uid, request)
            }
        }
    }

    /// The pod of this name, as the operator's cache would show it now.
    pub fn cached_pod(&mut self, name: &str) -> Handle<CachedPod> {
        let pods = self.server.cached_pods();
        pods.into_iter().find(|pod| pod.facts.name == name).expect("the pod is there")
    }
}

/// The release that the operator belongs to.
pub(super) fn serving() -> Serving {
    Serving { release: "agentloop-system/agentloop".parse().unwrap(), take_over: [].into() }
}
