//! Streams that real agents printed. See `tests/streams/README.md`.

#![allow(clippy::expect_used, clippy::panic, reason = "a test may panic")]

use std::{fs, path::Path};

use agentloop_contract::report::ProviderErrorKind;
use agentloop_runner::{
    completion_gate,
    output::{OutputCollector, OutputSummary, TurnEnd},
};
use jiff::{SignedDuration, Timestamp};

const AGENTS: [&str; 4] = ["claude", "codex", "opencode", "gemini"];

fn now() -> Timestamp {
    "2026-11-26T12:45:00Z".parse().expect("time")
}

fn summary(agent: &str, what: &str) -> OutputSummary {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/streams/{agent}-{what}.jsonl"));
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut output = OutputCollector::default();
    bytes.chunks(100).for_each(|piece| output.stdout(piece));
    let summary = output.summary(now());
    assert_eq!(output.has_ended(), summary.ended, "{agent} {what}: the stream came to its final event");
    summary
}

#[test]
fn a_success_has_its_gate_its_usage_and_no_failure() {
    for agent in AGENTS {
        let output = summary(agent, "success");
        assert!(
            completion_gate::find(&output.text).is_ok_and(|gate| gate.ready),
            "{agent}: {:?}",
            output.text
        );
        assert!(output.text.starts_with("The parser works now."), "{agent}: {:?}", output.text);
        assert_eq!((output.failed, output.provider_error), (None, None), "{agent}");
        assert_eq!(output.ended, Some(TurnEnd { failed: false }), "{agent}");
        // Two requests with 90 input tokens each, 40 of them cached, and 30 output tokens. Anthropic counts cached tokens
        // separately.
        let usage = output.usage.expect("usage");
        let input = if agent == "claude" { 260 } else { 180 };
        assert_eq!(
            (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens),
            (Some(input), Some(80), Some(60)),
            "{agent}"
        );
    }
}

#[test]
fn every_agents_stream_shows_a_refused_credential() {
    for agent in AGENTS {
        let output = summary(agent, "401");
        let refused = output.provider_error.unwrap_or_else(|| panic!("{agent}: {:?}", output.failed));
        assert_eq!(refused.kind, ProviderErrorKind::Unauthenticated, "{agent}");
        assert_eq!((output.ended, output.text.trim()), (Some(TurnEnd { failed: true }), ""), "{agent}");
    }
}

#[test]
fn every_agents_stream_shows_a_rate_limit_and_its_time_if_there_is_one() {
    let seconds = [("claude", None), ("codex", None), ("opencode", Some(20)), ("gemini", Some(34))];
    for (agent, seconds) in seconds {
        let output = summary(agent, "429");
        let refused = output.provider_error.unwrap_or_else(|| panic!("{agent}: {:?}", output.failed));
        assert_eq!((refused.kind, refused.unavailable), (ProviderErrorKind::RateLimited, false), "{agent}");
        let left = refused.until.map(|at| at.duration_since(now()));
        assert_eq!(left.map(|left| left.as_secs()), seconds, "{agent}");
        assert!(left.is_none_or(|left| left < SignedDuration::from_mins(1)));
    }
}

#[test]
fn a_failing_provider_is_distinguished_from_a_limit() {
    for agent in AGENTS {
        let output = summary(agent, "500");
        let refused = output.provider_error.unwrap_or_else(|| panic!("{agent}: {:?}", output.failed));
        assert_eq!((refused.kind, refused.unavailable), (ProviderErrorKind::RateLimited, true), "{agent}");
        assert_eq!(output.ended, Some(TurnEnd { failed: true }), "{agent}");
    }
}
