//! One task: gather, decide, write, act, until there is nothing more to do now.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use agentloop_core::api::{AgentTask, AgentTaskStatus};
use agentloop_core::decide::served::Served;
use agentloop_core::decide::{self, Decision, Observed, PreviousPod};
use agentloop_core::facts::{Obstacle, PodFacts, PodState};
use agentloop_core::settings::Configuration;
use jiff::{SignedDuration, Timestamp};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt};
use serde_json::Value;
use tokio::time::Instant;
use tracing::{Instrument, debug, error, info, info_span, warn};

use super::act::Progress;
use super::cached_pod::CachedPod;
use super::events::Note;
use super::guard::slim;
use super::panics::{Fault, caught};
use super::{Guarded, Scope, merge};
use crate::client::{READ_TIMEOUT, RequestError, bounded};
use crate::metrics::{Place, Reconciled};

/// Decisions in one reconcile: settle, claim, create and start are four; the rest is for what is read in between.
const MOST_ROUNDS: usize = 12;
/// How long a reconcile goes on with new steps. The longest step takes less than this again, all its requests at
/// their bounds: so a reconcile ends within [`RECONCILE`](super::RECONCILE).
const LONGEST: Duration = Duration::from_mins(1);
/// When one that took longer goes on.
const LATER: Duration = Duration::from_secs(1);
/// A pod that has not started after this is asked about by its Events.
const EVENTS_AFTER: SignedDuration = SignedDuration::from_secs(10);

/// Why a reconcile failed; it is tried again, each time later.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// A request failed.
    #[error("{what}: {source}")]
    Request {
        /// What was tried.
        what: String,
        /// What came of it.
        source: RequestError,
    },
    /// Each decision called for another one.
    #[error("nothing is settled after {MOST_ROUNDS} decisions in a row")]
    Restless,
}

impl Error {
    pub(super) fn new(what: impl Into<String>, source: RequestError) -> Self {
        Self::Request { what: what.into(), source }
    }
}

/// What is known of one task during one reconcile.
pub(super) struct Run<'a> {
    pub(super) scope: &'a Scope,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) task: Arc<AgentTask>,
    pub(super) configuration: Configuration,
    pub(super) previous_pod: PreviousPod,
    pub(super) refused: Option<Obstacle>,
    pub(super) is_gone: bool,
    /// A write was worth another decision at once; the next one is not.
    pub(super) retried: bool,
    /// What could not be written, beside what could: the reconcile fails with it at its end.
    pub(super) postponed: Option<Error>,
    /// When it began.
    since: Instant,
}

pub(super) async fn reconcile(guarded: Arc<Guarded>, scope: Arc<Scope>) -> Result<Action, Fault<Error>> {
    let span = info_span!(
        "reconcile",
        namespace = guarded.namespace().unwrap_or_default(),
        task = guarded.name_any()
    );
    // Before anything that others wait for is taken: where a cache may not be filled this takes as long as that lasts.
    if !scope.is_ready().await {
        return Ok(Action::await_change());
    }
    let Some(_turn) = scope.turn().await else { return Ok(Action::await_change()) };
    // It may have changed while others had their turns.
    let guarded = scope.tasks.get(&ObjectRef::from_obj(guarded.as_ref())).unwrap_or(guarded);
    let _work = scope.shared.heartbeat.begin();
    let _worker = scope.shared.metrics.worker();
    let started = Instant::now();
    let result = caught(Box::pin(bring_on(&guarded, &scope)).instrument(span)).await;
    let how = match &result {
        Err(_) => Reconciled::Error,
        Ok(action) if *action == Action::await_change() => Reconciled::Success,
        Ok(_) => Reconciled::RequeueAfter,
    };
    scope.shared.measure(started, how);
    if result.is_ok() {
        scope.failures.forget(guarded.as_ref());
    }
    result
}

pub(super) fn on_error(guarded: &Guarded, fault: &Fault<Error>, scope: &Scope) -> Action {
    let task = ObjectRef::from_obj(guarded);
    match fault {
        Fault::Failed(error) => warn!(%task, %error, "the task could not be brought on; trying again"),
        Fault::Panicked(words) => {
            scope.shared.metrics.panicked(Place::Reconcile);
            error!(%task, panic = words, "agentloop panicked at this task; others go on, and it is tried again");
            scope.shared.events.publish(guarded.object_ref(&()), panicked(words));
        }
    }
    scope.failures.next(guarded)
}

fn panicked(words: &str) -> Note {
    Note {
        warning: true,
        reason: "OperatorPanicked".to_owned(),
        message: format!(
            "a fault in agentloop itself stops this task; other tasks go on, and it is tried again. Please report it: {words}"
        ),
    }
}

