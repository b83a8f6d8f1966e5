//! What the runner reports to the operator, in the container's termination message.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    completion_gate::{CompletionGate, NoCompletionGate},
    mac,
    text::cut,
};

/// Version of [`Report`] that this build writes and reads.
pub const VERSION: u32 = 1;

/// The maximum size of a report in a pod of few containers. The kubelet keeps 4,096 bytes per container and 12,288 per
/// pod, and would cut a longer message in the middle of its JSON.
pub const MAX_BYTES: usize = 3072;

/// Bytes that all containers of a pod share for their termination messages.
const POD_BYTES: usize = 12_288;

/// Characters kept of one line of text, such as a reason or an error.
pub const LINE_CHARS: usize = 200;
/// Blockers kept of a completion gate.
pub const MAX_BLOCKERS: usize = 5;
/// Names kept of changed files.
pub const MAX_FILES: usize = 5;

/// The maximum size of a report in a pod of `containers` containers, init containers included.
///
/// Leaves room for four more, because admission webhooks inject containers after the operator has counted.
pub fn limit_bytes(containers: usize) -> usize {
    MAX_BYTES.min(POD_BYTES / (containers.saturating_add(4)))
}

/// The result of an iteration, seen from inside its pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Layout of this document: [`VERSION`].
    pub version: u32,
    /// How the agent ended.
    pub end: End,
    /// The agent's exit code, if it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that killed the agent, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the workspace differs from before.
    pub changed: Change,
    /// Whether nothing in the workspace was touched: type, mode, size, times and inode of every file are as before,
    /// whatever counts as a change. False if this was not compared.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untouched: bool,
    /// The folder that the agent started in, if that is neither the workspace nor below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_in: Option<String>,
    /// How many files were added, removed or changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_changed: Option<i64>,
    /// The names of the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Fingerprint of the workspace before the agent ran, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint_before: Option<String>,
    /// Fingerprint of the workspace afterwards, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint_after: Option<String>,
    /// The completion gate that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<CompletionGate>,
    /// Why there is no completion gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_gate: Option<NoCompletionGate>,
    /// The result of the verify command, if it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verified>,
    /// The iteration's error; absent if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
    /// The model provider refused to serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_refused: Option<ProviderError>,
    /// What the agent's own output says about its cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// When the agent was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When the agent had ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// The names of the parts that were cut to fit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cut: Vec<String>,
}

/// How the agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// By itself. It has an exit code or a signal.
    Exited,
    /// Stopped by the runner at the iteration's timeout.
    TimedOut,
    /// The runner received SIGTERM before the agent had ended.
    Interrupted,
    /// Not executed: this very attempt has already run on this workspace.
    AlreadyRan,
    /// Not executed: the command does not exist or cannot be executed.
    CommandNotFound,
    /// Not executed, or not evaluated: the runner itself failed. The error says why.
    RunnerFailed,
}

/// Whether an iteration changed its workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// It changed something.
    Changed,
    /// Proven: the fingerprints are equal.
    Unchanged,
    /// Not known: a fingerprint was not finished or never taken.
    Unknown,
}

/// The result of the verify command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// It exited 0.
    pub passed: bool,
    /// Its exit code, if it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// It did not finish within its timeout.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed_out: bool,
    /// The last lines of its output, if it failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
}

/// An iteration's error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Error {
    /// Equal for errors that differ only in volatile parts. See [`crate::error::signature`].
    pub signature: String,
    /// One line for people.
    pub summary: String,
}

impl Error {
    /// The error that a text describes: its signature, and its first line that is not blank as the summary.
    pub fn new(text: &str) -> Self {
        Self { signature: crate::error::signature(text), summary: crate::error::summary(text) }
    }
}

/// An error of the model provider: it refused to serve the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProviderError {
    /// What kind.
    pub kind: ProviderErrorKind,
    /// When the agent may try again, according to the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The provider failed (a 5xx status, a broken connection), and did not limit the use. A separate field, because
    /// older operators know only the two kinds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unavailable: bool,
}

/// Kinds of provider errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProviderErrorKind {
    /// Not now: rate limit, quota or overload.
    RateLimited,
    /// Not with this credential.
    Unauthenticated,
}

/// What an iteration cost, if the agent's own output says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Tokens that the model read, cached tokens included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<i64>,
    /// The part of them that was served from the provider's cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input_tokens: Option<i64>,
    /// Tokens that the model wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<i64>,
    /// Cost in US dollars, as a decimal number such as `0.0421`.
    #[serde(default, rename = "costUSD", skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<String>,
    /// The model that the agent used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

