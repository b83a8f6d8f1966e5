//! Whether the model provider refused to serve, from the last event of an agent's own stream.
//!
//! A status is taken before words; words only from the final error of a failed turn. Neither tool output nor plain
//! output is ever searched: the repository at hand may itself be about rate limits.

use agentloop_contract::report::{Refusal, RefusalKind};
use jiff::{SignedDuration, Timestamp};

/// No provider asks for more; a time further away is a misreading.
const FURTHEST: SignedDuration = SignedDuration::from_hours(35 * 24);

/// Wordings of "not with this credential", in lower case.
const CREDENTIAL: &[&str] = &[
    "401 unauthorized",
    "status 401",
    "403 forbidden",
    "status 403",
    "invalid api key",
    "invalid_api_key",
    "failed to authenticate",
    "authentication_error",
];

/// Wordings of "not now", in lower case.
const LIMIT: &[&str] = &[
    "429 too many requests",
    "status 429",
    "status: 429",
    "too many requests",
    "rate limit",
    "rate_limit",
    "usage limit",
    "session limit",
    "weekly limit",
    "hit your limit",
    "limit reached",
    "insufficient_quota",
    "exceeded your current quota",
    "quota exceeded",
    "503 service unavailable",
    "status 503",
    "status: 503",
    "status 529",
    "status: 529",
    "overloaded",
    "selected model is at capacity",
];

/// The kind of refusal that a request's status tells, or else the words of the final error.
pub fn find(status: Option<i64>, words: Option<&str>) -> Option<RefusalKind> {
    match status {
        Some(401 | 403) => return Some(RefusalKind::Unauthenticated),
        Some(429 | 503 | 529) => return Some(RefusalKind::RateLimited),
        Some(_) => return None,
        None => {}
    }
    let words = words?.to_lowercase();
    let has = |wordings: &[&str]| wordings.iter().any(|wording| words.contains(wording));
    if has(CREDENTIAL) {
        Some(RefusalKind::Unauthenticated)
    } else if has(LIMIT) {
        Some(RefusalKind::RateLimited)
    } else {
        None
    }
}

/// A refusal with the time it names, where that lies ahead and not absurdly far.
pub fn with_time(kind: RefusalKind, until: Option<Timestamp>, now: Timestamp) -> Refusal {
    let sensible = |at: &Timestamp| *at > now && at.duration_since(now) < FURTHEST;
    let until = until.filter(|at| kind == RefusalKind::RateLimited && sensible(at));
    Refusal { kind, until, unavailable: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_taken_before_words() {
        assert_eq!(find(Some(401), Some("429 Too Many Requests")), Some(RefusalKind::Unauthenticated));
        assert_eq!(find(Some(529), None), Some(RefusalKind::RateLimited));
        assert_eq!(find(Some(400), Some("rate limit")), None);
        assert_eq!(find(Some(500), None), None);
    }

    #[test]
    fn refusals_come_in_many_words() {
        for words in [
            "exceeded retry limit, last status: 429 Too Many Requests",
            "You've hit your usage limit. Try again at 3:05 PM.",
            "Claude AI usage limit reached|1763830800",
            "5-hour limit reached ∙ resets 3pm",
            "You exceeded your current quota, please check your plan",
            "Quota exceeded. Check your plan and billing details.",
            "Selected model is at capacity. Please try a different model.",
        ] {
            assert_eq!(find(None, Some(words)), Some(RefusalKind::RateLimited), "{words}");
        }
        for words in ["unexpected status 401 Unauthorized: bad key, url: http://x", "403 Forbidden"] {
            assert_eq!(find(None, Some(words)), Some(RefusalKind::Unauthenticated), "{words}");
        }
        for words in ["stream disconnected before completion", "line 429 of the file", "exit code 401"] {
            assert_eq!(find(None, Some(words)), None, "{words}");
        }
    }

    #[test]
    fn a_time_gone_by_or_far_away_is_not_told() {
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().expect("time");
        let told = |at: &str| with_time(RefusalKind::RateLimited, at.parse().ok(), now).until;
        assert!(told("2026-11-22T11:00:00Z").is_some());
        assert!(told("2026-11-22T09:00:00Z").is_none());
        assert!(told("2027-11-22T09:00:00Z").is_none());
    }
}
