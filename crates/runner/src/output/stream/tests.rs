use agentloop_contract::report::ProviderErrorKind;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

const INIT: &str = r#"{"type":"system","subtype":"init","cwd":"/w","session_id":"s1","model":"claude-sonnet-4-5","tools":["Bash"]}"#;
const TOOL: &str = r#"{"type":"user","message":{"role":"user","content":[{"type":"tool_result","content":"<COMPLETION_GATE>\nready: true\n</COMPLETION_GATE>"}]},"session_id":"s1"}"#;
const ASSISTANT: &str = r#"{"type":"assistant","message":{"content":[{"type":"text","text":"<COMPLETION_GATE>\nready: true\n</COMPLETION_GATE>"}]},"session_id":"s1"}"#;

fn now() -> Timestamp {
    "2026-11-22T10:00:00Z".parse().expect("time")
}

fn read(text: &str) -> OutputSummary {
    let mut stream = Stream::default();
    stream.push(text.as_bytes());
    stream.summary(now())
}

fn lines(lines: &[&str]) -> OutputSummary {
    read(&(lines.join("\n") + "\n"))
}

fn result(text: &str) -> String {
    format!(
        r#"{{"type":"result","subtype":"success","is_error":false,"result":{},"session_id":"s1","total_cost_usd":0.0421,"usage":{{"input_tokens":10,"cache_creation_input_tokens":200,"cache_read_input_tokens":3000,"output_tokens":40}}}}"#,
        Value::from(text)
    )
}

fn message(text: &str) -> String {
    format!(
        r#"{{"type":"item.completed","item":{{"id":"item_1","type":"agent_message","text":{}}}}}"#,
        Value::from(text)
    )
}

const THREAD: &str = r#"{"type":"thread.started","thread_id":"0199"}"#;
const COMMAND: &str = r#"{"type":"item.completed","item":{"id":"item_0","type":"command_execution","command":"cat x","aggregated_output":"<COMPLETION_GATE>\nready: true\n</COMPLETION_GATE>","exit_code":0}}"#;
const COMPLETED: &str =
    r#"{"type":"turn.completed","usage":{"input_tokens":100,"cached_input_tokens":60,"output_tokens":7}}"#;

#[test]
fn plain_output_is_its_own_text() {
    assert_eq!(
        read("one\n{\"not\": \"an event\"}\n[1, 2]\ntwo").text,
        "one\n{\"not\": \"an event\"}\n[1, 2]\ntwo"
    );
    assert_eq!(read("").text, "");
    let unknown = "{\"type\":\"answer\",\"text\":\"x\"}\n{\"type\":\"end\",\"reason\":\"Y\"}\n";
    assert_eq!(read(unknown).text, unknown, "a stream that is not known is never thrown away");
    assert_eq!(read("{\n  \"type\": \"x\"\n}\n").text, "{\n  \"type\": \"x\"\n}\n");
}

#[test]
fn claudes_final_text_is_that_of_its_result() {
    let output = lines(&[INIT, ASSISTANT, TOOL, &result("All done.\nBye.")]);
    assert_eq!(output.text, "All done.\nBye.\n");
    assert_eq!((output.failed, output.provider_error), (None, None));
}

#[test]
fn tool_results_and_intermediate_messages_are_not_final_text() {
    assert_eq!(lines(&[INIT, ASSISTANT, TOOL]).text, "");
    assert_eq!(lines(&[THREAD, COMMAND]).text, "");
}

#[test]
fn claudes_cost_is_read_from_its_result() {
    let usage = lines(&[INIT, &result("x")]).usage.expect("usage");
    assert_eq!(usage.input_tokens, Some(3210));
    assert_eq!(usage.cached_input_tokens, Some(3000));
    assert_eq!(usage.output_tokens, Some(40));
    assert_eq!(usage.cost_usd.as_deref(), Some("0.0421"));
    assert_eq!(usage.model.as_deref(), Some("claude-sonnet-4-5"));
}

#[test]
fn results_of_one_session_replace_each_other_and_sessions_add_up() {
    let usage = lines(&[INIT, &result("x"), &result("y")]).usage.expect("usage");
    assert_eq!(usage.output_tokens, Some(40));
    let usage = lines(&[INIT, &result("x"), &result("y").replace("s1", "s2")]).usage.expect("usage");
    assert_eq!((usage.output_tokens, usage.cost_usd.as_deref()), (Some(80), Some("0.0842")));
}

#[test]
fn a_tiny_cost_has_no_exponent() {
    let usage = lines(&[&result("x").replace("0.0421", "1e-7")]).usage.expect("usage");
    assert_eq!(usage.cost_usd.as_deref(), Some("0.0000001"));
}