impl Report {
    /// A report of which only the end is known.
    pub fn of(end: End) -> Self {
        Self {
            version: VERSION,
            end,
            exit_code: None,
            signal: None,
            changed: Change::Unknown,
            untouched: false,
            started_in: None,
            files_changed: None,
            files: Vec::new(),
            fingerprint_before: None,
            fingerprint_after: None,
            gate: None,
            no_gate: None,
            verify: None,
            error: None,
            provider_refused: None,
            usage: None,
            started_at: None,
            finished_at: None,
            cut: Vec::new(),
        }
    }

    /// Reads a termination message.
    ///
    /// # Errors
    /// The message is not a complete report of [`VERSION`]: it was cut, overwritten, or written by another program.
    pub fn decode(message: &str) -> Result<Self, Unreadable> {
        let report: Self = serde_json::from_str(message.trim()).map_err(|e| Unreadable(e.to_string()))?;
        if report.version != VERSION {
            return Err(Unreadable(format!(
                "it has version {}, but version {VERSION} is supported",
                report.version
            )));
        }
        Ok(report)
    }

    /// The report as JSON of at most `limit` bytes, signed with `key` if there is one. The least important parts are
    /// cut first. `None` if not even the essential facts fit; they always fit into 550 bytes.
    pub fn encode(&self, limit: usize, key: Option<&[u8]>) -> Option<String> {
        let Some(key) = key else { return self.fit(limit) };
        let json = self.fit(limit.checked_sub(mac::BYTES)?)?;
        mac::sign(&json, key)
    }

    fn fit(&self, limit: usize) -> Option<String> {
        let mut report = self.clone();
        report.bound();
        for step in [None].into_iter().chain(CUTS.iter().map(Some)) {
            if let Some((name, cut)) = step {
                cut(&mut report);
                if !report.cut.iter().any(|cut| cut == name) {
                    report.cut.push((*name).to_owned());
                }
            }
            let json = serde_json::to_string(&report).ok()?;
            if json.len() <= limit {
                return Some(json);
            }
        }
        None
    }

    /// Bounds every text and list. The report does not mention these cuts, because they remove only noise.
    fn bound(&mut self) {
        let line = |text: &mut String| *text = cut(text, LINE_CHARS);
        self.started_in.iter_mut().for_each(line);
        self.files.truncate(MAX_FILES);
        self.files.iter_mut().for_each(line);
        if let Some(gate) = &mut self.gate {
            gate.reason.iter_mut().for_each(line);
            gate.progress.iter_mut().for_each(line);
            gate.blockers.truncate(MAX_BLOCKERS);
            gate.blockers.iter_mut().for_each(line);
        }
        if let Some(verify) = &mut self.verify {
            let surplus = verify.last_lines.len().saturating_sub(MAX_BLOCKERS);
            verify.last_lines.drain(..surplus);
            verify.last_lines.iter_mut().for_each(line);
        }
        if let Some(error) = &mut self.error {
            line(&mut error.signature);
            line(&mut error.summary);
        }
        if let Some(usage) = &mut self.usage {
            usage.cost_usd.iter_mut().for_each(line);
            usage.model.iter_mut().for_each(line);
        }
    }
}

/// The name of a part of a report that can be cut, and how to cut it.
type Cut = (&'static str, fn(&mut Report));

/// What is cut when a report is too long, in this order. What the operator decides by is never cut.
const CUTS: &[Cut] = &[
    ("files", |r| r.files.clear()),
    ("gate.progress", |r| r.gate.iter_mut().for_each(|g| g.progress = None)),
    ("gate.blockers", |r| r.gate.iter_mut().for_each(|g| g.blockers.truncate(1))),
    ("verify.lastLines", |r| {
        r.verify.iter_mut().for_each(|v| drop(v.last_lines.drain(..v.last_lines.len().saturating_sub(1))));
    }),
    ("gate.reason", |r| r.gate.iter_mut().for_each(|g| g.reason = None)),
    ("startedIn", |r| r.started_in = None),
    ("fingerprints", |r| (r.fingerprint_before, r.fingerprint_after) = (None, None)),
    ("usage.model", |r| r.usage.iter_mut().for_each(|u| u.model = None)),
    ("verify.lastLines", |r| r.verify.iter_mut().for_each(|v| v.last_lines.clear())),
    ("gate.blockers", |r| r.gate.iter_mut().for_each(|g| g.blockers.clear())),
    ("error.summary", |r| r.error.iter_mut().for_each(|e| e.summary = cut(&e.summary, 40))),
    ("usage", |r| r.usage = None),
];

/// Why a termination message is not a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(pub String);

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the runner's report cannot be read: {}", self.0)
    }
}

