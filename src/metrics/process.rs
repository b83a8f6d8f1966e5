//! Metrics of the process, with the names that all Prometheus clients use. They are read at each scrape; what cannot be
//! read (another operating system, a hidden `/proc`) is left out.
//!
//! Why not a library: prometheus-client has no process collector. That of the crate prometheus 0.14 registers only with
//! that crate's own registry, and metrics-process 2.4 reports to the facade of the crate metrics, which needs an exporter of
//! its own. Both read `/proc` through procfs, for the four values that are read here.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fmt, fs};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// The unit of CPU time in `/proc` (USER_HZ), the same on every architecture that Kubernetes supports.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug)]
pub(super) struct ProcessCollector {
    started: f64,
}

impl Default for ProcessCollector {
    /// The first call counts as the start of the process, which is precise enough.
    fn default() -> Self {
        static STARTED: OnceLock<f64> = OnceLock::new();
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        Self { started: *STARTED.get_or_init(now) }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        if let Some(seconds) = cpu_seconds() {
            let counter = ConstCounter::new(seconds);
            counter.encode(encoder.encode_descriptor(
                "process_cpu_seconds",
                "Total user and system CPU time in seconds",
                None,
                EncodeMetric::metric_type(&counter),
            )?)?;
        }
        let mut gauge = |name, help, value: f64| -> Result<(), fmt::Error> {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, EncodeMetric::metric_type(&gauge))?)
        };
        if let Some(bytes) = resident_bytes() {
            gauge("process_resident_memory_bytes", "Resident memory size in bytes", bytes)?;
        }
        if let Some(files) = open_files() {
            gauge("process_open_fds", "Number of open file descriptors", files)?;
        }
        gauge(
            "process_start_time_seconds",
            "Start time of the process in seconds since the Unix epoch",
            self.started,
        )
    }
}

/// Fields 14 and 15 of `/proc/self/stat`, counted from the end of the name, which can contain anything.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, behind) = stat.rsplit_once(')')?;
    let mut fields = behind.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

fn open_files() -> Option<f64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    u32::try_from(count).ok().map(f64::from)
}
