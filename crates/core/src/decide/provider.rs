//! Refusals of the model provider: how long the next try waits, and how often it is free.

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

/// No provider makes a task wait longer than this on its word alone.
const LONGEST_REFUSAL: SignedDuration = SignedDuration::from_hours(24);
/// Tasks that share a credential must not all come back in the same second.
const MOST_JITTER_SECONDS: i64 = 30;

/// Whether one more refused attempt at this iteration may be free. Its agent had started, so it may have
/// cost something all the same: only so many are taken at its word.
pub(super) fn is_free(draft: &Draft<'_>) -> bool {
    i64::from(draft.status.free_attempts) < draft.observed.configuration.last_good.free_attempts
}

/// Whether an agent that ended so was served: then the next refusal is the first again. How an iteration
/// ended that was broken off, or never began, says nothing of the provider.
pub(super) fn has_served(outcome: IterationOutcome) -> bool {
    matches!(outcome, IterationOutcome::Exited | IterationOutcome::TimedOut | IterationOutcome::Killed)
}

/// Waits after a refusal, charged or not. The delays grow with the refusals in a row; a time that the
/// provider named may lengthen them, because it is the agent's word, and never shorten them.
pub(super) fn wait(draft: &mut Draft<'_>, active: &ActiveIteration, charge: &Charge) {
    let now = draft.observed.now;
    let settings = &draft.observed.configuration.last_good;
    let before = draft.status.refusals;
    let own = backed_off(settings.rate_limit_min_seconds, settings.rate_limit_max_seconds, before);
    let named = charge.refused.flatten().map(|until| until.min(later(now, LONGEST_REFUSAL)));
    let own = later(now, own);
    let until = named.map_or(own, |named| named.max(own));
    let until = later(until, jitter(draft, active, until.duration_since(now)));
    draft.status.refusals = before.saturating_add(1);
    let reason = if charge.unavailable { WaitReason::ProviderUnavailable } else { WaitReason::RateLimited };
    let message = outcome::summary_of(&charge.error, charge.report.as_ref()).unwrap_or_default();
    draft.wait(&Obstacle { reason, message }, Some(until));
}

/// At most half a minute, and at most half of the delay; the same for the same attempt, whoever decides.
fn jitter(draft: &Draft<'_>, active: &ActiveIteration, delay: SignedDuration) -> SignedDuration {
    let most = (delay.as_secs() / 2).clamp(0, MOST_JITTER_SECONDS);
    let attempt = format!("{} {} {}", draft.uid(), active.iteration, active.attempt);
    let seed = Sha256::digest(attempt.as_bytes()).first().copied().unwrap_or_default();
    SignedDuration::from_secs(most.saturating_mul(i64::from(seed)) / 255)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_agent_that_came_to_an_end_was_served() {
        assert!(
            [IterationOutcome::Exited, IterationOutcome::TimedOut, IterationOutcome::Killed]
                .into_iter()
                .all(has_served)
        );
        assert!(
            ![IterationOutcome::Interrupted, IterationOutcome::PodLost, IterationOutcome::AlreadyRan]
                .into_iter()
                .any(has_served)
        );
    }
}
