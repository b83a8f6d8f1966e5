//! Recognises that the model provider refused to serve, from the final error in an agent's own stream.
//!
//! A status takes precedence over the message, and only the message of the final error of a failed turn is read. Tool
//! output and plain output are never searched: the agent's project may itself be about rate limits.

mod wordings;

use agentloop_contract::report::{ProviderError, ProviderErrorKind};
use jiff::{SignedDuration, Timestamp};

use super::json::Json;

/// No provider asks for a longer wait. A later time was misread.
const FURTHEST: SignedDuration = SignedDuration::from_hours(35 * 24);

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// An error of the iteration itself: a retry would fail in the same way.
    Own,
    /// The credential was refused.
    Credential,
    /// Not now: a usage limit was reached.
    Limit,
    /// Not now: the provider failed, or could not be reached.
    Unavailable,
}

/// Why the provider refused, according to the request's status, or else to the message of the final error.
pub fn find(status: Option<i64>, message: &str) -> Option<FailureKind> {
    let lower = message.to_lowercase();
    let by_wording = wordings::find(&lower);
    let kind = match status.or_else(|| status_in(message, &lower)) {
        Some(401 | 403) => FailureKind::Credential,
        Some(402 | 429) => FailureKind::Limit,
        // Proxies answer with these if the conversation is too long.
        Some(408 | 500..=599) if by_wording == Some(FailureKind::Own) => return None,
        Some(408 | 500..=599) => FailureKind::Unavailable,
        // Some providers call a bad key a bad request. Any other bad request is no refusal.
        Some(400) if by_wording == Some(FailureKind::Credential) => FailureKind::Credential,
        Some(400) if lower.contains("credit balance is too low") => FailureKind::Limit,
        // Any other number is not an HTTP status.
        Some(400..=499) => return None,
        _ => by_wording?,
    };
    (kind != FailureKind::Own).then_some(kind)
}

/// The status that an error's message names.
fn status_in(message: &str, lower: &str) -> Option<i64> {
    if let Some(error) = Json::within(message) {
        let inner = error.get("error");
        let fields = [inner.get("code"), inner.get("status"), error.get("code"), error.get("status")];
        if let Some(status) = fields.into_iter().filter_map(Json::integer).find(|s| (400..600).contains(s)) {
            return Some(status);
        }
    }
    wordings::BEFORE_STATUS.iter().find_map(|before| {
        lower.match_indices(before).find_map(|(at, _)| {
            let rest = lower.get(at + before.len()..)?.trim_start_matches([' ', ':', '=', '(', '"', '\'']);
            let (digits, rest) = rest.split_at_checked(3)?;
            let ends = !rest.starts_with(|c: char| c.is_alphanumeric());
            digits.parse().ok().filter(|status| ends && (400..600).contains(status))
        })
    })
}

/// A provider error with the first of the times that is in the future and not too far away.
pub fn with_time(kind: FailureKind, times: &[Option<Timestamp>], now: Timestamp) -> ProviderError {
    let sensible = |at: &Timestamp| *at > now && at.duration_since(now) < FURTHEST;
    let until = times.iter().flatten().copied().find(sensible);
    let unavailable = kind == FailureKind::Unavailable;
    let kind = match kind {
        FailureKind::Credential => ProviderErrorKind::Unauthenticated,
        _ => ProviderErrorKind::RateLimited,
    };
    ProviderError { kind, until: until.filter(|_| kind == ProviderErrorKind::RateLimited), unavailable }
}

#[cfg(test)]
mod tests;
