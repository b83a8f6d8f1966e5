//! Metrics for Prometheus. Those that mean the same as in controller-runtime have the same names, so that dashboards for Go
//! operators work. The values of a label are variants in the code or names in the configuration: no metric has a label for
//! the task, or for namespaces that users create.

mod process;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use agentloop_core::api::{IterationOutcome, Phase, StopReason};
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Of [`Metrics::encode`]'s answer.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every phase, so that a phase without tasks shows 0 instead of its last number.
const PHASES: [Phase; 8] = [
    Phase::Pending,
    Phase::Running,
    Phase::Waiting,
    Phase::Suspended,
    Phase::IterationLimitReached,
    Phase::CircuitOpen,
    Phase::Failed,
    Phase::Succeeded,
];

/// controller-runtime's buckets, in seconds.
const RECONCILE_SECONDS: [f64; 36] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25,
    1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 15.0, 30.0, 60.0,
];

const CONTROLLER: [(&str, &str); 1] = [("controller", "agenttask")];

/// How a reconcile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconciled {
    /// There is nothing to do until something changes.
    Success,
    /// It runs again at a known time.
    RequeueAfter,
    /// Failed.
    Error,
}

impl Reconciled {
    const ALL: [Self; 3] = [Self::Success, Self::RequeueAfter, Self::Error];

    /// The value that controller-runtime uses.
    fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::RequeueAfter => "requeue_after",
            Self::Error => "error",
        }
    }
}

/// Where a panic was caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicSource {
    /// In the reconcile of a task.
    Reconcile,
    /// In the cleanup of a pod whose task is gone.
    Orphan,
    /// In reading the configuration.
    Configuration,
    /// In counting the tasks.
    Count,
}

impl PanicSource {
    const ALL: [Self; 4] = [Self::Reconcile, Self::Orphan, Self::Configuration, Self::Count];

    fn label(self) -> &'static str {
        match self {
            Self::Reconcile => "reconcile",
            Self::Orphan => "orphan",
            Self::Configuration => "configuration",
            Self::Count => "count",
        }
    }
}

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// POST.
    Create,
    /// PATCH of an object.
    Patch,
    /// PATCH of a task's status.
    PatchStatus,
    /// DELETE.
    Delete,
}

impl Verb {
    fn label(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Patch => "patch",
            Self::PatchStatus => "patch_status",
            Self::Delete => "delete",
        }
    }
}

type Labels<const N: usize> = [(&'static str, String); N];

/// All metrics of the process; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    all: Arc<All>,
}

#[derive(Debug)]
struct All {
    registry: Registry,
    reconciles: Family<Labels<2>, Counter>,
    reconcile_seconds: Histogram,
    reconcile_errors: Counter,
    active_workers: Gauge,
    max_workers: Gauge,
    iterations: Family<Labels<1>, Counter>,
    stops: Family<Labels<2>, Counter>,
    pods_created: Counter,
    writes: Family<Labels<2>, Counter>,
    config_invalid: Gauge,
    panics: Family<Labels<1>, Counter>,
    leader: Gauge,
    tasks_elsewhere: Gauge,
    unlisted: Family<Labels<1>, Gauge>,
    tasks: Family<Labels<1>, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A new set of metrics, all at zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let all = All {
            reconciles: Family::default(),
            reconcile_seconds: Histogram::new(RECONCILE_SECONDS),
            reconcile_errors: Counter::default(),
            active_workers: Gauge::default(),
            max_workers: Gauge::default(),
            iterations: Family::default(),
            stops: Family::default(),
            pods_created: Counter::default(),
            writes: Family::default(),
            config_invalid: Gauge::default(),
            panics: Family::default(),
            leader: Gauge::default(),
            tasks_elsewhere: Gauge::default(),
            unlisted: Family::default(),
            tasks: Family::default(),
            registry: Registry::default(),
        };
        all.register(&mut registry);
        for how in Reconciled::ALL {
            drop(all.reconciles.get_or_create(&reconcile_labels(how)));
        }
        for place in PanicSource::ALL {
            drop(all.panics.get_or_create(&[("in", place.label().to_owned())]));
        }
        let metrics = Self { all: Arc::new(All { registry, ..all }) };
        metrics.tasks(|_| 0);
        metrics
    }

    /// All samples, as [`CONTENT_TYPE`].
    ///
    /// # Errors
    /// Never, as a string takes everything; the encoder's signature says otherwise.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.all.registry)?;
        Ok(out)
    }

    /// A reconcile ended.
    pub fn reconciled(&self, how: Reconciled, took: Duration) {
        self.all.reconciles.get_or_create(&reconcile_labels(how)).inc();
        self.all.reconcile_seconds.observe(took.as_secs_f64());
        if how == Reconciled::Error {
            self.all.reconcile_errors.inc();
        }
    }

    /// A reconcile begins; it ends when the result is dropped.
    pub fn worker(&self) -> Worker {
        self.all.active_workers.inc();
        Worker(self.clone())
    }

    /// How many reconciles may run at the same time.
    pub fn max_workers(&self, most: u16) {
        self.all.max_workers.set(i64::from(most));
    }

    /// An iteration was settled and charged.
    pub fn iteration(&self, outcome: IterationOutcome) {
        self.all.iterations.get_or_create(&[("outcome", outcome.to_string())]).inc();
    }

    /// A loop stopped.
    pub fn stop(&self, phase: Phase, reason: StopReason) {
        self.all.stops.get_or_create(&[("phase", phase.to_string()), ("reason", reason.to_string())]).inc();
    }

    /// A pod was created.
    pub fn pod_created(&self) {
        self.all.pods_created.inc();
    }

    /// A write ended with `ok` or the reason of a [`RequestError`](crate::client::RequestError).
    pub fn write(&self, verb: Verb, result: &'static str) {
        self.all
            .writes
            .get_or_create(&[("verb", verb.label().to_owned()), ("result", result.to_owned())])
            .inc();
    }

    /// Whether the newest configuration is invalid.
    pub fn config_invalid(&self, is_invalid: bool) {
        self.all.config_invalid.set(i64::from(is_invalid));
    }

    /// A panic was caught.
    pub fn panicked(&self, place: PanicSource) {
        self.all.panics.get_or_create(&[("in", place.label().to_owned())]).inc();
    }

    /// Whether this process leads.
    pub fn leader(&self, leads: bool) {
        self.all.leader.set(i64::from(leads));
    }

    /// Whether a namespace that is watched by its name cannot be listed.
    pub fn unlisted(&self, namespace: &str, is_unlisted: bool) {
        let gauge = self.all.unlisted.get_or_create(&[("namespace", namespace.to_owned())]);
        gauge.set(i64::from(is_unlisted));
    }

    /// How many tasks of the watched namespaces another release serves.
    pub fn tasks_elsewhere(&self, count: i64) {
        self.all.tasks_elsewhere.set(count);
    }

    /// How many tasks of the cache are in each phase.
    pub fn tasks(&self, in_phase: impl Fn(Phase) -> i64) {
        for phase in PHASES {
            self.all.tasks.get_or_create(&[("phase", phase.to_string())]).set(in_phase(phase));
        }
    }
}