async fn bring_on(guarded: &Guarded, scope: &Scope) -> Result<Action, Error> {
    let task = match &guarded.0 {
        Ok(task) => task.clone(),
        Err(invalid) => {
            error!(error = %invalid, "the task cannot be read; it stays as it is, and others go on");
            let note = Note {
                warning: true,
                reason: "TaskUnreadable".to_owned(),
                message: format!("agentloop cannot read this task and leaves it as it is: {invalid}"),
            };
            scope.shared.events.publish(guarded.object_ref(&()), note);
            return Ok(Action::await_change());
        }
    };
    let mut run = Run {
        scope,
        namespace: task.namespace().unwrap_or_default(),
        name: task.name_any(),
        task: scope.newest_tasks.newest(task),
        configuration: scope.shared.configuration.get(),
        previous_pod: PreviousPod::Unknown,
        refused: None,
        is_gone: false,
        retried: false,
        postponed: None,
        since: Instant::now(),
    };
    for _ in 0..MOST_ROUNDS {
        let pods = run.pods();
        let decision = run.decide(&pods).await;
        match run.carry_out(decision, &pods).await? {
            Progress::Again if run.is_late() => return Ok(Action::requeue(LATER)),
            Progress::Again => {}
            Progress::Rest(again) => {
                return match run.postponed {
                    Some(error) => Err(error),
                    None => Ok(again.map_or_else(Action::await_change, Action::requeue)),
                };
            }
        }
    }
    Err(Error::Restless)
}

