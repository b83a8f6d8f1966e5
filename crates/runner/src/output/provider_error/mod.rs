//! Whether the model provider refused to serve, from the last event of an agent's own stream.
//!
//! A status is taken before words; words only from the final error of a failed turn. Neither tool output nor plain
//! output is ever searched: the repository at hand may itself be about rate limits.

mod words;

use agentloop_contract::report::{ProviderError, ProviderErrorKind};
use jiff::{SignedDuration, Timestamp};

use super::json::Json;

/// No provider asks for more; a time further away is a misreading.
const FURTHEST: SignedDuration = SignedDuration::from_hours(35 * 24);

/// What a failed request was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The iteration's own error: another try will not end otherwise.
    Own,
    /// Not with this credential.
    Credential,
    /// Not now: a limit of use.
    Limit,
    /// Not now: the provider failed, or could not be reached.
    Unavailable,
}

/// The kind of refusal that a request's status tells, or else the words of the final error.
pub fn find(status: Option<i64>, words: &str) -> Option<FailureKind> {
    let lower = words.to_lowercase();
    let said = words::find(&lower);
    let kind = match status.or_else(|| status_in(words, &lower)) {
        Some(401 | 403) => FailureKind::Credential,
        Some(402 | 429) => FailureKind::Limit,
        // Proxies answer so to a conversation that is too long.
        Some(408 | 500..=599) if said == Some(FailureKind::Own) => return None,
        Some(408 | 500..=599) => FailureKind::Unavailable,
        // A bad key is a bad request at some providers; that a request is at fault is else no refusal.
        Some(400) if said == Some(FailureKind::Credential) => FailureKind::Credential,
        Some(400) if lower.contains("credit balance is too low") => FailureKind::Limit,
        // What is no status of HTTP is some other number.
        Some(400..=499) => return None,
        _ => said?,
    };
    (kind != FailureKind::Own).then_some(kind)
}

/// The status that an error's words name.
fn status_in(words: &str, lower: &str) -> Option<i64> {
    if let Some(error) = Json::within(words) {
        let inner = error.get("error");
        let fields = [inner.get("code"), inner.get("status"), error.get("code"), error.get("status")];
        if let Some(status) = fields.into_iter().filter_map(Json::integer).find(|s| (400..600).contains(s)) {
            return Some(status);
        }
    }
    words::BEFORE_STATUS.iter().find_map(|before| {
        lower.match_indices(before).find_map(|(at, _)| {
            let rest = lower.get(at + before.len()..)?.trim_start_matches([' ', ':', '=', '(', '"', '\'']);
            let (digits, rest) = rest.split_at_checked(3)?;
            let ends = !rest.starts_with(|c: char| c.is_alphanumeric());
            digits.parse().ok().filter(|status| ends && (400..600).contains(status))
        })
    })
}

/// A refusal with the first of the times that lies ahead and not absurdly far.
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
