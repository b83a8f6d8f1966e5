//! The parts of the benchmark.

pub mod about;
pub mod disturbed;
pub mod kubelet;
pub mod loops;
pub mod runner;
pub mod scale;
pub mod size;

use std::time::Instant;

use anyhow::Result;

use crate::measure::counters::Counters;
use crate::measure::process::Process;
use crate::parts::size::Size;
use crate::records::{Label, Sink};
use crate::stats::as_f64;
use crate::world::BenchCluster;

/// What every part works with.
pub struct Run {
    /// The control plane.
    pub world: BenchCluster,
    /// Where the results go.
    pub sink: Sink,
    /// How much is done.
    pub size: Size,
    /// Namespaces so far.
    pub namespaces: usize,
    /// When the run began.
    pub since: Instant,
}

impl Run {
    /// A new namespace, so that no load finds anything of an earlier one.
    pub async fn namespace(&mut self, what: &str) -> Result<String> {
        self.namespaces += 1;
        let name = format!("bench-{}-{what}", self.namespaces);
        self.world.namespace(&name).await?;
        Ok(name)
    }

    /// Reports progress.
    pub fn say(&self, what: &str) {
        eprintln!("{:>5} s  {what}", self.since.elapsed().as_secs());
    }
}

/// Samples a process while a load runs, for the curves of cost over iterations.
pub struct Curve {
    iterations: Vec<f64>,
    cpu: Vec<f64>,
    memory: Vec<f64>,
}

impl Curve {
    /// No samples yet.
    pub fn new() -> Self {
        Self { iterations: Vec::new(), cpu: Vec::new(), memory: Vec::new() }
    }

    /// Takes one sample.
    pub fn sample(&mut self, process: Process, iterations: usize) -> Result<()> {
        self.iterations.push(as_f64(iterations));
        self.cpu.push(process.cpu_seconds()?);
        self.memory.push(process.memory()?);
        Ok(())
    }

    /// Records the samples.
    pub fn record(self, label: &Label, sink: &mut Sink) -> Result<()> {
        sink.push(label.record("curve_iterations", self.iterations))?;
        sink.push(label.record("curve_cpu_s", self.cpu))?;
        sink.push(label.record("curve_memory_bytes", self.memory))
    }
}

impl Default for Curve {
    fn default() -> Self {
        Self::new()
    }
}

/// Measures what happens until [`Window::end`].
pub struct Window {
    contender: Option<Process>,
    start: Counters,
    /// When it began.
    pub since: Instant,
}

impl Window {
    /// Begins.
    pub async fn begin(world: &BenchCluster, contender: Option<Process>) -> Result<Self> {
        let start = Counters::begin(world, contender).await?;
        Ok(Self { contender, start, since: Instant::now() })
    }

    /// What it cost.
    pub async fn end(self, world: &BenchCluster) -> Result<crate::measure::counters::Cost> {
        Ok(self.start.until(&Counters::end(world, self.contender).await?))
    }
}
