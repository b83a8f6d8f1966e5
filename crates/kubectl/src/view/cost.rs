//! What loops cost, according to their agents.

use agentloop_core::api::{AgentTask, Usage};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::Canvas;
use crate::text::{self, Cell, line};

/// One line of a bill.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Item {
    /// Namespace of the task.
    pub namespace: String,
    /// Name of the task, or number of the iteration.
    pub name: String,
    /// Iterations.
    pub iterations: i32,
    /// What they cost.
    pub usage: Usage,
}

/// An item for each task.
pub fn of_tasks(tasks: &[AgentTask]) -> Vec<Item> {
    let item = |task: &AgentTask| {
        let status = task.status.clone().unwrap_or_default();
        Item {
            namespace: task.namespace().unwrap_or_default(),
            name: task.name_any(),
            iterations: status.iterations,
            usage: status.usage.unwrap_or_default(),
        }
    };
    tasks.iter().map(item).collect()
}

/// An item for each iteration that the status still has, oldest first. The sum of a task counts attempts that were not
/// charged and older iterations too.
pub fn of_iterations(task: &AgentTask) -> Vec<Item> {
    let history = task.status.iter().flat_map(|status| status.history.iter().rev());
    let item = |past: &agentloop_core::api::PastIteration| Item {
        namespace: String::new(),
        name: past.iteration.to_string(),
        iterations: 1,
        usage: past.usage.clone().unwrap_or_default(),
    };
    let mut items: Vec<Item> = history.map(item).collect();
    let total = of_tasks(std::slice::from_ref(task)).into_iter().next().unwrap_or_default();
    let others = difference(&total, &sum(&items));
    if others.usage != Usage::default() || others.iterations > 0 {
        items.insert(0, Item { name: "others".to_owned(), ..others });
    }
    items
}

fn difference(total: &Item, known: &Item) -> Item {
    let count = |total: Option<i64>, known: Option<i64>| {
        total.map(|total| total.saturating_sub(known.unwrap_or(0))).filter(|left| *left > 0)
    };
    let cost = amount(&total.usage).map(|cost| cost - amount(&known.usage).unwrap_or(0.0));
    Item {
        iterations: total.iterations.saturating_sub(known.iterations),
        usage: Usage {
            input_tokens: count(total.usage.input_tokens, known.usage.input_tokens),
            cached_input_tokens: count(total.usage.cached_input_tokens, known.usage.cached_input_tokens),
            output_tokens: count(total.usage.output_tokens, known.usage.output_tokens),
            cost_usd: cost.map(rounded).filter(|cost| *cost > 0.0).map(|cost| cost.to_string()),
        },
        ..Item::default()
    }
}

fn amount(usage: &Usage) -> Option<f64> {
    usage.cost_usd.as_deref()?.parse::<f64>().ok().filter(|cost| cost.is_finite() && *cost >= 0.0)
}

/// To a billionth, so that sums do not show binary rounding errors.
fn rounded(cost: f64) -> f64 {
    (cost * 1e9).round() / 1e9
}

/// The sum.
pub fn sum(items: &[Item]) -> Item {
    let count = |of: fn(&Usage) -> Option<i64>| {
        items.iter().filter_map(|item| of(&item.usage)).reduce(i64::saturating_add)
    };
    let cost = items.iter().filter_map(|item| amount(&item.usage)).reduce(|a, b| a + b);
    Item {
        namespace: String::new(),
        name: "total".to_owned(),
        iterations: items.iter().fold(0, |sum, item| sum.saturating_add(item.iterations)),
        usage: Usage {
            input_tokens: count(|usage| usage.input_tokens),
            cached_input_tokens: count(|usage| usage.cached_input_tokens),
            output_tokens: count(|usage| usage.output_tokens),
            cost_usd: cost.map(|cost| rounded(cost).to_string()),
        },
    }
}

