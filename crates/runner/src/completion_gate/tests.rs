use proptest::prelude::*;

use super::*;

fn block(content: &str) -> String {
    format!("{OPEN}\n{content}\n{CLOSE}")
}

#[track_caller]
fn ready(text: &str) -> CompletionGate {
    let gate = find(text).expect("a gate");
    assert!(gate.ready, "{gate:?}");
    gate
}

#[track_caller]
fn not_ready(text: &str) -> CompletionGate {
    let gate = find(text).expect("a gate");
    assert!(!gate.ready, "{gate:?}");
    gate
}

#[track_caller]
fn none(text: &str, why: NoCompletionGate) {
    assert_eq!(find(text), Err(why));
}

#[test]
fn the_gate_in_the_documentation_is_read_completely() {
    let gate = not_ready(&format!(
        "I worked on it.\n\n{}\n",
        block(
            "ready: false\nreason: two tests still fail\nprogress: fixed the parser, 14 of 16 pass\nblockers:\n  \
             - tests::resume_after_limit fails on a fresh checkout\n  - tests::b fails"
        )
    ));
    assert_eq!(gate.reason.as_deref(), Some("two tests still fail"));
    assert_eq!(gate.progress.as_deref(), Some("fixed the parser, 14 of 16 pass"));
    assert_eq!(gate.blockers, ["tests::resume_after_limit fails on a fresh checkout", "tests::b fails"]);
}

#[test]
fn text_that_yaml_would_reject_is_read_line_by_line() {
    let gate = ready(&block("ready: true\nreason: All pass: 16/16\nprogress: [x] done: \"all\" of #12"));
    assert_eq!(gate.reason.as_deref(), Some("All pass: 16/16"));
    assert_eq!(gate.progress.as_deref(), Some("[x] done: \"all\" of #12"));
}

#[test]
fn ready_is_a_boolean_in_any_case_quoted_or_not() {
    for word in ["true", "True", "TRUE", "\"true\"", "'True'", "true # at last", "**true**"] {
        ready(&block(&format!("ready: {word}")));
    }
    for word in ["false", "False", "\"false\""] {
        not_ready(&block(&format!("ready: {word}")));
    }
    for word in ["yes", "no", "1", "on", "<true or false>", "", "true or false", "truely", "not true", "null"]
    {
        none(&block(&format!("ready: {word}\nreason: x")), NoCompletionGate::NoReady);
    }
}

#[test]
fn an_echoed_prompt_is_no_gate() {
    none(&block("ready: <true or false>\nreason: <one line>"), NoCompletionGate::NoReady);
}

#[test]
fn ready_given_twice_with_different_values_is_not_ready() {
    not_ready(&block("ready: true\nready: false"));
    not_ready(&block("ready: false\nreason: x\nready: true"));
}

#[test]
fn a_ready_below_another_key_does_not_count() {
    none(&block("checks:\n  ready: true"), NoCompletionGate::NoReady);
    not_ready(&block("ready: false\nchecks:\n  ready: true"));
    none(&block("reason: |\n  it is not\n  ready: true"), NoCompletionGate::NoReady);
    none(&block("blockers:\n  - ready: true"), NoCompletionGate::NoReady);
}

#[test]
fn texts_may_continue_in_further_lines() {
    let gate = not_ready(&block(
        "ready: false\nreason: |\n  one: a\n  two\nprogress: >-\n  some\nblockers:\n- first\n  goes on\n- \"second\"",
    ));
    assert_eq!(gate.reason.as_deref(), Some("one: a two"));
    assert_eq!(gate.progress.as_deref(), Some("some"));
    assert_eq!(gate.blockers, ["first goes on", "second"]);
}

#[test]
fn prose_with_a_colon_continues_a_text_and_an_unknown_key_ends_it() {
    let gate = ready(&block("ready: true\nreason: one\ntwo words: 2\n-x: 3\n: 4\nnote: 5\nprogress: 6"));
    assert_eq!(gate.reason.as_deref(), Some("one two words: 2 -x: 3 : 4"));
    assert_eq!(gate.progress.as_deref(), Some("6"));
    let gate = ready(&block("ready: true\nreason: one\n  note: two"));
    assert_eq!(gate.reason.as_deref(), Some("one note: two"));
}