impl std::error::Error for Unreadable {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn long(fill: &str) -> Report {
        let text = fill.repeat(500);
        Report {
            exit_code: Some(1),
            files: vec![text.clone(); 20],
            fingerprint_before: Some("a".repeat(32)),
            fingerprint_after: Some("b".repeat(32)),
            gate: Some(CompletionGate {
                ready: false,
                reason: Some(text.clone()),
                progress: Some(text.clone()),
                blockers: vec![text.clone(); 20],
            }),
            verify: Some(Verified {
                passed: false,
                exit_code: Some(1),
                timed_out: false,
                last_lines: vec![text.clone(); 20],
            }),
            error: Some(Error::new(&text)),
            usage: Some(Usage { input_tokens: Some(i64::MAX), model: Some(text), ..Usage::default() }),
            ..Report::of(End::Exited)
        }
    }

    #[test]
    fn an_encoded_report_decodes_to_the_same_report() {
        let report = Report { exit_code: Some(3), ..Report::of(End::Exited) };
        let json = report.encode(MAX_BYTES, None).expect("fits");
        assert_eq!(Report::decode(&json), Ok(report));
    }

    #[test]
    fn a_long_report_lists_what_was_cut_and_keeps_what_the_operator_decides_by() {
        let json = long("x").encode(limit_bytes(10), None).expect("fits");
        let report = Report::decode(&json).expect("whole");
        assert!(report.cut.contains(&"files".to_owned()), "{:?}", report.cut);
        assert_eq!(report.error.map(|e| e.signature), long("x").error.map(|e| e.signature));
        assert_eq!(report.gate.map(|g| g.ready), Some(false));
    }

    #[test]
    fn each_cut_is_listed_once() {
        let report = Report::decode(&long("x").encode(600, None).expect("fits")).expect("whole");
        let names = ["files", "gate.progress", "gate.blockers", "verify.lastLines", "gate.reason"];
        assert_eq!(report.cut.get(..names.len()), Some(names.map(str::to_owned).as_slice()));
    }

    #[test]
    fn texts_and_lists_are_bounded_even_if_there_is_room() {
        let json = long("x").encode(usize::MAX, None).expect("fits");
        let report = Report::decode(&json).expect("whole");
        assert_eq!(report.cut, Vec::<String>::new());
        assert!(report.files.len() == MAX_FILES && json.len() < 6_000, "{json}");
        let gate = report.gate.expect("a gate");
        assert_eq!(gate.blockers.len(), MAX_BLOCKERS);
        assert_eq!(gate.reason.map(|reason| reason.chars().count()), Some(LINE_CHARS));
    }

    /// Kubernetes keeps 12 KiB for all containers of a pod together, and 4 KiB for each.
    #[test]
    fn the_containers_of_a_pod_share_the_room_for_reports_and_four_more_fit() {
        for containers in 1..20 {
            assert!(limit_bytes(containers) * (containers + 4) <= POD_BYTES, "{containers}");
        }
        assert_eq!(limit_bytes(0), MAX_BYTES);
        assert!(limit_bytes(8) > 1_000);
    }

    #[test]
    fn half_a_report_is_not_a_report() {
        let json = long("x").encode(MAX_BYTES, None).expect("fits");
        let half = json.get(..json.len() / 2).expect("ascii");
        assert!(Report::decode(half).is_err());
        let error = Report::decode("Segmentation fault").expect_err("no report").to_string();
        assert!(error.starts_with("the runner's report cannot be read: expected value"), "{error}");
        assert!(Report::decode(&json.replacen("\"version\":1", "\"version\":2", 1)).is_err());
    }

    proptest! {
        #[test]
        fn an_encoded_report_is_never_longer_than_its_limit(fill in "\\PC{1,3}", limit in 550_usize..4000, signed in proptest::bool::ANY) {
            let key: Option<&[u8]> = signed.then_some(b"key");
            let json = long(&fill).encode(limit, key);
            prop_assert!(json.as_ref().is_some_and(|j| j.len() <= limit), "{json:?}");
        }
    }
}
