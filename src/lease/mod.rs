//! Leader election on a `coordination.k8s.io` Lease.
//!
//! The Lease chooses which operator works; it does not fence the others. The protocol counts exactly even with two
//! operators: the Lease only avoids conflicts between them. A process that loses it exits and restarts as a standby.
//!
//! [`decide`](mod@decide) is the rule, and this module only carries it out: every write has the resourceVersion that was
//! read, so one of two candidates gets a conflict.
//!
//! Why not a library: kube has none. kubert 0.25, kube-lease-manager 0.13 and kube-leader-election 0.44 compare the renewal
//! time in the Lease, which is another machine's clock, with their own wall clock. kube-coordinate 2.0.0-rc.0 measures
//! expiry locally, as client-go does, but needs kube 2 and chrono. See `docs/adr/0004-own-leader-election.md`.

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

/// The timeout of one request: after one that hangs, there is time for another one before the renewal is due.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

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
    /// The Lease that the next write changes: its resourceVersion is the precondition.
    lease: Option<Lease>,
    observed: Option<LeaseObservation>,
    /// While we lead: when the last successful renewal was sent.
    held: Option<Instant>,
}

impl Election {
    /// A candidate. `client` must not retry requests.
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

    /// Waits until this process holds the Lease; false if `stop` comes first.
    ///
    /// Errors are retried without end, because a standby has nothing else to do. `report` is called before and after each
    /// check.
    pub async fn acquire(&mut self, stop: &CancellationToken, report: impl Fn(CandidateStatus)) -> bool {
        let mut logged = String::new();
        loop {
            if stop.is_cancelled() {
                return false;
            }
            report(CandidateStatus::Checking);
            // Not cancelled half way: a write that was sent could make this process a holder that never renews.
            let next = match self.check().await {
                Ok(ElectionStep::Renew | ElectionStep::Acquire { .. }) => {
                    info!(lease = self.name, identity = self.identity, "acquired the lease; working");
                    return true;
                }
                Ok(ElectionStep::Wait(until)) => {
                    report(CandidateStatus::StandingBy);
                    let holder = self.holder();
                    if logged != holder {
                        info!(lease = self.name, holder, "standing by: another operator holds the lease");
                        logged = holder.to_owned();
                    }
                    until.saturating_duration_since(Instant::now()).min(self.pause())
                }
                // Only a holder can lose the Lease; a candidate checks it again.
                Ok(ElectionStep::Lost(_)) => self.pause(),
                Err(error) => {
                    let message = error.to_string();
                    if error.is_conflict() || error.already_exists() {
                        debug!(%error, "another candidate took the lease first");
                    } else {
                        report(CandidateStatus::Unable);
                        if logged != message {
                            warn!(lease = self.name, %error, "cannot take the lease; retrying");
                            logged = message;
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

    /// Renews until `stop`, then releases the Lease, so that a successor starts immediately.
    ///
    /// # Errors
    /// The loss of leadership: all work that depends on this Lease must stop.
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
            // A renewal that hangs must not hide the deadline. A `stop` during the renewal is noticed after it.
            let deadline = self.held.unwrap_or_else(Instant::now) + self.timings.renew_deadline;
            match time::timeout_at(deadline, self.check()).await {
                Ok(Ok(ElectionStep::Lost(loss))) => return Err(loss),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => warn!(lease = self.name, %error, "cannot renew the lease; retrying"),
                Err(_) => return Err(Loss::Deadline(self.timings.renew_deadline)),
            }
        }
    }

    /// The holder of the Lease when it was last read.
    pub fn holder(&self) -> &str {
        self.observed.as_ref().map_or("", |observed| &observed.record.holder)
    }

    /// Releases the Lease if this process holds it. An error is only logged, because the Lease expires.
    pub async fn release(&mut self) {
        let Some(lease) = self.lease.take().filter(|_| self.held.take().is_some()) else { return };
        let mut freed = lease;
        if let Some(spec) = freed.spec.as_mut() {
            spec.holder_identity = Some(String::new());
            spec.renew_time = Some(now());
            // As client-go does: no candidate should wait for a Lease without a holder.
            spec.lease_duration_seconds = Some(1);
        }
        match with_timeout(REQUEST_TIMEOUT, self.api.replace(&self.name, &post_params(), &freed)).await {
            Ok(_) => info!(lease = self.name, "released the lease"),
            Err(error) => warn!(lease = self.name, %error, "cannot release the lease; it will expire"),
        }
    }

    /// Deletes the Lease if this process holds it and it is as this process last wrote it.
    pub async fn delete(mut self) -> Result<(), RequestError> {
        let Some(lease) = self.lease.take().filter(|_| self.held.take().is_some()) else { return Ok(()) };
        let ours = DeleteParams::default().preconditions(Preconditions {
            resource_version: lease.metadata.resource_version,
            uid: lease.metadata.uid,
        });
        match with_timeout(REQUEST_TIMEOUT, self.api.delete(&self.name, &ours)).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads the Lease if needed, decides, and writes. Returns the step that was carried out.
    async fn check(&mut self) -> Result<ElectionStep, RequestError> {
        // A leader knows the Lease from its last write and need not read it.
        if self.held.is_none() || self.lease.is_none() {
            self.read().await?;
        }
        match self.attempt().await {
            Err(error) if error.is_conflict() || error.is_not_found() || error.already_exists() => {
                // Another process wrote or deleted it in the meantime: decide by its present state.
                self.read().await?;
                self.attempt().await
            }
            Err(error) => {
                // The write may have happened; then the resourceVersion is unknown.
                self.lease = None;
                Err(error)
            }
            done => done,
        }
    }

    async fn read(&mut self) -> Result<(), RequestError> {
        self.lease = with_timeout(REQUEST_TIMEOUT, self.api.get_opt(&self.name)).await?;
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
            with_timeout(REQUEST_TIMEOUT, self.api.replace(&self.name, &post_params(), &written)).await?
        } else {
            with_timeout(REQUEST_TIMEOUT, self.api.create(&post_params(), &written)).await?
        };
        self.lease = Some(answer);
        self.held = Some(sent);
        self.observe();
        Ok(step)
    }

    /// The Lease as it will be written. Fields that the election does not set are kept.
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

    /// The time until the next check, with up to a fifth more, so that candidates do not check in step.
    fn pause(&self) -> Duration {
        self.timings.retry.mul_f64(1.0 + 0.2 * fastrand::f64())
    }
}

/// In microseconds, as the API stores it: a more precise time would differ from the one that is read back.
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