#[test]
fn quotes_around_a_whole_text_are_removed_and_quotes_within_it_stay() {
    for (written, read) in
        [(r#""a \"b\" c""#, "a \"b\" c"), ("'it''s'", "it's"), (r#""it''s""#, "it''s"), ("'a\"", "'a\"")]
    {
        let gate = ready(&block(&format!("ready: true\nreason: {written}")));
        assert_eq!(gate.reason.as_deref(), Some(read));
    }
}

#[test]
fn lists_are_read_in_every_style() {
    for content in [
        "blockers: [\"a, b\", \"c\"]",
        "blockers: ['a, b', c]".replace("a, b", "a").as_str(),
        "blockers:\n  - a\n  - c",
    ] {
        let gate = not_ready(&block(&format!("ready: false\n{content}")));
        assert_eq!(gate.blockers.len(), 2, "{content}: {gate:?}");
    }
    assert_eq!(not_ready(&block("ready: false\nblockers: the disk is full")).blockers, ["the disk is full"]);
    for nothing in ["blockers: []", "blockers: none", "blockers:\n  - None.", "blockers:", "blockers:\n  -"] {
        assert!(not_ready(&block(&format!("ready: false\n{nothing}"))).blockers.is_empty(), "{nothing}");
    }
}

#[test]
fn a_json_object_is_a_gate_too() {
    let gate = ready(&block(r#"{"ready": true, "reason": "r", "blockers": ["none", "b"]}"#));
    assert_eq!((gate.reason.as_deref(), gate.blockers.len()), (Some("r"), 1));
    let gate = ready(&block(r#"{"ready": "true", "blockers": "b"}"#));
    assert_eq!(gate.blockers, ["b"]);
    none(&block(r#"{"ready": "maybe"}"#), NoCompletionGate::NoReady);
    none(&block(r#"{"ready": true"#), NoCompletionGate::NoReady);
}

#[test]
fn keys_may_be_decorated_and_indented() {
    ready(&block("   ready: true\n   reason: x"));
    ready(&block("**Ready**: true\n**Reason:** fine"));
    ready(&block("\"ready\": \"true\""));
    ready(&block("ready: true\r\nreason: x\r"));
}

#[test]
fn yaml_document_markers_and_comments_are_no_part_of_a_text() {
    let gate = ready(&block("---\n# the end\nready: true\nreason: x\n---"));
    assert_eq!(gate.reason.as_deref(), Some("x"));
}

#[test]
fn a_gate_on_one_line_is_complete() {
    ready(&format!("{OPEN}ready: true{CLOSE}"));
    ready(&format!("  {OPEN} ready: true {CLOSE}  "));
    ready(&format!("{OPEN} ready: true\nreason: x {CLOSE}"));
}

#[test]
fn the_last_block_counts() {
    ready(&format!("{}\n{}", block("ready: false"), block("ready: true")));
    not_ready(&format!("{}\nno, wait\n{}", block("ready: true"), block("ready: false")));
}

#[test]
fn a_last_block_without_ready_revokes_an_earlier_ready() {
    none(&format!("{}\n{}", block("ready: true"), block("ready: perhaps")), NoCompletionGate::NoReady);
    none(&format!("{}\n{OPEN}\nready: fal", block("ready: true")), NoCompletionGate::Unclosed);
}

#[test]
fn an_unclosed_block_is_no_gate() {
    none(&format!("{OPEN}\nready: true\n"), NoCompletionGate::Unclosed);
    none(&format!("```\n{OPEN}\nready: true\n```\n"), NoCompletionGate::Unclosed);
    none(&format!("ready: true\n{CLOSE}"), NoCompletionGate::Absent);
}

#[test]
fn a_second_opening_tag_begins_a_new_block() {
    not_ready(&format!("{OPEN}\nready: true\n{OPEN}\nready: false\n{CLOSE}"));
}

#[test]
fn a_fence_that_ends_the_output_does_not_hide_its_block() {
    for (open, close) in
        [("```", "```"), ("```yaml", "```"), ("~~~", "~~~"), ("````text", "````"), ("```", "")]
    {
        ready(&format!("Here it is:\n\n{open}\n{}\n{close}\n\n  \n", block("ready: true")));
        ready(&format!("- item\n  {open}\n  {OPEN}\n  ready: true\n  {CLOSE}\n  {close}\n"));
    }
    ready(&format!("{OPEN}\n```yaml\nready: true\n```\n{CLOSE}\nBye."));
}

#[test]
fn statistics_of_the_agents_program_after_a_fence_do_not_count_as_text() {
    for trailer in [
        "Tokens: 4.1k sent, 212 received. Cost: $0.02 message, $0.02 session.",
        "Tokens: 4.1k sent, 212 received.",
        "Tokens: 12k sent, 3k cache hit, 212 received.\nCost: $0.02 message, $0.02 session.",
        "Applied edit to src/a.rs\nCommit 1a2b3c4 fix: the parser\nYou can use /undo to undo and discard each aider commit.",
        "tokens used: 12,345",
        "tokens used\n12,345",
        "Total usage est:       1 Premium request\nTotal duration (API):  5.1s\nUsage by model:\n    m  12k input, 200 output, 0 cache read",
        "Closing session. Recorded to /x.jsonl",
    ] {
        ready(&format!("Done.\n\n```\n{}\n```\n\n{trailer}\n", block("ready: true")));
        none(
            &format!("```\n{}\n```\n{trailer}\nThat is the format.", block("ready: true")),
            NoCompletionGate::Quoted,
        );
    }
    none(&format!("```\n{}\n```\nTokens: many", block("ready: true")), NoCompletionGate::Quoted);
}

#[test]
fn a_block_in_a_fence_with_text_after_it_is_a_quotation() {
    for fence in ["```", "~~~", "````"] {
        let quoted = format!("{fence}\n{}\n{fence}\nThis is what I would print.", block("ready: true"));
        none(&quoted, NoCompletionGate::Quoted);
        not_ready(&format!("{}\n{quoted}", block("ready: false")));
        not_ready(&format!("{quoted}\n{}", block("ready: false")));
        none(&format!("{quoted}\n{fence}\ncode\n{fence}"), NoCompletionGate::Quoted);
    }
    none(&format!("````md\n```\n{}\n```\n````\ntext", block("ready: true")), NoCompletionGate::Quoted);
}

#[test]
fn a_line_of_code_or_prose_opens_no_fence() {
    for line in ["```x = 1```", "```x` y", "~ 5 min", "``", "`"] {
        ready(&format!("{line}\n{}\n{line}\nBye.", block("ready: true")));
    }
    none(&format!("~~~ a `b` c\n{}\n~~~\nBye.", block("ready: true")), NoCompletionGate::Quoted);
}

#[test]
fn a_mention_of_the_tag_does_not_cancel_the_fence_of_a_quotation() {
    none(
        &format!(
            "{OPEN} is the tag. Like so:\n```\n{}\n```\nI print it when I am done.",
            block("ready: true")
        ),
        NoCompletionGate::Quoted,
    );
}

#[test]
fn a_tag_within_a_line_is_prose() {
    none(&format!("I will print {OPEN} and ready: true and {CLOSE}."), NoCompletionGate::Absent);
    none(&format!("> {OPEN}\n> ready: true\n> {CLOSE}"), NoCompletionGate::Absent);
    none(&format!("`{OPEN}`\nready: true\n`{CLOSE}`"), NoCompletionGate::Absent);
    ready(&format!("{}\nI have printed {OPEN}.", block("ready: true")));
}

#[test]
fn ten_megabytes_never_hang_the_parser() {
    let long = "x".repeat(10 << 20);
    ready(&block(&format!("ready: true\nreason: {long}")));
    ready(&block(&format!("ready: true\nprogress: |\n{}", "  line\n".repeat(1 << 20))));
    none(&format!("{OPEN}\n{long}"), NoCompletionGate::Unclosed);
}

fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(OPEN.to_owned()),
        Just(CLOSE.to_owned()),
        Just("ready: true".to_owned()),
        Just("ready: false".to_owned()),
        Just("```".to_owned()),
        Just("~~~".to_owned()),
        Just("blockers:".to_owned()),
        Just("  - item".to_owned()),
        "\\PC{0,12}",
    ]
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(?s).{0,300}") {
        let _ = find(&text);
        let _ = find(&block(&text));
    }

    #[test]
    fn no_arrangement_of_lines_makes_it_panic(lines in prop::collection::vec(line(), 0..30)) {
        let _ = find(&lines.join("\n"));
    }

    #[test]
    fn no_gate_without_a_whole_block_that_says_ready(lines in prop::collection::vec(line(), 0..30)) {
        let text = lines.join("\n");
        if find(&text).is_ok() {
            prop_assert!(text.contains(OPEN) && text.contains(CLOSE) && text.contains("ready:"));
        }
    }

    #[test]
    fn a_printed_gate_is_read_back(
        ready in any::<bool>(),
        reason in "[a-zA-Z0-9][a-zA-Z0-9 :/#,.()-]{0,60}[a-zA-Z0-9]",
        blockers in prop::collection::vec("[a-zA-Z0-9]{5}[a-zA-Z0-9 :/#,.]{0,40}[a-zA-Z0-9]", 0..4),
        before in "[a-z \n]{0,80}",
    ) {
        let mut text = format!("{before}\n{OPEN}\nready: {ready}\nreason: {reason}\nblockers:\n");
        for blocker in &blockers {
            text.extend(["  - ", blocker, "\n"]);
        }
        text += CLOSE;
        let gate = find(&text).expect("a gate");
        prop_assert_eq!(gate, CompletionGate { ready, reason: Some(reason), progress: None, blockers });
    }
}
