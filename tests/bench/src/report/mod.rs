//! Tables, targets and curves, computed from the records alone.

mod charts;
mod tables;
pub mod targets;

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::arms::Arm;
use crate::parts::loops::{ONE, SATURATED};
use crate::parts::scale::{ARM, beside, step};
use crate::records::Records;
use crate::report::charts::{Chart, Curve, draw};
use crate::report::targets::{cpu_beside, rows, steps};
use crate::stats::as_f64;

/// Iterations between two points of a curve over iterations.
const WINDOWS: usize = 20;

/// What is printed at the end of a run.
pub fn text(records: &Records) -> String {
    let mut text = format!(
        "{}\n{}\n{}\n{}\n{}",
        tables::arms(records),
        tables::requests(records),
        tables::scale(records),
        tables::on_a_kubelet(records),
        tables::targets(records)
    );
    let failed = rows(records).into_iter().filter(targets::Row::fails);
    for row in failed {
        let _ = write!(text, "\na count exceeds its bound: {}", row.what);
    }
    text
}

/// Whether a count exceeds its bound.
pub fn has_failed(records: &Records) -> bool {
    rows(records).iter().any(targets::Row::fails)
}

/// Writes the document and its curves.
pub fn write(records: &Records, document: &Path) -> Result<()> {
    let charts = document.with_extension("");
    std::fs::write(document, markdown(records, "performance"))
        .with_context(|| format!("writing {}", document.display()))?;
    for (name, title, across, up, curves) in curves(records) {
        let chart = Chart { title, across, up, curves: &curves };
        draw(&charts.join(format!("{name}.svg")), &chart)?;
    }
    Ok(())
}

fn markdown(records: &Records, folder: &str) -> String {
    let about = |what| records.about(what);
    let images: Vec<String> = curves(records)
        .iter()
        .map(|(name, title, ..)| format!("![{title}]({folder}/{name}.svg)\n"))
        .collect();
    format!(
        "# Performance

`{command}` wrote this page on {date}. Do not edit it: run the command again.

Everything ran on one machine and shared its cores: the API server, etcd, the contender, the load generator and the fake
kubelet. Compare the rows of one table with each other, not with other machines. `target/bench/run.jsonl` has every
sample, and `bench report` computes this page from it.

- Machine: {machine}
- Kubernetes {kubernetes}, etcd {etcd} (without fsync), agentloop {agentloop}

## Targets

A ratio compares two arms of the same run; values are medians over {rounds} rounds.

{targets}
## All arms under the same loads

The fake kubelet binds every pod that may run, and writes two statuses; an agent of \"one loop\" and \"saturated loops\" takes
no time, one of \"paced loops\" takes seconds. A gap lasts from the moment when the API server has a pod's end until the
loop's next pod may start: its scheduling gate is removed, or for a Job, the pod is created.

- `raw` sends the operator's requests with the bytes that the operator sends, and decides nothing. `raw+get` also reads
  the task before it starts a pod, as the operator does. It runs inside the load generator, so its own CPU is not shown.
- `job-tuned` is the Job controller with `--kube-api-qps 1000 --kube-api-burst 1000 --concurrent-job-syncs 50`;
  `job-default` has its default limits. A Job keeps its pods; agentloop deletes one in each iteration here.

{arms}
The requests of one loop:

{requests}
## Beside idle tasks

Each idle task has a running pod; one in ten also has ten retained pods. All of them are in one namespace.

{scale}
## On a real kubelet

From the creation to the end of the tenth pod, whose only command is `true`. Bare pods are created by a program at the
moment when the one before has ended: no controller can be faster on this kubelet. `kubectl run` is a shell loop with
`--attach --rm`.

{on_a_kubelet}
{images}",
        command = about("command"),
        date = about("date"),
        machine = about("machine"),
        kubernetes = about("kubernetes"),
        etcd = about("etcd"),
        agentloop = about("agentloop"),
        rounds = about("rounds"),
        targets = tables::targets(records),
        arms = tables::arms(records),
        requests = tables::requests(records),
        scale = tables::scale(records),
        on_a_kubelet = tables::on_a_kubelet(records),
        images = images.join("\n"),
    )
}

