//! The tables, as Markdown: the same text on the terminal and in the document.

use std::fmt::Write as _;

use crate::arms::Arm;
use crate::parts::kubelet::{self, Sequence};
use crate::parts::loops::{ONE, PACED, SATURATED};
use crate::parts::scale::{ARM, beside, step};
use crate::records::Records;
use crate::report::targets::{Bound, Row, cpu_beside, rows, steps};

/// A number with as many digits as matter.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size > 0.0 => format!("{value:.2}"),
        _ => "0".to_owned(),
    }
}

fn cell(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), number)
}

/// A table with columns as wide as they need to be.
fn table(head: &[&str], body: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = body.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|cell| cell.chars().count())).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!(" {cell:<width$} "));
        format!("|{}|\n", padded.collect::<Vec<_>>().join("|"))
    };
    let mut text = line(head.to_vec());
    let rules: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    let _ = writeln!(text, "|{}|", rules.join("|"));
    for row in body {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}

/// All targets.
pub fn targets(records: &Records) -> String {
    let head = ["point", "what", "measured", "reference", "ratio", "target", "reached"];
    let body: Vec<Vec<String>> = rows(records).iter().map(target).collect();
    table(&head, &body)
}

fn target(row: &Row) -> Vec<String> {
    let with_unit = |value: Option<f64>| match value {
        Some(value) => format!("{} {}", number(value), row.unit).trim_end().to_owned(),
        None => "–".to_owned(),
    };
    let bound = match row.bound {
        Bound::AtMost(most) => format!("≤ {}", number(most)),
        Bound::AtLeast(least) => format!("≥ {}", number(least)),
    };
    let is_reached = match row.is_reached() {
        Some(true) => "yes",
        Some(false) => "**no**",
        None => "not measured",
    };
    vec![
        row.point.to_string(),
        row.what.clone(),
        with_unit(row.value),
        with_unit(row.reference),
        cell(row.reference.and(row.compared())),
        bound,
        is_reached.to_owned(),
    ]
}

/// All arms under all loads.
pub fn arms(records: &Records) -> String {
    let head = [
        "load",
        "arm",
        "it/s",
        "gap p50 ms",
        "p90",
        "p99",
        "requests/it",
        "puts/it",
        "CPU ms/it: contender",
        "API server",
        "etcd",
    ];
    let mut body = Vec::new();
    for load in [ONE, PACED, SATURATED] {
        for arm in Arm::ALL.map(Arm::name) {
            if records.of(load, arm, "iterations").next().is_none() {
                continue;
            }
            let gap = |percent| cell(records.percentile(load, arm, "gap_ms", percent));
            let each = |metric| records.per(load, arm, metric, "iterations");
            let cpu = |metric| cell(each(metric).map(|seconds| seconds * 1000.0));
            body.push(vec![
                load.to_owned(),
                arm.to_owned(),
                cell(records.per(load, arm, "iterations", "seconds")),
                gap(50.0),
                gap(90.0),
                gap(99.0),
                cell(each("requests")),
                cell(each("etcd_puts")),
                cpu("contender_cpu_s"),
                cpu("api_server_cpu_s"),
                cpu("etcd_cpu_s"),
            ]);
        }
    }
    table(&head, &body)
}

/// The cost beside idle tasks, step by step.
pub fn scale(records: &Records) -> String {
    let head = [
        "idle tasks",
        "pods",
        "memory MiB",
        "operator CPU ms/start",
        "API server CPU ms/start",
        "operator CPU ms/it beside",
        "it/s beside",
        "gap p50 ms beside",
    ];
    let row = |count: usize| {
        let (idle, loops) = (step(count), beside(count));
        let per_start = |metric| cell(records.per(&idle, ARM, metric, "starts").map(|cpu| cpu * 1000.0));
        let memory = records.value(&idle, ARM, "memory_bytes").map(|bytes| bytes / 1024.0 / 1024.0);
        vec![
            count.to_string(),
            cell(records.value(&idle, ARM, "pods")),
            cell(memory),
            per_start("contender_cpu_s"),
            per_start("api_server_cpu_s"),
            cell(cpu_beside(records, count)),
            cell(records.per(&loops, ARM, "iterations", "seconds")),
            cell(records.percentile(&loops, ARM, "gap_ms", 50.0)),
        ]
    };
    table(&head, &steps(records).into_iter().map(row).collect::<Vec<_>>())
}

/// How long each way to run one pod after the other takes on a real kubelet.
pub fn on_a_kubelet(records: &Records) -> String {
    let seconds = |arm: &str| Some(records.value(kubelet::LOAD, arm, "ms")? / 1000.0);
    let floor = seconds(Sequence::Bare.name());
    let row = |sequence: Sequence| {
        let took = seconds(sequence.name());
        let against = took.zip(floor).and_then(|(took, floor)| crate::stats::ratio(took, floor));
        vec![sequence.name().to_owned(), cell(took), cell(against)]
    };
    table(&["ten empty pods", "s", "against bare pods"], &Sequence::ALL.map(row))
}

/// The operator's requests in the measured iterations of one loop.
pub fn requests(records: &Records) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    for record in records.of(ONE, Arm::Agentloop.name(), "request") {
        if !kinds.contains(&record.detail.as_str()) {
            kinds.push(&record.detail);
        }
    }
    let of_arm = |arm: Arm, kind: &str| {
        let name = arm.name();
        let iterations: f64 = records.of(ONE, name, "iterations").map(crate::records::Record::sum).sum();
        let all = records.of(ONE, name, "request").filter(|record| record.detail == kind);
        cell(crate::stats::ratio(all.map(crate::records::Record::sum).sum(), iterations))
    };
    let row = |kind: &&str| {
        vec![(*kind).to_owned(), of_arm(Arm::Agentloop, kind), of_arm(Arm::Raw { confirms: true }, kind)]
    };
    table(&["request", "agentloop, per iteration", "raw+get"], &kinds.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Label;

    #[test]
    fn numbers_have_the_digits_that_matter() {
        let texts = [0.0, 0.123, 1.0, 9.876, 12.34, 540.4, 10_066.3].map(number);
        assert_eq!(texts, ["0", "0.12", "1.00", "9.88", "12.3", "540", "10066"]);
    }

    #[test]
    fn the_table_of_targets_shows_value_reference_ratio_and_verdict() {
        let mut records = Records::default();
        for (arm, gap) in [("agentloop", 30.0), ("raw+get", 20.0)] {
            records.0.push(Label::new("loops", ONE, arm, 1).record("gap_ms", vec![gap]));
        }
        let text = targets(&records);
        let line = text.lines().find(|line| line.contains("gap p50, one loop")).expect("a line");
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        assert_eq!(cells.get(3..8), Some(&["30.0 ms", "20.0 ms", "1.50", "≤ 1.25", "**no**"][..]));
        let unmeasured = text.lines().find(|line| line.contains("next action")).expect("a line");
        assert!(unmeasured.contains("not measured"));
    }

    #[test]
    fn arms_that_did_not_run_have_no_line() {
        let mut records = Records::default();
        let label = Label::new("loops", SATURATED, "agentloop", 1);
        records.0.push(label.record("iterations", vec![100.0]));
        records.0.push(label.record("seconds", vec![4.0]));
        let text = arms(&records);
        assert_eq!(text.lines().count(), 3);
        assert!(text.contains(" 25.0 "), "{text}");
    }
}
