use super::*;

#[test]
fn a_status_takes_precedence_over_the_message() {
    assert_eq!(find(Some(401), "429 Too Many Requests"), Some(FailureKind::Credential));
    assert_eq!(find(Some(529), ""), Some(FailureKind::Unavailable));
    assert_eq!(find(Some(400), "rate limit"), None);
    assert_eq!(find(Some(404), "overloaded"), None);
    for status in [500, 502, 503, 504, 408] {
        assert_eq!(find(Some(status), "invalid api key"), Some(FailureKind::Unavailable), "{status}");
    }
    assert_eq!(
        find(Some(400), "API key not valid. Please pass a valid API key."),
        Some(FailureKind::Credential)
    );
    assert_eq!(find(Some(500), "litellm.ContextWindowExceededError: prompt is too long"), None);
}

#[track_caller]
fn all(kind: Option<FailureKind>, messages: &[&str]) {
    for message in messages {
        assert_eq!(find(None, message), kind, "{message}");
    }
}

#[test]
fn many_wordings_mean_a_usage_limit() {
    all(
        Some(FailureKind::Limit),
        &[
            "exceeded retry limit, last status: 429 Too Many Requests",
            "You've hit your usage limit. Try again at 3:05 PM.",
            "Claude AI usage limit reached|1763830800",
            "5-hour limit reached ∙ resets 3pm",
            "You exceeded your current quota, please check your plan",
            "Quota exceeded. Check your plan and billing details.",
            "Selected model is at capacity. Please try a different model.",
            "You have exhausted your capacity on this model. Your quota will reset after 3h2m1s.",
            r#"[API Error: {"error":{"code":429,"message":"Resource exhausted","status":"RESOURCE_EXHAUSTED"}}]"#,
            "Error code: 429 - {'error': {'message': 'slow down'}}",
        ],
    );
}

#[test]
fn many_wordings_mean_a_refused_credential() {
    all(
        Some(FailureKind::Credential),
        &[
            "unexpected status 401 Unauthorized: bad key, url: http://x",
            "403 Forbidden",
            "Not logged in · Please run /login",
            "Invalid API key · Fix external API key",
            "OAuth token has expired. Please obtain a new token or refresh your existing token.",
            "OAuth token revoked · Please run /login",
            "Your access token could not be refreshed because your refresh token was already used. Please log out and sign in again.",
            "Your session has expired. Please sign in.",
            "Failed to authenticate. API Error: 401 {\"type\":\"error\"}",
            "Missing environment variable: `OPENAI_API_KEY`.",
            r#"[API Error: {"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT"}}]"#,
        ],
    );
}

#[test]
fn a_provider_that_fails_or_cannot_be_reached_is_unavailable() {
    all(
        Some(FailureKind::Unavailable),
        &[
            "API Error: 500 Internal server error. This is a server-side issue, usually temporary.",
            "API Error: 502 <html><title>502 Bad Gateway</title></html>",
            "unexpected status 504 Gateway Timeout: upstream request timeout",
            "Request failed with status code 502",
            "API Error: Overloaded",
            "API Error: Connection error.",
            "Unable to connect to API (ECONNREFUSED)",
            "getaddrinfo ENOTFOUND api.anthropic.com",
            "socket hang up",
            "stream disconnected before completion: error sending request for url (https://api.openai.com/v1/responses)",
            "exception TypeError: fetch failed sending request",
            r#"[API Error: {"error":{"code":500,"message":"An internal error has occurred.","status":"INTERNAL"}}]"#,
        ],
    );
}

#[test]
fn an_error_of_the_iteration_is_no_refusal() {
    all(
        None,
        &[
            "Context limit reached · /compact or /clear to continue",
            "Codex ran out of room in the model's context window. Start a new conversation",
            "prompt is too long: 208310 tokens > 200000 maximum",
            "ENOSPC: no space left on device, write",
            "write /workspace/x: disk quota exceeded",
            "database or disk is full",
            "There's an issue with the selected model (opus-9). It may not exist or you may not have access to it.",
            "unexpected status 404 Not Found: The model `x` does not exist",
            "API Error: 400 {\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"messages: rate limit\"}}",
            "line 429 of the file",
            "exit code 401",
            "error_max_turns",
            "the turn failed",
        ],
    );
}

#[test]
fn a_past_or_far_away_time_is_skipped_and_the_next_one_is_used() {
    let now: Timestamp = "2026-11-22T10:00:00Z".parse().expect("time");
    let at = |at: &str| at.parse().ok();
    let until = |times: &[Option<Timestamp>]| with_time(FailureKind::Limit, times, now).until;
    assert!(until(&[at("2026-11-22T11:00:00Z")]).is_some());
    assert_eq!(until(&[at("2026-11-22T09:00:00Z")]), None);
    assert_eq!(until(&[at("2027-11-22T09:00:00Z"), at("2026-11-22T12:00:00Z")]), at("2026-11-22T12:00:00Z"));
    assert_eq!(with_time(FailureKind::Credential, &[at("2026-11-22T11:00:00Z")], now).until, None);
}