fn reconcile_labels(how: Reconciled) -> Labels<2> {
    let [(controller, name)] = CONTROLLER;
    [(controller, name.to_owned()), ("result", how.label().to_owned())]
}

impl All {
    /// The encoder adds `_total` to a counter's name.
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "controller_runtime_reconcile",
            "Number of reconciles by result",
            self.reconciles.clone(),
        );
        let ours =
            registry.sub_registry_with_labels(CONTROLLER.into_iter().map(|(k, v)| (k.into(), v.into())));
        ours.register(
            "controller_runtime_reconcile_time_seconds",
            "Duration of reconciles",
            self.reconcile_seconds.clone(),
        );
        ours.register(
            "controller_runtime_reconcile_errors",
            "Number of reconciles that failed",
            self.reconcile_errors.clone(),
        );
        ours.register(
            "controller_runtime_active_workers",
            "Number of reconciles in progress",
            self.active_workers.clone(),
        );
        ours.register(
            "controller_runtime_max_concurrent_reconciles",
            "Maximum number of reconciles in progress",
            self.max_workers.clone(),
        );
        registry.register(
            "agentloop_iterations",
            "Number of iterations that were settled and charged",
            self.iterations.clone(),
        );
        registry.register(
            "agentloop_stops",
            "Number of loops that stopped, by phase and reason",
            self.stops.clone(),
        );
        registry.register("agentloop_pods_created", "Number of pods created", self.pods_created.clone());
        registry.register("agentloop_writes", "Number of write requests by result", self.writes.clone());
        registry.register(
            "agentloop_config_invalid",
            "1 while the newest configuration is invalid",
            self.config_invalid.clone(),
        );
        registry.register(
            "agentloop_panics",
            "Number of panics that were caught: each is a bug in agentloop",
            self.panics.clone(),
        );
        registry.register("agentloop_leader", "1 while this process is the leader", self.leader.clone());
        registry.register(
            "agentloop_namespace_unlisted",
            "1 while tasks or pods of this watched namespace cannot be listed",
            self.unlisted.clone(),
        );
        registry.register(
            "agentloop_tasks_of_other_releases",
            "Number of tasks in watched namespaces that another release serves",
            self.tasks_elsewhere.clone(),
        );
        registry.register(
            "agentloop_tasks",
            "Number of tasks in each phase, from this process's cache",
            self.tasks.clone(),
        );
        registry.register(
            "agentloop_build",
            "Version of the program",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register_collector(Box::new(process::ProcessCollector::default()));
    }
}

