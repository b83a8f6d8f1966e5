//! Why a task is in its state: the verdict, the evidence, the thresholds, and what resumes it.

use agentloop_core::api::{AgentTask, AgentTaskStatus, Phase, Threshold, Thresholds};
use agentloop_core::message;
use kube::ResourceExt;

use super::{Canvas, iteration, message as said, phase};
use crate::resume;
use crate::text::{self, Cell, Colour, line};

/// Iterations that are shown as evidence beyond those of a streak.
const SHOWN: usize = 3;

/// The lines of the explanation.
pub fn lines(task: &AgentTask, canvas: &Canvas) -> Vec<String> {
    let status = task.status.clone().unwrap_or_default();
    let phase = phase(task);
    let reason = status.reason.as_deref().map(|reason| format!(" ({})", line(reason))).unwrap_or_default();
    let name = format!("{}/{}", line(&task.namespace().unwrap_or_default()), line(&task.name_any()));
    let state = canvas.style.paint(text::phase_colour(phase), &line(phase.as_str()));
    let mut lines = vec![format!("{name} is {state}{reason}")];
    lines.extend(indented(&said(task), canvas));
    if let Some(thresholds) = status.thresholds.as_ref().filter(|thresholds| thresholds.is_clamped()) {
        lines.extend(indented(&message::clamped(thresholds), canvas));
    }
    section(&mut lines, "Evidence", evidence(&status, canvas), canvas);
    if let Some(thresholds) = &status.thresholds {
        section(&mut lines, "Thresholds", of_thresholds(&status, thresholds, canvas), canvas);
    }
    section(&mut lines, "To resume", remedy(task), canvas);
    lines
}

fn section(lines: &mut Vec<String>, title: &str, content: Vec<String>, canvas: &Canvas) {
    if !content.is_empty() {
        lines.push(String::new());
        lines.push(canvas.style.paint(Some(Colour::Bold), title));
        lines.extend(content.into_iter().map(|line| format!("  {line}")));
    }
}

fn indented(text: &str, canvas: &Canvas) -> Vec<String> {
    let lines = match canvas.columns {
        Some(columns) => text::wrap(text, columns.saturating_sub(2)),
        None => vec![text.to_owned()],
    };
    lines.into_iter().map(|line| format!("  {line}")).collect()
}

/// The iterations of the longer streak, or the last ones.
fn evidence(status: &AgentTaskStatus, canvas: &Canvas) -> Vec<String> {
    let streak = status.breaker.consecutive_no_change.max(status.breaker.consecutive_same_error);
    let count = usize::try_from(streak).unwrap_or(0).max(SHOWN);
    let mut texts = Vec::new();
    for past in status.history.iter().take(count) {
        let mut words = vec![iteration::outcome(past), iteration::change(past)];
        words.extend(iteration::notes(past));
        texts.push(format!("iteration {}: {}", past.iteration, words.join(", ")));
    }
    match canvas.columns {
        Some(columns) => texts.iter().flat_map(|text| text::wrap(text, columns.saturating_sub(2))).collect(),
        None => texts,
    }
}

fn of_thresholds(status: &AgentTaskStatus, thresholds: &Thresholds, canvas: &Canvas) -> Vec<String> {
    let limit = Threshold { value: thresholds.effective_limit(), ..thresholds.max_iterations };
    let limit = if thresholds.is_clamped() { thresholds.hard_limit } else { limit };
    let streaks = &status.breaker;
    let counted = [
        ("iterations", status.iterations, limit),
        ("changed nothing, in a row", streaks.consecutive_no_change, thresholds.no_change),
        ("same error, in a row", streaks.consecutive_same_error, thresholds.same_error),
    ];
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for (what, count, threshold) in counted {
        let reached = count >= threshold.value;
        let colour = reached.then_some(Colour::Red);
        let count = Cell { text: format!("{count} of {}", threshold.value), colour };
        let reached = Cell { text: if reached { "reached" } else { "" }.to_owned(), colour };
        rows.push(vec![what.into(), count, message::from(threshold).into(), reached]);
    }
    rows.push(vec![
        "hard limit of iterations".into(),
        thresholds.hard_limit.value.to_string().into(),
        message::from(thresholds.hard_limit).into(),
    ]);
    rows.push(vec![
        "duration of an iteration".into(),
        format!("{} s", thresholds.iteration_timeout_seconds.value).into(),
        message::from(thresholds.iteration_timeout_seconds).into(),
    ]);
    text::table(None, &rows, canvas.columns.map(|columns| columns.saturating_sub(2)), canvas.style)
}