impl Run<'_> {
    /// The pods that bear this task's uid, as new as they are known.
    fn pods(&self) -> Vec<PodFacts> {
        let uid = self.task.uid();
        let is_ours = |pod: &CachedPod| pod.facts.task_uid == uid;
        let cached = self.scope.pods.state_filter(is_ours);
        let mut pods: HashMap<Option<String>, Arc<CachedPod>> = HashMap::new();
        for pod in cached.into_iter().map(|pod| self.scope.newest_pods.newest(pod)) {
            pods.insert(pod.uid(), pod);
        }
        // Created, and not in the cache yet.
        for pod in self.scope.newest_pods.filter(is_ours) {
            pods.entry(pod.uid()).or_insert(pod);
        }
        pods.values().map(|pod| pod.facts.clone()).collect()
    }

    async fn decide(&self, pods: &[PodFacts]) -> Decision {
        let now = Timestamp::now();
        let shared = &self.scope.shared;
        let is_ours = shared.serving.other(&self.task).is_none();
        let injection = shared.injection.get();
        let observed = Observed {
            task: &self.task,
            pods,
            configuration: &self.configuration,
            injection: &injection,
            obstacle: if is_ours { self.obstacle(pods, now).await } else { None },
            previous_pod: self.previous_pod.clone(),
            refused: self.refused.clone(),
            was_started: self.scope.started.has(&self.task),
            is_gone: self.is_gone,
            now,
        };
        let uid = self.task.uid().unwrap_or_default();
        match shared.serving.decide(&observed, shared.rules.decide) {
            Served::Here(decision) => {
                self.scope.elsewhere.forget(&uid);
                decision
            }
            Served::Elsewhere { release, decision } => {
                if self.scope.elsewhere.note(&uid, &release) {
                    warn!(release, "another release serves this task; it is left alone");
                    let note = shared.serving.tell_of(&release);
                    shared.events.publish(self.task.object_ref(&()), note);
                }
                decision
            }
        }
    }

    /// Nothing more is begun: what is left is decided on anew.
    fn is_late(&self) -> bool {
        self.since.elapsed() >= LONGEST
    }

    /// What the Events of the claimed pod tell, where its status is silent for too long.
    async fn obstacle(&self, pods: &[PodFacts], now: Timestamp) -> Option<Obstacle> {
        let active = self.task.status.as_ref()?.active.as_ref()?;
        let uid = self.task.uid()?;
        let pod = pods.iter().find(|pod| pod.is_of(&uid, active.iteration, active.attempt))?;
        let is_silent = pod.state == PodState::Starting(None) && pod.bound && pod.deletion.is_none();
        if !is_silent {
            return None;
        }
        let silent = now.duration_since(pod.created?).checked_sub(EVENTS_AFTER)?;
        // Negative: not yet.
        let silent = Duration::try_from(silent).ok()?;
        self.scope.shared.told.of(&self.namespace, &pod.uid, silent).await
    }

    /// Writes the status, then acts. A status that could not be written lets nothing be done.
    async fn carry_out(&mut self, decision: Decision, pods: &[PodFacts]) -> Result<Progress, Error> {
        if let Some(status) = &decision.status {
            self.sync_claim_owner().await?;
            if let Some(progress) = self.write(status).await? {
                return Ok(progress);
            }
            self.refused = None;
            self.is_gone = false;
        }
        let mut progress = Progress::Rest(decision.requeue_after);
        for action in &decision.actions {
            if self.is_late() {
                return Ok(progress.and(Progress::Rest(Some(LATER))));
            }
            debug!(?action, "acting");
            progress = progress.and(self.act(action, pods).await?);
        }
        Ok(progress)
    }

    /// Writes the status. An answer means that there is nothing to act on: the task is gone, or has changed.
    async fn write(&mut self, status: &AgentTaskStatus) -> Result<Option<Progress>, Error> {
        let before = self.task.status.clone();
        let json = |status: Option<&AgentTaskStatus>| serde_json::to_value(status).unwrap_or(Value::Null);
        let Some(patch) = merge::patch(&json(before.as_ref()), &json(Some(status))) else { return Ok(None) };
        let version = self.task.resource_version().unwrap_or_default();
        let written =
            self.scope.shared.writer.task_status(&self.namespace, &self.name, &version, &patch).await;
        match written {
            Ok(task) => {
                self.take(task);
                self.tell(before.as_ref(), status);
                Ok(None)
            }
            Err(error) if error.is_not_found() => Ok(Some(Progress::Rest(None))),
            // Changed meanwhile, or nobody knows whether it was written: read, compare, decide again.
            Err(error) if error.is_conflict() || error.is_lost() => {
                debug!(%error, "the status was not written; reading again");
                let again = self.retry(Error::new("writing the status", error))?;
                Ok(Some(if self.read().await? { again } else { Progress::Rest(None) }))
            }
            Err(error) => Err(Error::new("writing the status", error)),
        }
    }

    /// Lets one write of a reconcile be decided on again at once. The second one waits as all errors do, for what
    /// disturbs both may disturb the next twenty as well.
    pub(super) fn retry(&mut self, error: Error) -> Result<Progress, Error> {
        if std::mem::replace(&mut self.retried, true) { Err(error) } else { Ok(Progress::Again) }
    }

    /// Lets the other actions be done before the reconcile fails with this.
    pub(super) fn postpone(&mut self, error: Error) -> Result<Progress, Error> {
        if self.postponed.is_some() {
            return Err(error);
        }
        self.postponed = Some(error);
        Ok(Progress::Rest(None))
    }

    /// Goes on with a newer state of the task.
    pub(super) fn take(&mut self, task: AgentTask) {
        self.task = Arc::new(slim(task));
        self.scope.newest_tasks.remember(&self.task);
    }

    /// Reads the task from the API server itself; false where it is gone, or another has its name.
    pub(super) async fn read(&mut self) -> Result<bool, Error> {
        let api: Api<AgentTask> = Api::namespaced(self.scope.shared.clients.read.clone(), &self.namespace);
        let read = bounded(READ_TIMEOUT, api.get_opt(&self.name)).await;
        match read.map_err(|error| Error::new("reading the task", error))? {
            Some(task) if task.uid() == self.task.uid() => {
                self.take(task);
                // What was read of the configuration before may be older than what this task knows.
                self.configuration.consistent = false;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Logs, counts and announces what a status write changed.
    fn tell(&self, before: Option<&AgentTaskStatus>, after: &AgentTaskStatus) {
        let metrics = &self.scope.shared.metrics;
        if let Some(last) = after.history.first()
            && after.iterations > before.map_or(0, |status| status.iterations)
        {
            metrics.iteration(last.outcome);
            info!(iteration = last.iteration, outcome = %last.outcome, changed = %last.changed, "iteration settled");
        }
        if let Some(stop) = &after.stop
            && before.and_then(|status| status.stop.as_ref()) != Some(stop)
        {
            metrics.stop(stop.phase, stop.reason);
        }
        let claimed = after.active.as_ref().filter(|active| {
            before
                .and_then(|status| status.active.as_ref())
                .is_none_or(|known| known.pod_name != active.pod_name)
        });
        if let Some(active) = claimed {
            info!(
                iteration = active.iteration,
                attempt = active.attempt,
                pod = active.pod_name,
                "iteration claimed"
            );
        }
        for note in decide::announce(before, after) {
            info!(reason = note.reason, "{}", note.message);
            self.scope.shared.events.publish(self.task.object_ref(&()), note);
        }
    }
}
