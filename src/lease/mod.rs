//! Leader election on a `coordination.k8s.io` Lease.
//!
//! A Lease chooses who works; it fences nobody. The protocol is exact with two operators at once: the Lease spares them
//! each other's conflicts, and a process that loses it leaves promptly and starts over as a stand-by.
//!
//! [`decide`](mod@decide) is the rule; this module only carries it out: every write names the resourceVersion that was
//! read, so of two candidates one gets a conflict.

pub mod decide;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{DeleteParams, ObjectMeta, Preconditions};
use kube::{Api, Client};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::decide::{ElectionStep, LeaseObservation, Loss, Record, Timings, decide};
use crate::client::{RequestError, post_params, with_timeout};

/// One request's bound: a hung one leaves time for another before the renewal is due.
const REQUEST: Duration = Duration::from_secs(3);

/// What a candidate reports about its progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CandidateStatus {
    /// It is about to check the Lease.
    Checking,
    /// Another process holds the Lease.
    StandingBy,
    /// The Lease can neither be read nor be taken.
    Unable,
}

/// A candidate for one Lease; after [`Election::acquire`], its holder.
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
    timings: Timings,
    /// What the next write builds on: its resourceVersion is the precondition.
    lease: Option<Lease>,
    observed: Option<LeaseObservation>,
    /// While we lead: when the last successful renewal was sent.
    held: Option<Instant>,
}