type Described = (&'static str, &'static str, &'static str, &'static str, Vec<Curve>);

fn curves(records: &Records) -> Vec<Described> {
    let steps = steps(records);
    let over_tasks = |figure: &dyn Fn(usize) -> Option<f64>| {
        steps.iter().filter_map(|count| Some((as_f64(*count), figure(*count)?))).collect::<Vec<_>>()
    };
    let per_start =
        |count: usize, metric: &str| Some(records.per(&step(count), ARM, metric, "starts")? * 1000.0);
    let memory = |count: usize| Some(records.value(&step(count), ARM, "memory_bytes")? / 1024.0 / 1024.0);
    let gap = |count: usize, percent| records.percentile(&beside(count), ARM, "gap_ms", percent);
    let tasks = "idle tasks, each with a running pod";
    let named = |name: &str, points| (name.to_owned(), points);
    vec![
        (
            "cpu-per-iteration",
            "Operator CPU per iteration beside idle tasks",
            tasks,
            "ms",
            vec![named("operator", over_tasks(&|count| cpu_beside(records, count)))],
        ),
        (
            "cpu-per-start",
            "CPU to start one more task",
            tasks,
            "ms",
            vec![
                named("operator", over_tasks(&|count| per_start(count, "contender_cpu_s"))),
                named("API server", over_tasks(&|count| per_start(count, "api_server_cpu_s"))),
            ],
        ),
        ("memory", "Operator memory", tasks, "MiB", vec![named("operator", over_tasks(&memory))]),
        (
            "gap",
            "From a pod's end to the start of the next, beside idle tasks",
            tasks,
            "ms",
            vec![
                named("p50", over_tasks(&|count| gap(count, 50.0))),
                named("p99", over_tasks(&|count| gap(count, 99.0))),
            ],
        ),
        (
            "cpu-over-iterations",
            "CPU per iteration as iterations go by",
            "iterations of this process",
            "ms",
            vec![
                named("operator, one loop", over_iterations(records, ONE, Arm::Agentloop)),
                named("operator, saturated", over_iterations(records, SATURATED, Arm::Agentloop)),
                named("tuned Job, saturated", over_iterations(records, SATURATED, Arm::Job { tuned: true })),
            ],
        ),
    ]
}

/// CPU per iteration between points of the last round, in ms.
fn over_iterations(records: &Records, load: &str, arm: Arm) -> Vec<(f64, f64)> {
    let last = |metric| records.of(load, arm.name(), metric).last().map(|record| record.values.as_slice());
    let (Some(iterations), Some(cpu)) = (last("curve_iterations"), last("curve_cpu_s")) else {
        return Vec::new();
    };
    let all = iterations.last().copied().unwrap_or_default();
    let step = (all / as_f64(WINDOWS)).max(1.0);
    let mut points = Vec::new();
    let mut from: Option<(f64, f64)> = None;
    for (at, used) in iterations.iter().copied().zip(cpu.iter().copied()) {
        let Some((before, base)) = from else {
            from = Some((at, used));
            continue;
        };
        if at - before >= step {
            points.push((at, (used - base) / (at - before) * 1000.0));
            from = Some((at, used));
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Label;

    #[test]
    fn a_curve_over_iterations_is_the_cost_between_its_points() {
        let label = Label::new("loops", ONE, "agentloop", 1);
        let records = Records(vec![
            label.record("curve_iterations", vec![0.0, 10.0, 20.0]),
            label.record("curve_cpu_s", vec![1.0, 1.05, 1.07]),
        ]);
        let points = over_iterations(&records, ONE, Arm::Agentloop);
        let rounded: Vec<(f64, f64)> = points.iter().map(|(x, y)| (*x, y.round())).collect();
        assert_eq!(rounded, [(10.0, 5.0), (20.0, 2.0)]);
    }

    #[test]
    fn the_document_says_how_it_was_made() {
        let mut about = Label::new("about", "", "", 1).record("command", Vec::new());
        "make bench".clone_into(&mut about.detail);
        let text = markdown(&Records(vec![about]), "performance");
        assert!(text.contains("`make bench` wrote this page"), "{text}");
        assert!(text.contains("performance/memory.svg"));
    }
}