/// The command that resumes a task, if there is one.
fn remedy(task: &AgentTask) -> Vec<String> {
    let is_stopped = task.status.as_ref().is_some_and(|status| status.stop.is_some()) || task.spec.suspend;
    if !is_stopped || phase(task) == Phase::Succeeded {
        return Vec::new();
    }
    match resume::plan(task, None, false) {
        Ok(plan) => {
            let place = task.namespace().map(|name| format!(" -n {}", line(&name))).unwrap_or_default();
            vec![format!(
                "kubectl agentloop{place} resume {}   # {}",
                line(&task.name_any()),
                resume::effect(&plan.change)
            )]
        }
        // The message has said why.
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::view::tests::{canvas, task};

    #[test]
    fn an_open_breaker_is_explained_with_evidence_thresholds_and_the_command() {
        assert_eq!(
            lines(&task(&json!({})), &canvas(None)),
            [
                "dev/idle is CircuitOpen (NoChange)",
                "  stopped after 4 iterations: the last 3 changed nothing (threshold 3, agentloop's default); to resume with streaks at zero: kubectl -n dev patch agt/idle --type merge -p '{\"spec\":{\"resetToken\":\"after-4\"}}'",
                "",
                "Evidence",
                "  iteration 4: exited with 1, changed nothing, error: \"no such table\"",
                "  iteration 3: exited with 0, changed nothing, not ready: \"two tests fail\", blocked: \"no database\"",
                "  iteration 2: timed out, changed nothing, started in \"/\" instead of the workspace",
                "",
                "Thresholds",
                "  iterations                  4 of 10   agentloop's default",
                "  changed nothing, in a row   3 of 3    agentloop's default                 reached",
                "  same error, in a row        1 of 5    from the task's spec",
                "  hard limit of iterations    50        from the operator's configuration",
                "  duration of an iteration    3600 s    agentloop's default",
                "",
                "To resume",
                "  kubectl agentloop -n dev resume idle   # streaks at zero",
            ]
        );
    }

    #[test]
    fn a_task_that_runs_has_no_command_and_a_new_one_only_its_message() {
        let running = json!({ "status": { "phase": "Running", "reason": null, "stop": null } });
        assert!(!lines(&task(&running), &canvas(None)).contains(&"To resume".to_owned()));
        assert_eq!(
            lines(&task(&json!({ "status": null })), &canvas(None)),
            ["dev/idle is Pending", &format!("  {}", message::PENDING)]
        );
    }

    #[test]
    fn a_limit_that_the_hard_limit_clamps_says_so() {
        let clamped =
            json!({ "status": { "thresholds": { "maxIterations": { "value": 80, "from": "Spec" } } } });
        let shown = lines(&task(&clamped), &canvas(None)).join("\n");
        assert!(shown.contains("maxIterations is 80, but the hard limit of 50 applies"), "{shown}");
        assert!(shown.contains("4 of 50   from the operator's configuration"), "{shown}");
    }

    #[test]
    fn an_explanation_fits_the_terminal_except_for_what_can_be_copied() {
        for columns in 40..=200 {
            for line in lines(&task(&json!({})), &canvas(Some(columns))) {
                let copied = line.trim_start().starts_with("kubectl") || !line.trim_start().contains(' ');
                assert!(text::width(&line) <= columns || copied, "{columns}: {line}");
            }
        }
    }
}