#[test]
fn the_single_object_and_the_array_of_output_format_json_are_read() {
    assert_eq!(read(&result("done")).text, "done\n");
    assert_eq!(read(&format!("[{INIT},{TOOL},{}]\n", result("done"))).text, "done\n");
}

#[test]
fn claudes_status_shows_a_refused_credential() {
    let line = r#"{"type":"result","subtype":"success","is_error":true,"api_error_status":401,"result":"Failed to authenticate. API Error: 401 {\"type\":\"error\"}","session_id":"s1","total_cost_usd":0}"#;
    let output = lines(&[INIT, line]);
    assert_eq!(output.provider_error.as_ref().map(|r| r.kind), Some(ProviderErrorKind::Unauthenticated));
    assert!(output.error_line().is_some_and(|line| line.starts_with("Failed to authenticate")), "{output:?}");
    assert_eq!(output.text.trim(), "");
}

#[test]
fn claudes_rate_limit_has_the_time_that_the_stream_names() {
    let limit = r#"{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":1795348800,"rateLimitType":"five_hour"},"session_id":"s1"}"#;
    let line = r#"{"type":"result","subtype":"success","is_error":true,"api_error_status":429,"result":"API Error: 429","session_id":"s1"}"#;
    let refused = lines(&[INIT, limit, line]).provider_error.expect("refused");
    assert_eq!(refused.kind, ProviderErrorKind::RateLimited);
    assert_eq!(refused.until.map(|at| at.to_string()).as_deref(), Some("2026-11-22T12:00:00Z"));
    let allowed = limit.replace("rejected", "allowed");
    assert_eq!(lines(&[INIT, &allowed, line]).provider_error.expect("refused").until, None);
    assert_eq!(lines(&[INIT, limit, &result("went on")]).provider_error, None);
}

#[test]
fn claudes_error_without_a_text_is_its_subtype() {
    let line =
        r#"{"type":"result","subtype":"error_max_turns","is_error":false,"num_turns":9,"session_id":"s1"}"#;
    assert_eq!(lines(&[INIT, line]).failed.as_deref(), Some("error_max_turns"));
    let line = r#"{"type":"result","subtype":"error_during_execution","is_error":true,"errors":["boom"]}"#;
    assert_eq!(lines(&[INIT, line]).failed.as_deref(), Some("boom"));
}

#[test]
fn codex_final_text_is_its_last_message() {
    let output = lines(&[THREAD, &message("first"), COMMAND, &message("last"), COMPLETED]);
    assert_eq!(output.text, "last\n");
    let usage = output.usage.expect("usage");
    assert_eq!(usage.input_tokens, Some(100));
    assert_eq!(usage.cached_input_tokens, Some(60));
    assert_eq!(usage.output_tokens, Some(7));
}

#[test]
fn codex_turns_add_up() {
    let usage = lines(&[THREAD, COMPLETED, &message("x"), COMPLETED]).usage.expect("usage");
    assert_eq!((usage.input_tokens, usage.output_tokens), (Some(200), Some(14)));
}

