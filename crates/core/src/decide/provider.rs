//! Refusals of the model provider: how long the next try waits, and how often an attempt is free.

use jiff::SignedDuration;
use sha2::{Digest, Sha256};

use super::{
    draft::Draft,
    outcome::{self, Charge},
};
use crate::{
    api::{ActiveIteration, IterationOutcome, WaitReason},
    facts::Obstacle,
    time::{backed_off, later},
};

/// The maximum wait that a time given by the provider can cause.
const MAX_PROVIDER_WAIT: SignedDuration = SignedDuration::from_hours(24);
/// Jitter, so that tasks that share a credential do not all try again in the same second.
const MAX_JITTER_SECONDS: i64 = 30;

/// Whether one more refused attempt of this iteration may be free. Its agent had started and may have cost something,
/// so the number of free attempts is limited.
pub(super) fn is_free(draft: &Draft<'_>) -> bool {
    i64::from(draft.status.free_attempts) < draft.observed.configuration.last_valid.free_attempts
}

/// Whether this outcome shows that the provider served the agent, so that the next refusal counts as the first. An
/// attempt that was interrupted or never began shows nothing about the provider.
pub(super) fn was_served(outcome: IterationOutcome) -> bool {
    matches!(outcome, IterationOutcome::Exited | IterationOutcome::TimedOut | IterationOutcome::Killed)
}

/// Waits after a refusal, charged or not. The delay grows with each refusal in a row. A time that the provider gave can
/// lengthen it but not shorten it, because it comes from the agent's output.
pub(super) fn wait(draft: &mut Draft<'_>, active: &ActiveIteration, charge: &Charge) {
    let now = draft.observed.now;
    let settings = &draft.observed.configuration.last_valid;
    let before = draft.status.refusals;
    let own = backed_off(settings.rate_limit_min_seconds, settings.rate_limit_max_seconds, before);
    let named = charge.refused.flatten().map(|until| until.min(later(now, MAX_PROVIDER_WAIT)));
    let own = later(now, own);
    let until = named.map_or(own, |named| named.max(own));
    let until = later(until, jitter(draft, active, until.duration_since(now)));
    draft.status.refusals = before.saturating_add(1);
    let reason = if charge.unavailable { WaitReason::ProviderUnavailable } else { WaitReason::RateLimited };
    let message = outcome::summary_of(&charge.error, charge.report.as_ref()).unwrap_or_default();
    draft.wait(&Obstacle { reason, message }, Some(until));
}

/// At most 30 seconds, and at most half of the delay. It depends on the attempt only, so every operator computes the
/// same.
fn jitter(draft: &Draft<'_>, active: &ActiveIteration, delay: SignedDuration) -> SignedDuration {
    let max = (delay.as_secs() / 2).clamp(0, MAX_JITTER_SECONDS);
    let attempt = format!("{} {} {}", draft.uid(), active.iteration, active.attempt);
    let seed = Sha256::digest(attempt.as_bytes()).first().copied().unwrap_or_default();
    SignedDuration::from_secs(max.saturating_mul(i64::from(seed)) / 255)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_agent_that_ran_to_its_end_was_served() {
        assert!(
            [IterationOutcome::Exited, IterationOutcome::TimedOut, IterationOutcome::Killed]
                .into_iter()
                .all(was_served)
        );
        assert!(
            ![IterationOutcome::Interrupted, IterationOutcome::PodLost, IterationOutcome::AlreadyRan]
                .into_iter()
                .any(was_served)
        );
    }
}
