//! Recognises what agents' programs print by themselves after the model's final text.

/// How such lines begin, in lower case, a word that must follow somewhere, and the program that prints the line.
const TRAILERS: &[(&str, &str, &str)] = &[
    ("tokens:", "sent", "aider: Tokens: 4.1k sent, 212 received. Cost: $0.02 message, $0.02 session."),
    ("cost:", "session", "aider, the second line where the first is long"),
    ("applied edit to ", "", "aider"),
    ("you can use /undo to undo", "", "aider"),
    ("tokens used", "", "codex exec: tokens used: 12,345"),
    ("total usage est:", "", "Copilot CLI"),
    ("total duration (", "", "Copilot CLI: Total duration (API): 5.1s"),
    ("total code changes:", "", "Copilot CLI, Claude Code"),
    ("usage by model:", "", "Copilot CLI, Claude Code"),
    ("total session time:", "", "Copilot CLI"),
    ("api time spent:", "", "Copilot CLI"),
    ("breakdown by ai model:", "", "Copilot CLI"),
    ("est. ", "premium request", "Copilot CLI"),
    ("total cost:", "$", "Claude Code"),
    ("total tokens:", "", "Qwen Code, OpenHands"),
    ("closing session.", "", "goose: Closing session. Recorded to …"),
    ("● session closed", "", "goose"),
    ("session closed", "", "goose"),
    ("session saved to", "", "Crush, Qwen Code"),
    ("goose is running!", "", "goose"),
    ("agent powering down", "", "Gemini CLI"),
];

/// Whether a program printed this line by itself.
pub(super) fn is(line: &str) -> bool {
    let line = line.to_lowercase();
    TRAILERS.iter().any(|(begin, word, _)| line.starts_with(begin) && line.contains(word))
        || is_commit(&line)
        || is_count(&line)
        || (line.contains(" input, ") && line.contains(" output"))
}

/// aider: `Commit 1a2b3c4 fix: the parser`.
fn is_commit(line: &str) -> bool {
    line.strip_prefix("commit ")
        .and_then(|rest| rest.split(' ').next())
        .is_some_and(|hash| hash.len() == 7 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Codex prints its count below `tokens used`.
fn is_count(line: &str) -> bool {
    line.starts_with(|c: char| c.is_ascii_digit())
        && line.chars().all(|c| c.is_ascii_digit() || matches!(c, ',' | '.'))
}