/// The lines of a bill: its items, and their sum.
pub fn lines(first: &str, items: &[Item], namespaces: bool, headers: bool, canvas: &Canvas) -> Vec<String> {
    let mut header = vec![first, "ITERATIONS", "COST", "PER-ITERATION", "INPUT", "CACHED", "OUTPUT"];
    if namespaces {
        header.insert(0, "NAMESPACE");
    }
    let rows: Vec<Vec<Cell>> = items.iter().chain([&sum(items)]).map(|item| row(item, namespaces)).collect();
    text::table(headers.then_some(&header), &rows, canvas.columns, canvas.style)
}

fn row(item: &Item, namespaces: bool) -> Vec<Cell> {
    let usage = &item.usage;
    let count = |count: Option<i64>| Cell::from(count.map(text::tokens).unwrap_or_default());
    let each = amount(usage).filter(|_| item.iterations > 0).map(|cost| cost / f64::from(item.iterations));
    let mut row = vec![
        line(&item.name).into(),
        item.iterations.to_string().into(),
        usage.cost_usd.as_deref().map(text::dollars).unwrap_or_default().into(),
        each.map(|each| text::dollars(&each.to_string())).unwrap_or_default().into(),
        count(usage.input_tokens),
        count(usage.cached_input_tokens),
        count(usage.output_tokens),
    ];
    if namespaces {
        row.insert(0, line(&item.namespace).into());
    }
    row
}

/// The same for programs.
pub fn json(items: &[Item], of: &str) -> Value {
    let object = |item: &Item| {
        let mut object = json!({ "name": item.name, "iterations": item.iterations, "usage": item.usage });
        if let Some(fields) = object.as_object_mut().filter(|_| !item.namespace.is_empty()) {
            fields.insert("namespace".to_owned(), item.namespace.clone().into());
        }
        object
    };
    let total = sum(items);
    json!({
        of: items.iter().map(object).collect::<Vec<_>>(),
        "total": { "iterations": total.iterations, "usage": total.usage },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{canvas, task};

    #[test]
    fn the_bill_of_several_tasks_has_their_sum() {
        let other = json!({ "metadata": { "name": "other" }, "status": { "iterations": 2,
            "usage": { "costUSD": "0.1", "inputTokens": 900, "cachedInputTokens": null, "outputTokens": 10 } } });
        let none = json!({ "metadata": { "name": "none" }, "status": null });
        let tasks = [task(&json!({})), task(&other), task(&none)];
        assert_eq!(
            lines("NAME", &of_tasks(&tasks), false, true, &canvas(None)),
            [
                "NAME    ITERATIONS   COST    PER-ITERATION   INPUT    CACHED   OUTPUT",
                "idle    4            $0.42   $0.11           125.0k   100.0k   4.3k",
                "other   2            $0.10   $0.0500         900               10",
                "none    0",
                "total   6            $0.52   $0.0868         125.9k   100.0k   4.3k",
            ]
        );
        let json = json(&of_tasks(&tasks), "tasks");
        assert_eq!(json["total"]["usage"]["costUSD"], "0.5211", "without rounding errors");
        assert_eq!(json["tasks"][0]["namespace"], "dev");
    }

    #[test]
    fn the_bill_of_one_task_has_its_iterations_and_what_is_not_among_them() {
        let change = json!({ "status": { "iterations": 6, "usage": { "costUSD": "1" } } });
        let shown = lines("ITERATION", &of_iterations(&task(&change)), false, false, &canvas(None));
        assert_eq!(shown[0].split_whitespace().collect::<Vec<_>>()[..3], ["others", "2", "$0.58"]);
        assert_eq!(shown.len(), 6);
        assert!(shown[5].starts_with("total    6   $1.00"), "{shown:?}");
    }

    #[test]
    fn a_bill_fits_the_terminal() {
        for columns in 40..=200 {
            for line in lines("NAME", &of_tasks(&[task(&json!({}))]), true, true, &canvas(Some(columns))) {
                assert!(text::width(&line) <= columns, "{columns}: {line}");
            }
        }
    }
}
