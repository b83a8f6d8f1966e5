//! The raw results: one JSON line for each measured quantity, from which every figure can be computed again.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::stats;

/// One measured quantity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The part of the benchmark: `loops`, `scale`, `runner`, `kubelet`, or `about` for the run itself.
    pub part: String,
    /// What the arm had to do.
    pub load: String,
    /// Who did it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub arm: String,
    /// The round, from 1.
    #[serde(default)]
    pub round: u32,
    /// What was measured, with its unit: `gap_ms`, `contender_cpu_s`.
    pub metric: String,
    /// Which of several: a kind of request, or a version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Every sample.
    #[serde(default)]
    pub values: Vec<f64>,
}

impl Record {
    /// The sum of the samples: for a single one, its value.
    pub fn sum(&self) -> f64 {
        self.values.iter().sum()
    }
}

/// The records of a run.
#[derive(Clone, Debug, Default)]
pub struct Records(pub Vec<Record>);

impl Records {
    /// Reads the lines of a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let lines = text.lines().filter(|line| !line.is_empty());
        let records: Result<Vec<Record>, _> = lines.map(serde_json::from_str).collect();
        records.map(Self).with_context(|| format!("{} has a line that is no record", path.display()))
    }

    /// The records of this load, arm and metric, one for each round.
    pub fn of<'a>(
        &'a self,
        load: &'a str,
        arm: &'a str,
        metric: &'a str,
    ) -> impl Iterator<Item = &'a Record> {
        self.0.iter().filter(move |one| one.load == load && one.arm == arm && one.metric == metric)
    }

    /// The median over the rounds of what `figure` makes of each round's record.
    pub fn median(
        &self,
        load: &str,
        arm: &str,
        metric: &str,
        figure: impl Fn(&Record) -> Option<f64>,
    ) -> Option<f64> {
        let figures: Vec<f64> = self.of(load, arm, metric).filter_map(figure).collect();
        stats::median(&figures)
    }

    /// The median over the rounds of the sum of a metric.
    pub fn value(&self, load: &str, arm: &str, metric: &str) -> Option<f64> {
        self.median(load, arm, metric, |record| Some(record.sum()))
    }

    /// The median over the rounds of one metric divided by another one of the same round.
    pub fn per(&self, load: &str, arm: &str, metric: &str, divisor: &str) -> Option<f64> {
        self.median(load, arm, metric, |record| {
            let same_round = self.of(load, arm, divisor).find(|other| other.round == record.round)?;
            stats::ratio(record.sum(), same_round.sum())
        })
    }

    /// The median over the rounds of a percentile.
    pub fn percentile(&self, load: &str, arm: &str, metric: &str, percent: f64) -> Option<f64> {
        self.median(load, arm, metric, |record| stats::percentile(&record.values, percent))
    }

    /// The loads of a part, in the order in which they were measured.
    pub fn loads(&self, part: &str) -> Vec<&str> {
        let mut loads: Vec<&str> = Vec::new();
        for record in self.0.iter().filter(|record| record.part == part) {
            if !loads.contains(&record.load.as_str()) {
                loads.push(&record.load);
            }
        }
        loads
    }

    /// A fact about the run, such as the machine.
    pub fn about(&self, what: &str) -> &str {
        let found = self.0.iter().find(|one| one.part == "about" && one.metric == what);
        found.map_or("unknown", |one| one.detail.as_str())
    }
}

/// Where records go: into memory for the report, and into a file as they come.
pub struct Sink {
    path: PathBuf,
    file: File,
    records: Records,
}

impl Sink {
    /// Replaces the file at `path`.
    pub fn create(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(path);
        let file = file.with_context(|| format!("creating {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file, records: Records::default() })
    }

    /// Appends one record.
    pub fn push(&mut self, record: Record) -> Result<()> {
        let line = serde_json::to_string(&record)?;
        writeln!(self.file, "{line}").with_context(|| format!("writing {}", self.path.display()))?;
        self.records.0.push(record);
        Ok(())
    }

    /// All records so far.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The part, load, arm and round that the next records belong to.
#[derive(Clone, Debug, Default)]
pub struct Label {
    /// See [`Record::part`].
    pub part: String,
    /// See [`Record::load`].
    pub load: String,
    /// See [`Record::arm`].
    pub arm: String,
    /// See [`Record::round`].
    pub round: u32,
}

impl Label {
    /// A label from its parts.
    pub fn new(part: &str, load: &str, arm: &str, round: u32) -> Self {
        Self { part: part.to_owned(), load: load.to_owned(), arm: arm.to_owned(), round }
    }

    /// A record under this label.
    pub fn record(&self, metric: &str, values: Vec<f64>) -> Record {
        let Self { part, load, arm, round } = self.clone();
        Record { part, load, arm, round, metric: metric.to_owned(), detail: String::new(), values }
    }

    /// A record of one of several.
    pub fn detailed(&self, metric: &str, detail: &str, value: f64) -> Record {
        Record { detail: detail.to_owned(), ..self.record(metric, vec![value]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Records {
        let mut records = Vec::new();
        for (round, cpu) in [(1, 2.0), (2, 9.0), (3, 4.0)] {
            let label = Label::new("loops", "one", "agentloop", round);
            records.push(label.record("cpu_s", vec![cpu]));
            records.push(label.record("iterations", vec![2.0]));
            records.push(label.record("gap_ms", vec![cpu, cpu * 10.0]));
        }
        records.push(Label::new("loops", "one", "raw", 1).record("cpu_s", vec![100.0]));
        Records(records)
    }

    #[test]
    fn a_figure_is_the_median_over_the_rounds_of_one_arm() {
        assert_eq!(records().value("one", "agentloop", "cpu_s"), Some(4.0));
        assert_eq!(records().per("one", "agentloop", "cpu_s", "iterations"), Some(2.0));
        assert_eq!(records().percentile("one", "agentloop", "gap_ms", 99.0), Some(40.0));
        assert_eq!(records().value("one", "job", "cpu_s"), None);
    }

    #[test]
    fn what_was_written_reads_back_the_same() {
        let folder = std::env::temp_dir().join(format!("bench-records-{}", std::process::id()));
        let mut sink = Sink::create(&folder.join("run.jsonl")).expect("a file");
        for record in records().0 {
            sink.push(record).expect("written");
        }
        let read = Records::read(sink.path()).expect("records");
        assert_eq!(read.0, records().0);
        std::fs::remove_dir_all(folder).expect("removed");
    }
}