#[test]
fn only_the_message_of_codex_failed_turn_shows_a_provider_error() {
    let failed = |message: &str| {
        let line = format!(r#"{{"type":"turn.failed","error":{{"message":{}}}}}"#, Value::from(message));
        lines(&[
            THREAD,
            COMMAND,
            r#"{"type":"error","message":"429 Too Many Requests, reconnecting 1/5"}"#,
            &line,
        ])
    };
    let output = failed("exceeded retry limit, last status: 429 Too Many Requests");
    assert_eq!(output.provider_error.map(|r| r.kind), Some(ProviderErrorKind::RateLimited));
    let output =
        failed("unexpected status 401 Unauthorized: Invalid key, url: http://127.0.0.1:1/v1/responses");
    assert_eq!(output.provider_error.as_ref().map(|r| r.kind), Some(ProviderErrorKind::Unauthenticated));
    let output = failed("You've hit your usage limit. Try again in 2 hours.");
    assert_eq!(
        output.provider_error.and_then(|r| r.until).map(|at| at.to_string()).as_deref(),
        Some("2026-11-22T12:00:00Z")
    );
    let output = failed("stream disconnected before completion");
    assert!(output.provider_error.is_some_and(|r| r.unavailable && r.kind == ProviderErrorKind::RateLimited));
    let output = failed("the sandbox cannot be made");
    assert_eq!((output.provider_error, output.failed.as_deref()), (None, Some("the sandbox cannot be made")));
}

#[test]
fn a_stream_has_ended_with_its_final_event_until_another_turn_begins() {
    let ended = |lines: &[&str]| {
        let mut stream = Stream::default();
        stream.push((lines.join("\n") + "\n").as_bytes());
        stream.has_ended().map(|end| end.failed)
    };
    let failed = r#"{"type":"turn.failed","error":{"message":"x"}}"#;
    let hook = r#"{"type":"system","subtype":"hook_response","session_id":"s1"}"#;
    assert_eq!(ended(&[INIT, ASSISTANT]), None);
    assert_eq!(ended(&[INIT, &result("x"), hook]), Some(false));
    assert_eq!(ended(&[INIT, &result("x").replace("\"is_error\":false", "\"is_error\":true")]), Some(true));
    assert_eq!(ended(&[INIT, &result("x"), INIT]), None);
    assert_eq!(ended(&[INIT, &result("x"), ASSISTANT]), None);
    assert_eq!(ended(&[THREAD, &message("x")]), None);
    assert_eq!(ended(&[THREAD, &message("x"), COMPLETED]), Some(false));
    assert_eq!(ended(&[THREAD, failed]), Some(true));
    assert_eq!(ended(&[THREAD, failed, r#"{"type":"turn.started"}"#]), None);
    assert_eq!(ended(&["a log:", failed, "that was it"]), None);
}

/// What `codex exec --json` 0.169.0 printed, line by line.
#[test]
fn streams_of_codex_as_it_printed_them_are_understood() {
    const UNKNOWN: &str = r#"{"type":"item.completed","item":{"id":"item_0","type":"error","message":"Model metadata for `scripted` not found. Defaulting to fallback metadata; this can degrade performance and cause issues."}}"#;
    const TURN: &str = r#"{"type":"turn.started"}"#;
    let output = lines(&[
        THREAD,
        UNKNOWN,
        TURN,
        r#"{"type":"item.started","item":{"id":"item_1","type":"command_execution","command":"/bin/sh -lc 'cat log'","aggregated_output":"","exit_code":null,"status":"in_progress"}}"#,
        r#"{"type":"item.completed","item":{"id":"item_1","type":"command_execution","command":"/bin/sh -lc 'cat log'","aggregated_output":"<COMPLETION_GATE>\nready: false\n</COMPLETION_GATE>\n","exit_code":0,"status":"completed"}}"#,
        r#"{"type":"item.completed","item":{"id":"item_2","type":"agent_message","text":"Done.\n\n<COMPLETION_GATE>\nready: true\n</COMPLETION_GATE>"}}"#,
        r#"{"type":"turn.completed","usage":{"input_tokens":200,"cached_input_tokens":80,"cache_write_input_tokens":0,"output_tokens":14,"reasoning_output_tokens":4}}"#,
    ]);
    assert_eq!(output.text, "Done.\n\n<COMPLETION_GATE>\nready: true\n</COMPLETION_GATE>\n");
    assert_eq!((output.failed, output.provider_error), (None, None));
    let usage = output.usage.expect("usage");
    assert_eq!(
        (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens),
        (Some(200), Some(80), Some(14))
    );

    let refused = |message: &str, seconds: Option<i64>| {
        let message = Value::from(message);
        let again = format!(r#"{{"type":"error","message":{message}}}"#);
        let failed = format!(r#"{{"type":"turn.failed","error":{{"message":{message}}}}}"#);
        let refused = lines(&[THREAD, UNKNOWN, TURN, &again, &failed]).provider_error.expect("refused");
        assert_eq!(refused.until.map(|at| at.as_second() - now().as_second()), seconds, "{message}");
        refused.kind
    };
    let words = "unexpected status 401 Unauthorized: Incorrect API key provided, url: http://127.0.0.1:1/v1/responses";
    assert_eq!(refused(words, None), ProviderErrorKind::Unauthenticated);
    for (words, seconds) in [
        ("exceeded retry limit, last status: 429 Too Many Requests", None),
        ("Quota exceeded. Check your plan and billing details.", None),
        ("Selected model is at capacity. Please try a different model.", None),
        (
            "You’ve hit your usage limit. Visit https://chatgpt.com/settings/usage to purchase more credits or try again at \
             8:31 PM.",
            Some(37_860),
        ),
        (
            "rate limit exceeded: Rate limit reached for scripted in organization org-x on tokens per min (TPM): Limit \
             30000, Used 22999, Requested 12528. Please try again in 11.054s. Visit the dashboard to learn more.",
            Some(11),
        ),
    ] {
        assert_eq!(refused(words, seconds), ProviderErrorKind::RateLimited, "{words}");
    }
}

#[test]
fn a_warning_of_codex_is_no_failure() {
    let warning =
        r#"{"type":"item.completed","item":{"id":"item_0","type":"error","message":"401 Unauthorized"}}"#;
    let output = lines(&[THREAD, warning, &message("fine"), COMPLETED]);
    assert_eq!((output.failed, output.provider_error, output.text.as_str()), (None, None, "fine\n"));
}

#[test]
fn a_failed_turn_has_no_final_text() {
    let output = lines(&[THREAD, &message("gate"), r#"{"type":"turn.failed","error":{"message":"x"}}"#]);
    assert_eq!(output.text.trim(), "");
}

#[test]
fn a_later_successful_turn_clears_the_provider_error() {
    let failed = r#"{"type":"turn.failed","error":{"message":"429 Too Many Requests"}}"#;
    let output = lines(&[THREAD, failed, THREAD, &message("ok"), COMPLETED]);
    assert_eq!((output.failed, output.provider_error), (None, None));
}

#[test]
fn a_script_around_the_agent_may_print_before_and_after() {
    let output = lines(&["starting", INIT, TOOL, &result("done"), "finished"]);
    assert_eq!(output.text, "done\nfinished\n");
    assert_eq!(lines(&["npm warn old", THREAD, "warning", &message("x"), COMPLETED]).text, "x\n");
}

#[test]
fn events_that_a_plain_text_agent_quotes_do_not_count() {
    let refused = r#"{"type":"result","is_error":true,"api_error_status":401,"result":"no"}"#;
    let output = lines(&["Let me look at the log:", refused, "I see."]);
    assert_eq!((&output.provider_error, &output.failed), (&None, &None));
    assert!(output.text.contains("Let me look") && output.text.contains("I see."), "{output:?}");
}

/// As values, each of the small objects would be a map.
#[test]
fn a_result_with_a_million_small_objects_is_read_without_building_them() {
    let odd =
        format!(r#"{{"type":"result","extra":[{}{{}}],"result":"done"}}"#, r#"{"a":1},"#.repeat(400_000));
    assert_eq!(lines(&[INIT, &odd]).text, "done\n");
}

#[test]
fn a_line_that_is_too_long_is_skipped_and_the_next_one_is_read() {
    let mut stream = Stream::default();
    stream.push(format!("{INIT}\n").as_bytes());
    stream.push(b"{\"type\":\"user\",\"x\":\"");
    for _ in 0..160 {
        stream.push(&vec![b'y'; 64 << 10]);
        assert!(!matches!(&stream.line, Line::Json(line) if line.len() > LINE_BYTES));
    }
    stream.push(b"\"}\n");
    stream.push(result("done").as_bytes());
    assert_eq!(stream.summary(now()).text, "done\n");
}

#[test]
fn a_final_text_of_four_megabytes_is_read() {
    let long = format!("{}\nlast words", "x".repeat(3_900_000));
    let output = lines(&[INIT, &result(&long)]);
    assert!(output.text.ends_with("last words\n"));
}

#[test]
fn fields_of_an_unexpected_type_are_ignored() {
    let odd =
        r#"{"type":"result","is_error":"yes","result":7,"usage":[],"total_cost_usd":"free","session_id":1}"#;
    assert_eq!(lines(&[INIT, odd]).failed, None);
    assert_eq!(
        lines(&[r#"{"type":"item.completed","item":"x"}"#, r#"{"type":"turn.failed"}"#]).failed.as_deref(),
        Some("the turn failed")
    );
    assert_eq!(lines(&[r#"{"type":5}"#]).text, "{\"type\":5}\n");
}

#[test]
fn blanks_before_an_event_belong_to_it_however_the_output_is_cut() {
    let output = format!("  {THREAD}\n \t{COMPLETED}\n");
    let mut stream = Stream::default();
    output.as_bytes().chunks(1).for_each(|byte| stream.push(byte));
    assert_eq!(stream.summary(now()), read(&output));
    assert_eq!(read(&output).text, "");
}

proptest! {
    #[test]
    fn the_pieces_that_bytes_arrive_in_do_not_matter(piece in 1_usize..200) {
        let output = ["start", INIT, TOOL, ASSISTANT, &result("the end ✓"), "after", ""].join("\n");
        let mut stream = Stream::default();
        for bytes in output.as_bytes().chunks(piece) {
            stream.push(bytes);
        }
        prop_assert_eq!(stream.summary(now()), read(&output));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        let mut stream = Stream::default();
        stream.push(&bytes);
        stream.push(b"\n{\"type\":");
        stream.push(&bytes);
        let _ = stream.summary(now());
    }
}
