//! One task as a tree of its iterations.

use std::collections::BTreeMap;

use agentloop_core::api::{AgentTask, Usage};
use agentloop_core::pod::pod_name;
use jiff::Timestamp;
use kube::ResourceExt;

use super::{Canvas, iteration, message, phase};
use crate::text::{self, Cell, Colour, fit, line};

/// What is known of a task's pods.
#[derive(Clone, Debug, Default)]
pub struct Pods {
    /// When each pod's agent started, if it did; by name.
    pub started: BTreeMap<String, Option<Timestamp>>,
    /// The pods could be listed.
    pub listed: bool,
}

/// The lines of one task.
pub fn lines(task: &AgentTask, pods: &Pods, canvas: &Canvas) -> Vec<String> {
    let status = task.status.clone().unwrap_or_default();
    let phase = phase(task);
    let style = canvas.style;
    let name = format!("{}/{}", line(&task.namespace().unwrap_or_default()), line(&task.name_any()));
    let mut head = vec![Cell::from(name)];
    head.push(Cell { text: line(phase.as_str()), colour: text::phase_colour(phase) });
    head.extend(status.progress.as_deref().map(line).map(Cell::from));
    head.extend(status.usage.as_ref().and_then(total).map(Cell::from));
    let mut lines = text::table(None, &[head], canvas.columns, style);
    match canvas.columns {
        Some(columns) => lines.extend(text::wrap(&message(task), columns)),
        None => lines.push(message(task)),
    }
    let branches = branches(task, pods, canvas);
    let last = branches.len();
    for (at, (first, notes)) in branches.into_iter().enumerate() {
        let is_last = at.saturating_add(1) == last;
        let (knot, bar) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        lines.push(format!("{knot}{first}"));
        lines.extend(notes.into_iter().map(|note| {
            let note =
                canvas.columns.map_or_else(|| note.clone(), |columns| fit(&note, columns.saturating_sub(7)));
            format!("{bar}    {}", style.paint(Some(Colour::Dim), &note))
        }));
    }
    lines
}