/// A reconcile in progress; see [`Metrics::worker`].
#[derive(Debug)]
#[must_use = "the reconcile ends when this is dropped"]
pub struct Worker(Metrics);

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.all.active_workers.dec();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// Strictly parses the encoder's output: the name and labels of every sample, and its value.
    fn samples(text: &str) -> BTreeMap<String, f64> {
        let mut families = BTreeSet::new();
        let mut found = BTreeMap::new();
        let mut kind = BTreeMap::new();
        let body = text.strip_suffix("# EOF\n").expect("an end");
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, type_) = rest.split_once(' ').expect("name and type");
                assert!(families.insert(name.to_owned()), "{name} has two descriptions");
                kind.insert(name.to_owned(), type_.to_owned());
                continue;
            }
            if line.starts_with("# HELP ") {
                continue;
            }
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let name = series.split('{').next().expect("a name");
            assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{name}");
            if let Some(labels) = series.strip_prefix(name).filter(|labels| !labels.is_empty()) {
                let labels =
                    labels.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).expect("braces");
                for label in labels.split("\",") {
                    let (key, value) = label.split_once("=\"").expect("key and value");
                    assert!(key.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{key}");
                    assert!(!value.trim_end_matches('"').contains(['"', '\\', '\n']), "{value}");
                }
            }
            let family = kind.iter().find(|(family, kind)| {
                name.strip_prefix(family.as_str()).is_some_and(|suffix| match kind.as_str() {
                    "counter" => suffix == "_total",
                    "gauge" => suffix.is_empty(),
                    "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
                    "info" => suffix == "_info",
                    _ => false,
                })
            });
            assert!(family.is_some(), "{name} belongs to no family of its kind");
            let value = value.parse().expect("a number");
            assert!(found.insert(series.to_owned(), value).is_none(), "{series} appears twice");
        }
        found
    }

    fn encoded(metrics: &Metrics) -> BTreeMap<String, f64> {
        samples(&metrics.encode().unwrap())
    }

    #[test]
    fn the_text_is_valid_before_and_after_anything_happened() {
        let metrics = Metrics::new();
        encoded(&metrics);
        metrics.reconciled(Reconciled::Error, Duration::from_millis(3));
        metrics.iteration(IterationOutcome::Exited);
        metrics.stop(Phase::CircuitOpen, StopReason::NoChange);
        metrics.pod_created();
        metrics.write(Verb::PatchStatus, "conflict");
        metrics.config_invalid(true);
        metrics.panicked(PanicSource::Orphan);
        metrics.leader(true);
        metrics.unlisted("team-a", true);
        metrics.tasks(|phase| i64::from(phase == Phase::Running) * 3);
        let samples = encoded(&metrics);
        for (series, value) in [
            (r#"controller_runtime_reconcile_total{controller="agenttask",result="error"}"#, 1.0),
            (r#"controller_runtime_reconcile_total{controller="agenttask",result="success"}"#, 0.0),
            (r#"controller_runtime_reconcile_errors_total{controller="agenttask"}"#, 1.0),
            (r#"controller_runtime_reconcile_time_seconds_count{controller="agenttask"}"#, 1.0),
            (r#"agentloop_iterations_total{outcome="Exited"}"#, 1.0),
            (r#"agentloop_stops_total{phase="CircuitOpen",reason="NoChange"}"#, 1.0),
            ("agentloop_pods_created_total", 1.0),
            (r#"agentloop_writes_total{verb="patch_status",result="conflict"}"#, 1.0),
            ("agentloop_config_invalid", 1.0),
            (r#"agentloop_panics_total{in="orphan"}"#, 1.0),
            (r#"agentloop_panics_total{in="reconcile"}"#, 0.0),
            ("agentloop_leader", 1.0),
            (r#"agentloop_namespace_unlisted{namespace="team-a"}"#, 1.0),
            (r#"agentloop_tasks{phase="Running"}"#, 3.0),
            (r#"agentloop_tasks{phase="Pending"}"#, 0.0),
        ] {
            assert_eq!(samples.get(series), Some(&value), "{series} in {samples:#?}");
        }
    }

    #[test]
    fn a_worker_counts_while_it_works() {
        let metrics = Metrics::new();
        let series = r#"controller_runtime_active_workers{controller="agenttask"}"#;
        let worker = metrics.worker();
        assert_eq!(encoded(&metrics).get(series), Some(&1.0));
        drop(worker);
        assert_eq!(encoded(&metrics).get(series), Some(&0.0));
    }

    #[test]
    fn every_phase_of_the_schema_is_shown() {
        let crd = serde_json::to_string(&agentloop_core::api::crd()).unwrap();
        let shown: BTreeSet<String> = PHASES.iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), PHASES.len());
        let crd: serde_json::Value = serde_json::from_str(&crd).unwrap();
        let about = crd
            .pointer("/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/phase/description")
            .and_then(serde_json::Value::as_str)
            .expect("phases in the schema");
        let (_, known) = about.split_once("Known values: ").expect("the words that this version knows");
        let of_schema: BTreeSet<String> =
            known.trim_end_matches('.').split(", ").map(str::to_owned).collect();
        assert_eq!(shown, of_schema);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_reports_its_memory_and_files() {
        let samples = encoded(&Metrics::new());
        for series in ["process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"] {
            assert!(samples.get(series).is_some_and(|value| *value > 0.0), "{series}");
        }
    }
}
