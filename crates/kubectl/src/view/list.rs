//! A list of tasks, with the columns of `kubectl get agt`.

use agentloop_core::api::AgentTask;
use kube::ResourceExt;

use super::{Canvas, message, phase};
use crate::text::{self, Cell, line};

/// How a list looks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// With a column for the namespace.
    pub namespaces: bool,
    /// With all columns.
    pub wide: bool,
    /// With the names of the columns.
    pub headers: bool,
}

/// The lines of a list.
pub fn lines(tasks: &[AgentTask], options: Options, canvas: &Canvas) -> Vec<String> {
    let mut header = vec!["NAME", "PHASE", "PROGRESS", "REASON", "COST", "AGE"];
    if options.namespaces {
        header.insert(0, "NAMESPACE");
    }
    if options.wide {
        header.extend(["NO-CHANGE", "SAME-ERROR", "MESSAGE"]);
    }
    let rows: Vec<Vec<Cell>> = tasks.iter().map(|task| row(task, options, canvas)).collect();
    let columns = canvas.columns.filter(|_| !options.wide);
    text::table(options.headers.then_some(&header), &rows, columns, canvas.style)
}

fn row(task: &AgentTask, options: Options, canvas: &Canvas) -> Vec<Cell> {
    let status = task.status.clone().unwrap_or_default();
    let phase = phase(task);
    let cost = status.usage.as_ref().and_then(|usage| usage.cost_usd.as_deref());
    let age = task.metadata.creation_timestamp.as_ref().map(|time| text::age(time.0, canvas.now));
    let mut row = vec![
        line(&task.name_any()).into(),
        Cell { text: line(phase.as_str()), colour: text::phase_colour(phase) },
        line(status.progress.as_deref().unwrap_or_default()).into(),
        line(status.reason.as_deref().unwrap_or_default()).into(),
        cost.map(text::dollars).unwrap_or_default().into(),
        age.unwrap_or_default().into(),
    ];
    if options.namespaces {
        row.insert(0, line(&task.namespace().unwrap_or_default()).into());
    }
    if options.wide {
        row.push(status.breaker.consecutive_no_change.to_string().into());
        row.push(status.breaker.consecutive_same_error.to_string().into());
        row.push(message(task).into());
    }
    row
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::view::tests::{canvas, task};

    const HEADERS: Options = Options { namespaces: false, wide: false, headers: true };

    fn tasks() -> [AgentTask; 2] {
        let new = json!({ "metadata": { "name": "new", "namespace": "other" }, "status": null });
        [task(&json!({})), task(&new)]
    }

    #[test]
    fn a_list_has_the_columns_of_kubectl_get() {
        assert_eq!(
            lines(&tasks(), HEADERS, &canvas(None)),
            [
                "NAME   PHASE         PROGRESS   REASON     COST    AGE",
                "idle   CircuitOpen   4/10       NoChange   $0.42   13m",
                "new    Pending                                     13m",
            ]
        );
    }

    #[test]
    fn a_list_of_all_namespaces_names_them_and_a_wide_one_has_streaks_and_messages() {
        let options = Options { namespaces: true, wide: true, headers: false };
        let shown = lines(&tasks(), options, &canvas(Some(40)));
        assert!(shown[0].starts_with("dev     "), "{shown:?}");
        assert!(shown[0].contains("   3   1   stopped after 4 iterations:"), "{shown:?}");
        assert!(shown[0].ends_with("'{\"spec\":{\"resetToken\":\"after-4\"}}'"), "not cut: {shown:?}");
        assert!(shown[1].ends_with(agentloop_core::message::PENDING), "{shown:?}");
    }

    #[test]
    fn a_list_fits_the_terminal() {
        for columns in 40..=200 {
            for namespaces in [false, true] {
                let options = Options { namespaces, ..HEADERS };
                for line in lines(&tasks(), options, &canvas(Some(columns))) {
                    assert!(text::width(&line) <= columns, "{columns}: {line}");
                }
            }
        }
    }
}
