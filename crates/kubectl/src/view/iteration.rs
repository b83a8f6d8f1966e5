//! One counted iteration in words.

use agentloop_core::api::{IterationOutcome, PastIteration, WorkspaceChange};

use crate::text::{self, Colour, line};

/// How it ended: `exited with 0`, `timed out`.
pub fn outcome(past: &PastIteration) -> String {
    match (past.outcome, past.exit_code) {
        (IterationOutcome::Exited, Some(code)) => format!("exited with {code}"),
        (IterationOutcome::Exited, None) => "exited".to_owned(),
        (IterationOutcome::TimedOut, _) => "timed out".to_owned(),
        (IterationOutcome::Interrupted, _) => "interrupted".to_owned(),
        (IterationOutcome::Killed, _) => "killed".to_owned(),
        (IterationOutcome::ProviderRefused, _) => "provider refused".to_owned(),
        (IterationOutcome::CommandNotFound, _) => "command not found".to_owned(),
        (IterationOutcome::AlreadyRan, _) => "had already run".to_owned(),
        (IterationOutcome::RunnerFailed, _) => "runner failed".to_owned(),
        (IterationOutcome::PodLost, _) => "pod lost".to_owned(),
        (other @ IterationOutcome::Other(_), _) => line(other.as_str()),
    }
}

/// What it changed.
pub fn change(past: &PastIteration) -> String {
    match (past.changed, past.files_changed) {
        (WorkspaceChange::Changed, Some(1)) => "changed 1 file".to_owned(),
        (WorkspaceChange::Changed, Some(files)) => format!("changed {files} files"),
        (WorkspaceChange::Changed, None) => "changed something".to_owned(),
        (WorkspaceChange::Unchanged, _) => "changed nothing".to_owned(),
        (WorkspaceChange::Unknown | WorkspaceChange::Other(_), _) => "changes unknown".to_owned(),
    }
}

/// The colour of its outcome.
pub fn colour(past: &PastIteration) -> Option<Colour> {
    let ready = past.gate.as_ref().is_some_and(|gate| gate.ready);
    match (past.outcome, past.exit_code) {
        (IterationOutcome::Exited, Some(0)) if ready => Some(Colour::Green),
        (IterationOutcome::Exited, Some(0)) if past.changed != WorkspaceChange::Unchanged => None,
        (IterationOutcome::Exited, Some(0)) => Some(Colour::Yellow),
        _ => Some(Colour::Red),
    }
}

/// How long it took.
pub fn duration(past: &PastIteration) -> Option<String> {
    let (start, end) = (past.start_time.as_ref()?, past.completion_time.as_ref()?);
    Some(text::duration(end.0.duration_since(start.0)))
}

/// What it cost.
pub fn cost(past: &PastIteration) -> Option<String> {
    let usage = past.usage.as_ref()?;
    let count = |tokens: Option<i64>| tokens.unwrap_or(0);
    usage.cost_usd.as_deref().map(text::dollars).or_else(|| {
        let tokens = count(usage.input_tokens).saturating_add(count(usage.output_tokens));
        (tokens > 0).then(|| format!("{} tokens", text::tokens(tokens)))
    })
}

/// What it reported: its completion gate, its error, and where it started. Text of an agent is between quotes.
pub fn notes(past: &PastIteration) -> Vec<String> {
    let quoted = |text: &str| format!("\"{}\"", line(text).replace('"', "'"));
    let mut notes = Vec::new();
    if let Some(gate) = &past.gate {
        let said = gate.reason.as_deref().or(gate.progress.as_deref());
        let ready = if gate.ready { "ready" } else { "not ready" };
        notes.push(said.map_or_else(|| ready.to_owned(), |said| format!("{ready}: {}", quoted(said))));
        notes.extend(gate.blockers.iter().map(|blocker| format!("blocked: {}", quoted(blocker))));
    }
    notes.extend(past.error.as_deref().map(|error| format!("error: {}", quoted(error))));
    notes.extend(
        past.started_in
            .as_deref()
            .map(|folder| format!("started in {} instead of the workspace", quoted(folder))),
    );
    notes
}
