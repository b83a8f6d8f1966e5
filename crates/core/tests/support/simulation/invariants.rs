//! The protocol's invariants, checked at every write and after every request.

use std::collections::BTreeSet;

use agentloop_core::{
    api::{ActiveIteration, AgentTaskStatus, Phase, StopReason},
    facts::PodFacts,
    settings::Configuration,
};
use agentloop_test_support::invariants::Invariant::{S1, S2, S3, S4, S5, S6};
use kube::ResourceExt;

use super::Simulation;

impl Simulation {
    /// Checks a status that is about to be written by a reconcile that knows this configuration, and returns it as the
    /// API server gives it back.
    pub(super) fn checked(&self, status: &AgentTaskStatus, known: &Configuration) -> AgentTaskStatus {
        let before = self.status();
        let json = serde_json::to_string(status).unwrap();
        // As the API server keeps it: Go escapes these too.
        let escaped = json.matches(['<', '>', '&', '\u{2028}', '\u{2029}']).count() * 5;
        let bytes = json.len() + escaped;
        assert!(bytes < 16 * 1024, "the status has {bytes} bytes");
        let after: AgentTaskStatus = serde_json::from_str(&json).unwrap();
        check_bounds(&after);
        let grown = after.iterations - before.iterations;
        assert!(grown == 0 || grown == 1, "{S4}: iterations {} → {}", before.iterations, after.iterations);
        assert!(
            before.phase != Some(Phase::Succeeded) || after.phase == Some(Phase::Succeeded),
            "Succeeded is final"
        );
        if let Some(active) = after.active.as_ref().filter(|_| before.active != after.active) {
            self.check_start(&before, &after, active);
            assert!(!known.paused, "nothing starts while paused");
        }
        let is_settled = before.active.is_some() && after.active.as_ref() != before.active.as_ref();
        assert!(grown == 0 || is_settled, "{S4}: only a settled iteration is counted");
        if is_settled {
            let attempt = before.active.map(|active| (active.iteration, active.attempt)).unwrap();
            let is_right = (grown == 1) == self.charged.contains(&attempt) || self.unsure.contains(&attempt);
            assert!(is_right, "{S4}: {attempt:?} is charged correctly, not {grown} times");
        }
        self.check_limit_is_shown(&after);
        after
    }

    /// Checks that this iteration may become active.
    fn check_start(&self, before: &AgentTaskStatus, after: &AgentTaskStatus, active: &ActiveIteration) {
        assert_eq!(active.iteration, after.iterations + 1, "{S2}: iterations are contiguous");
        assert!(active.iteration <= after.max_iterations.unwrap(), "{S3}: the limit shown binds");
        // In force is the newest configuration that this operator or the task knows of: it never turns back.
        let version = |status: &AgentTaskStatus| {
            let version = status.thresholds.as_ref().and_then(|t| t.config_version.clone());
            version.map_or(0, |version| version.parse::<u64>().unwrap())
        };
        let real = self.real.version.as_ref().map_or(0, |version| version.parse().unwrap());
        let used = version(after);
        assert!(used >= version(before) || used == real, "{S3}: an older configuration was used");
        if let Some(settings) = self.real.newest.as_ref().ok().filter(|_| used == real) {
            let asked = self.task().spec.max_iterations.unwrap_or(settings.default_max_iterations.value);
            let limit = asked.min(settings.hard_limit.value).max(1);
            assert!(active.iteration <= limit, "{S3}: {} is above {limit}", active.iteration);
        }
        let next = (active.iteration, active.attempt);
        assert!(self.created.iter().all(|earlier| *earlier < next), "{S2}: {next:?} has been created before");
        assert!(!self.task().spec.suspend, "nothing starts while suspended");
        assert_eq!(after.stop, None, "{S5}: nothing starts in a stopped loop");
        if let Some(stop) = &before.stop {
            let token = after.last_handled_reset_token != before.last_handled_reset_token;
            assert!(stop.phase != Phase::Succeeded, "{S5}: Succeeded is final");
            assert!(
                token || Some(stop.generation) != self.task().metadata.generation,
                "{S5}: {stop:?} is in effect"
            );
            assert!(token || stop.phase != Phase::Failed, "{S5}: only a token lifts Failed");
        }
    }

    /// S6.
    fn check_limit_is_shown(&self, status: &AgentTaskStatus) {
        let Some(limit) = status.max_iterations else { return };
        let circuit_or_final = status
            .stop
            .as_ref()
            .is_some_and(|s| matches!(s.phase, Phase::CircuitOpen | Phase::Failed | Phase::Succeeded));
        let is_unknown = status
            .stop
            .as_ref()
            .is_some_and(|s| matches!(s.phase, Phase::Other(_)) || matches!(s.reason, StopReason::Other(_)));
        if is_unknown {
            return;
        }
        let must = status.active.is_none()
            && !self.task().spec.suspend
            && !circuit_or_final
            && status.iterations >= limit;
        assert_eq!(status.phase == Some(Phase::IterationLimitReached), must, "{S6}: {status:?}");
    }

    pub(super) fn check_pods(&mut self) {
        let uid = self.task().uid().unwrap();
        let pods = self.server.cached_pods();
        let may_run = |pod: &PodFacts| !pod.has_scheduling_gate && pod.ended().is_none();
        let live: Vec<&PodFacts> =
            pods.iter().map(|pod| &pod.facts).filter(|pod| pod.belongs_to(&uid) && may_run(pod)).collect();
        assert!(live.len() <= 1, "{S1}: {live:?}");
        // An iteration that an uninstall orphaned counts, even if its pod was never created.
        let attempts = self.created.iter().chain(&self.charged);
        let iterations: BTreeSet<i32> = attempts.map(|(iteration, _)| *iteration).collect();
        let last = iterations.last().copied().unwrap_or(0);
        assert_eq!(iterations.len(), usize::try_from(last).unwrap(), "{S2}: {iterations:?}");
        let charged: BTreeSet<i32> = self.charged.iter().map(|(iteration, _)| *iteration).collect();
        assert_eq!(charged.len(), self.charged.len(), "{S2}: an iteration was charged twice");
    }
}

/// The lengths that the schema allows.
fn check_bounds(status: &AgentTaskStatus) {
    let at_most = |text: Option<&str>, most: usize, what: &str| {
        let length = text.map_or(0, |text| text.chars().count());
        assert!(length <= most, "{what} has {length} characters");
    };
    at_most(status.reason.as_deref(), 64, "reason");
    at_most(status.message.as_deref(), 1024, "message");
    at_most(status.waiting.as_ref().and_then(|w| w.message.as_deref()), 512, "waiting.message");
    at_most(status.breaker.error_signature.as_deref(), 200, "errorSignature");
    assert!(status.history.len() <= 10, "history");
    for entry in &status.history {
        at_most(entry.error.as_deref(), 200, "error");
        let Some(gate) = &entry.gate else { continue };
        at_most(gate.reason.as_deref(), 200, "gate.reason");
        assert!(gate.blockers.len() <= 3, "blockers");
        gate.blockers.iter().for_each(|blocker| at_most(Some(blocker), 200, "blocker"));
    }
}