impl Election {
    /// A candidate. `client` must not repeat requests by itself.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, timings: Timings) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            timings,
            lease: None,
            observed: None,
            held: None,
        }
    }

    /// Waits until the Lease is ours; false where `stop` came first.
    ///
    /// Errors are tried again for ever, for a stand-by has nothing better to do. `seen` is called before each
    /// look, and after it with what came of it.
    pub async fn acquire(&mut self, stop: &CancellationToken, seen: impl Fn(CandidateStatus)) -> bool {
        let mut said = String::new();
        loop {
            if stop.is_cancelled() {
                return false;
            }
            seen(CandidateStatus::Checking);
            // Not given up half way: a write that was sent might make us a holder who never renews.
            let next = match self.look().await {
                Ok(ElectionStep::Renew | ElectionStep::Acquire { .. }) => {
                    info!(lease = self.name, identity = self.identity, "holding the lease: working");
                    return true;
                }
                Ok(ElectionStep::Wait(until)) => {
                    seen(CandidateStatus::StandingBy);
                    let holder = self.holder();
                    if said != holder {
                        info!(lease = self.name, holder, "standing by: another operator holds the lease");
                        said = holder.to_owned();
                    }
                    until.saturating_duration_since(Instant::now()).min(self.pause())
                }
                // Only a holder can lose; a candidate looks again.
                Ok(ElectionStep::Lost(_)) => self.pause(),
                Err(error) => {
                    let words = error.to_string();
                    if error.is_conflict() || error.already_exists() {
                        debug!(%error, "another candidate was faster");
                    } else {
                        seen(CandidateStatus::Unable);
                        if said != words {
                            warn!(lease = self.name, %error, "the lease cannot be taken yet");
                            said = words;
                        }
                    }
                    self.pause()
                }
            };
            tokio::select! {
                () = stop.cancelled() => return false,
                () = time::sleep(next) => {}
            }
        }
    }

    /// Renews until `stop`, then releases the Lease, so that a successor starts at once.
    ///
    /// # Errors
    /// The loss of leadership; whoever works by this Lease must stop.
    pub async fn keep(mut self, stop: CancellationToken, beat: impl Fn()) -> Result<(), Loss> {
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    self.release().await;
                    return Ok(());
                }
                () = time::sleep(self.pause()) => {}
            }
            beat();
            // A renewal that hangs must not hide the deadline. Where `stop` comes meanwhile it is seen right after.
            let deadline = self.held.unwrap_or_else(Instant::now) + self.timings.renew_deadline;
            match time::timeout_at(deadline, self.look()).await {
                Ok(Ok(ElectionStep::Lost(loss))) => return Err(loss),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => warn!(lease = self.name, %error, "the lease was not renewed; trying again"),
                Err(_) => return Err(Loss::Deadline(self.timings.renew_deadline)),
            }
        }
    }

    /// Who holds the Lease, as it was last read.
    pub fn holder(&self) -> &str {
        self.observed.as_ref().map_or("", |observed| &observed.record.holder)
    }

    /// Gives a Lease that we hold back. An error is only logged: it expires by itself.
    pub async fn release(&mut self) {
        let Some(lease) = self.lease.take().filter(|_| self.held.take().is_some()) else { return };
        let mut freed = lease;
        if let Some(spec) = freed.spec.as_mut() {
            spec.holder_identity = Some(String::new());
            spec.renew_time = Some(now());
            // As client-go does: nobody is to wait for a Lease that nobody holds.
            spec.lease_duration_seconds = Some(1);
        }
        match with_timeout(REQUEST, self.api.replace(&self.name, &post_params(), &freed)).await {
            Ok(_) => info!(lease = self.name, "the lease is released"),
            Err(error) => warn!(lease = self.name, %error, "the lease is not released; it expires by itself"),
        }
    }

    /// Deletes a Lease that we hold, and only as we last wrote it.
    pub async fn delete(mut self) -> Result<(), RequestError> {
        let Some(lease) = self.lease.take().filter(|_| self.held.take().is_some()) else { return Ok(()) };
        let ours = DeleteParams::default().preconditions(Preconditions {
            resource_version: lease.metadata.resource_version,
            uid: lease.metadata.uid,
        });
        match with_timeout(REQUEST, self.api.delete(&self.name, &ours)).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads where needed, decides, and writes; the step is the one that was carried out.
    async fn look(&mut self) -> Result<ElectionStep, RequestError> {
        // A leader knows the Lease from its own last write and needs no read before the next.
        if self.held.is_none() || self.lease.is_none() {
            self.read().await?;
        }
        match self.attempt().await {
            Err(error) if error.is_conflict() || error.is_not_found() || error.already_exists() => {
                // Somebody wrote, or deleted, meanwhile; who holds it now decides.
                self.read().await?;
                self.attempt().await
            }
            Err(error) => {
                // The write may have happened: its resourceVersion is not ours to know.
                self.lease = None;
                Err(error)
            }
            done => done,
        }
    }

    async fn read(&mut self) -> Result<(), RequestError> {
        self.lease = with_timeout(REQUEST, self.api.get_opt(&self.name)).await?;
        self.observe();
        Ok(())
    }

    fn observe(&mut self) {
        self.observed = self
            .lease
            .as_ref()
            .map(|lease| LeaseObservation::update(self.observed.as_ref(), record(lease), Instant::now()));
    }

    async fn attempt(&mut self) -> Result<ElectionStep, RequestError> {
        let sent = Instant::now();
        let step = decide(self.observed.as_ref(), &self.identity, self.held, &self.timings, sent);
        let written = match &step {
            ElectionStep::Wait(_) | ElectionStep::Lost(_) => return Ok(step),
            ElectionStep::Acquire { transitions } => self.written(Some(*transitions)),
            ElectionStep::Renew => self.written(None),
        };
        let answer = if written.metadata.resource_version.is_some() {
            with_timeout(REQUEST, self.api.replace(&self.name, &post_params(), &written)).await?
        } else {
            with_timeout(REQUEST, self.api.create(&post_params(), &written)).await?
        };
        self.lease = Some(answer);
        self.held = Some(sent);
        self.observe();
        Ok(step)
    }

    /// The Lease as it is to become; all that is not ours to say is kept.
    fn written(&self, acquired_with: Option<i32>) -> Lease {
        let mut lease = self.lease.clone().unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            spec: None,
        });
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        let now = now();
        if let Some(transitions) = acquired_with {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(transitions);
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds =
            Some(i32::try_from(self.timings.duration.as_secs()).unwrap_or(i32::MAX).max(1));
        spec.renew_time = Some(now);
        lease
    }

    /// The time to the next look, with up to a fifth more so that candidates do not march in step.
    fn pause(&self) -> Duration {
        self.timings.retry.mul_f64(1.0 + 0.2 * fastrand::f64())
    }
}

/// The API keeps microseconds; more would make the record that is read back another one.
fn now() -> MicroTime {
    let now = Timestamp::now();
    MicroTime(now.round(jiff::Unit::Microsecond).unwrap_or(now))
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        acquired: spec.acquire_time.map(|time| time.0),
        renewed: spec.renew_time.map(|time| time.0),
        duration: spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map(Duration::from_secs),
        transitions: spec.lease_transitions.unwrap_or_default(),
    }
}