/// The total cost of a task.
pub fn total(usage: &Usage) -> Option<String> {
    let tokens =
        |count: Option<i64>, what: &str| count.map(|count| format!("{} {what}", text::tokens(count)));
    let parts: Vec<String> = usage
        .cost_usd
        .as_deref()
        .map(text::dollars)
        .into_iter()
        .chain(tokens(usage.input_tokens, "in"))
        .chain(tokens(usage.output_tokens, "out"))
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// The active iteration and the past ones, newest first: a line each, and its notes.
fn branches(task: &AgentTask, pods: &Pods, canvas: &Canvas) -> Vec<(String, Vec<String>)> {
    let status = task.status.clone().unwrap_or_default();
    let mut branches = Vec::new();
    if let Some(active) = &status.active {
        let state = match pods.started.get(&active.pod_name) {
            Some(Some(start)) => format!("running for {}", text::age(*start, canvas.now)),
            Some(None) => "starting".to_owned(),
            None if pods.listed => "its pod is not created yet".to_owned(),
            None => "active".to_owned(),
        };
        let parts = [state, line(&active.pod_name)];
        branches.push((row(active.iteration, &parts, Some(Colour::Cyan), canvas), Vec::new()));
    }
    let (name, uid) = (task.name_any(), task.uid().unwrap_or_default());
    for past in &status.history {
        let pod = pod_name(&name, &uid, past.iteration, past.attempt);
        let pod = if pods.listed && !pods.started.contains_key(&pod) { None } else { Some(line(&pod)) };
        let parts: Vec<String> = [
            Some(iteration::outcome(past)),
            Some(iteration::change(past)),
            iteration::cost(past),
            iteration::duration(past),
            pod,
        ]
        .into_iter()
        .flatten()
        .collect();
        branches.push((row(past.iteration, &parts, iteration::colour(past), canvas), iteration::notes(past)));
    }
    let shown = status.history.last().map_or(status.iterations.saturating_add(1), |oldest| oldest.iteration);
    if shown > 1 {
        branches.push((format!("1 to {}: no longer in the status", shown.saturating_sub(1)), Vec::new()));
    }
    branches
}

/// Cut before it is coloured, so that no escape sequence is cut.
fn row(number: i32, parts: &[String], colour: Option<Colour>, canvas: &Canvas) -> String {
    let number = format!("{number:<3} ");
    let room = canvas.columns.map(|columns| columns.saturating_sub(3).saturating_sub(number.len()));
    let text = parts.join("  ");
    let shown = room.map_or_else(|| text.clone(), |room| fit(&text, room));
    let first = parts.first().map_or(0, String::len);
    let coloured = match (shown.get(..first), shown.get(first..)) {
        (Some(head), Some(rest)) => format!("{}{rest}", canvas.style.paint(colour, head)),
        _ => shown,
    };
    number + &coloured
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::view::tests::{canvas, task};

    fn pods(names: &[&str]) -> Pods {
        let start = "2026-03-01T11:58:00Z".parse().ok();
        Pods { started: names.iter().map(|name| ((*name).to_owned(), start)).collect(), listed: true }
    }

    #[test]
    fn a_stopped_task_shows_its_message_and_what_each_iteration_did() {
        let hash = agentloop_core::pod::uid_hash("7f0c2c1e-0000-4000-8000-000000000000");
        let pod = format!("idle-{hash}-4-1");
        let shown = lines(&task(&json!({})), &pods(&[&pod]), &canvas(None));
        assert_eq!(
            shown,
            [
                "dev/idle   CircuitOpen   4/10   $0.42, 125.0k in, 4.3k out",
                "stopped after 4 iterations: the last 3 changed nothing (threshold 3, agentloop's default); to resume with streaks at zero: kubectl -n dev patch agt/idle --type merge -p '{\"spec\":{\"resetToken\":\"after-4\"}}'",
                &format!("├─ 4   exited with 1  changed nothing  60s  {pod}"),
                "│      error: \"no such table\"",
                "├─ 3   exited with 0  changed nothing  $0.20  20s",
                "│      not ready: \"two tests fail\"",
                "│      blocked: \"no database\"",
                "├─ 2   timed out  changed nothing",
                "│      started in \"/\" instead of the workspace",
                "└─ 1   exited with 0  changed 3 files  $0.22  4m30s",
                "       not ready: \"wrote the parser\"",
            ]
        );
    }

    #[test]
    fn the_active_iteration_comes_first_and_iterations_that_are_forgotten_are_counted() {
        let change = json!({ "status": {
            "phase": "Running", "iterations": 12, "progress": "12/20", "message": "iteration 13 of at most 20 in pod p",
            "stop": null, "usage": null,
            "active": { "iteration": 13, "attempt": 0, "podName": "p", "generation": 1 },
            "history": [{ "iteration": 12, "attempt": 0, "outcome": "Exited", "exitCode": 0, "changed": "Changed" }],
        } });
        let shown = lines(&task(&change), &pods(&["p"]), &canvas(None));
        assert_eq!(
            shown[2..],
            [
                "├─ 13  running for 2m  p",
                "├─ 12  exited with 0  changed something",
                "└─ 1 to 11: no longer in the status",
            ]
        );
        let unknown = lines(&task(&change), &Pods::default(), &canvas(None));
        assert!(
            unknown[2].contains("active"),
            "pods that cannot be listed are not said to be gone: {unknown:?}"
        );
        assert!(unknown[3].contains("idle-"), "{unknown:?}");
    }

    #[test]
    fn a_tree_fits_the_terminal() {
        for columns in 40..=200 {
            for line in lines(&task(&json!({})), &pods(&[]), &canvas(Some(columns))) {
                // A word that can be copied is never broken.
                assert!(text::width(&line) <= columns || !line.contains(' '), "{columns}: {line}");
            }
        }
    }
}
