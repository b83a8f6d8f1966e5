//! The live view of one task, and the lines of a watch that is not on a terminal.

use agentloop_core::api::{AgentTask, PastIteration, WorkspaceChange};
use kube::ResourceExt;

use super::task::{self, Pods};
use super::{Canvas, iteration, message, phase};
use crate::text::{self, Cell, Colour, line};

/// Columns of a bar.
const BAR: i32 = 20;

/// The whole view of one task.
pub fn lines(task: &AgentTask, pods: &Pods, canvas: &Canvas) -> Vec<String> {
    let mut lines = gauges(task, canvas);
    if !lines.is_empty() {
        lines.push(String::new());
    }
    lines.extend(task::lines(task, pods, canvas));
    lines
}

/// Progress and streaks against their limits, and the timeline.
fn gauges(task: &AgentTask, canvas: &Canvas) -> Vec<String> {
    let status = task.status.clone().unwrap_or_default();
    let Some(thresholds) = &status.thresholds else { return Vec::new() };
    let streaks = &status.breaker;
    let rows: Vec<Vec<Cell>> = [
        ("iterations", status.iterations, thresholds.effective_limit()),
        ("changed nothing", streaks.consecutive_no_change, thresholds.no_change.value),
        ("same error", streaks.consecutive_same_error, thresholds.same_error.value),
    ]
    .into_iter()
    .map(|(what, count, limit)| {
        let colour = match () {
            () if count >= limit => Colour::Red,
            () if count.saturating_mul(3) >= limit.saturating_mul(2) => Colour::Yellow,
            () => Colour::Green,
        };
        let bar = Cell { text: bar(count, limit), colour: Some(colour) };
        vec![what.into(), format!("{count}/{limit}").into(), bar]
    })
    .collect();
    let mut lines = text::table(None, &rows, canvas.columns, canvas.style);
    if !status.history.is_empty() {
        let marks = status.history.iter().rev().map(|past| {
            let (mark, colour) = mark(past);
            canvas.style.paint(colour, mark)
        });
        let marks: Vec<String> = marks.collect();
        lines.push(format!("timeline  {}  (+ changed, . changed nothing, ! error)", marks.concat()));
        if canvas.columns.is_some_and(|columns| columns < 70) {
            lines.pop();
            lines.push(format!("timeline  {}", marks.concat()));
        }
    }
    lines
}

fn bar(count: i32, limit: i32) -> String {
    let full = count.clamp(0, limit.max(1)).saturating_mul(BAR) / limit.max(1);
    let cells = |mark: &str, count: i32| mark.repeat(usize::try_from(count).unwrap_or(0));
    format!("{}{}", cells("█", full), cells("░", BAR.saturating_sub(full)))
}

fn mark(past: &PastIteration) -> (&'static str, Option<Colour>) {
    if past.error.is_some() {
        return ("!", Some(Colour::Red));
    }
    match past.changed {
        WorkspaceChange::Changed => ("+", Some(Colour::Green)),
        WorkspaceChange::Unchanged => (".", Some(Colour::Yellow)),
        WorkspaceChange::Unknown | WorkspaceChange::Other(_) => ("?", iteration::colour(past)),
    }
}

/// What a task's state is, in one line without colours that another one follows when it changes.
pub fn plain(task: &AgentTask) -> String {
    let status = task.status.clone().unwrap_or_default();
    let words = [
        format!("{}/{}", line(&task.namespace().unwrap_or_default()), line(&task.name_any())),
        line(phase(task).as_str()),
        line(status.progress.as_deref().unwrap_or("-")),
        message(task),
    ];
    words.join("  ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::view::tests::{canvas, task};

    #[test]
    fn a_live_view_shows_progress_streaks_and_the_timeline() {
        let shown = lines(&task(&json!({})), &Pods::default(), &canvas(Some(100)));
        assert_eq!(
            shown[..5],
            [
                "iterations        4/10   ████████░░░░░░░░░░░░",
                "changed nothing   3/3    ████████████████████",
                "same error        1/5    ████░░░░░░░░░░░░░░░░",
                "timeline  +..!  (+ changed, . changed nothing, ! error)",
                "",
            ]
        );
        assert!(shown[5].starts_with("dev/idle"), "{shown:?}");
    }

    #[test]
    fn a_live_view_fits_the_terminal() {
        for columns in 40..=200 {
            for line in lines(&task(&json!({})), &Pods::default(), &canvas(Some(columns))) {
                assert!(text::width(&line) <= columns || !line.contains(' '), "{columns}: {line}");
            }
        }
    }

    #[test]
    fn a_line_has_the_state_and_the_message() {
        let running = json!({ "status": { "phase": "Running", "message": "iteration 5 of at most 10" } });
        assert_eq!(plain(&task(&running)), "dev/idle  Running  4/10  iteration 5 of at most 10");
        assert!(plain(&task(&json!({ "status": null }))).starts_with("dev/idle  Pending  -  no operator"));
    }
}
