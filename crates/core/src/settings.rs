//! The operator's ConfigMap, read into checked settings.
//!
//! A change is taken whole or refused whole: a configuration with one bad key changes nothing, so that a
//! slip of the hand never moves a bound that somebody relies on. One key is read by itself: `paused`, the
//! switch for emergencies, works whatever the other keys say, and unreadable it means true.

use std::collections::BTreeMap;

use crate::api::{AgentTaskSpec, MAX_ITERATIONS, Threshold, ThresholdSource, Thresholds};

/// Settings in force, each with where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The limit of tasks that name none.
    pub default_max_iterations: Threshold,
    /// The bound on every limit.
    pub hard_limit: Threshold,
    /// Iterations in a row without a change that stop a loop.
    pub no_change_threshold: Threshold,
    /// Iterations in a row with the same error that stop a loop.
    pub same_error_threshold: Threshold,
    /// One iteration's wall clock in seconds.
    pub iteration_timeout_seconds: Threshold,
    /// First delay in seconds after a start that failed.
    pub start_retry_min_seconds: i64,
    /// Longest delay in seconds after a start that failed.
    pub start_retry_max_seconds: i64,
    /// First delay in seconds after a refusal of the provider that named no time.
    pub rate_limit_min_seconds: i64,
    /// Longest such delay in seconds.
    pub rate_limit_max_seconds: i64,
    /// Attempts at one iteration that may be free though their agent had started.
    pub free_attempts: i64,
    /// Seconds that other containers may outlive the agent's.
    pub sidecar_grace_seconds: i64,
    /// Seconds without output after which an agent that is done, but does not exit, is ended.
    pub agent_exit_grace_seconds: i64,
    /// Iterations whose transcripts a workspace keeps.
    pub transcript_iterations: i64,
    /// Mebibytes that all transcripts of a workspace may take together.
    pub transcript_mebibytes: i64,
    /// The level of the operator's own log messages; `None` leaves the one that its command line sets.
    pub log_level: Option<LogLevel>,
}

/// A log level, from the fewest messages to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Errors only.
    Error,
    /// Warnings too.
    Warn,
    /// What happens to tasks.
    Info,
    /// Details for finding a fault.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The level as it is written in the ConfigMap.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    fn read(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str().eq_ignore_ascii_case(text.trim()))
    }
}

impl Default for Settings {
    fn default() -> Self {
        let default = |value| Threshold { value, from: ThresholdSource::Default };
        Self {
            default_max_iterations: default(10),
            hard_limit: default(50),
            no_change_threshold: default(3),
            same_error_threshold: default(5),
            iteration_timeout_seconds: default(3600),
            start_retry_min_seconds: 10,
            start_retry_max_seconds: 300,
            rate_limit_min_seconds: 60,
            rate_limit_max_seconds: 1800,
            free_attempts: 20,
            sidecar_grace_seconds: 30,
            agent_exit_grace_seconds: 60,
            transcript_iterations: 50,
            transcript_mebibytes: 64,
            log_level: None,
        }
    }
}

/// What the operator knows of its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The newest configuration's settings, or why it is refused.
    pub newest: Result<Settings, Refused>,
    /// The last settings that were good; the defaults where none ever were.
    pub last_good: Settings,
    /// The resourceVersion of the newest configuration; absent where there is no ConfigMap.
    pub version: Option<String>,
    /// This was read from the API server itself, not from a cache.
    pub consistent: bool,
    /// No new iteration anywhere.
    pub paused: bool,
}

impl Default for Configuration {
    fn default() -> Self {
        Self::absent()
    }
}

impl Configuration {
    /// No ConfigMap: the defaults.
    pub fn absent() -> Self {
        Self {
            newest: Ok(Settings::default()),
            last_good: Settings::default(),
            version: None,
            consistent: false,
            paused: false,
        }
    }

    /// The configuration that `data` tells; `last_good` is what was in force before.
    pub fn read(data: &BTreeMap<String, String>, version: Option<String>, last_good: &Settings) -> Self {
        let newest = parse(data);
        Self {
            last_good: newest.as_ref().map_or_else(|_| last_good.clone(), Clone::clone),
            newest,
            version,
            consistent: false,
            paused: paused(data),
        }
    }

    /// The same for an operator that has just started and knows of no configuration before. Where this one is refused,
    /// its delays hold as far as they are no mistakes themselves: they bound nothing, and a start must not have every
    /// task wait otherwise than it did.
    pub fn read_first(data: &BTreeMap<String, String>, version: Option<String>) -> Self {
        Self::read(data, version, &delays(data))
    }

    /// Whether a configuration of version `other` is newer than this one.
    ///
    /// Versions of one kind of object can be compared as numbers (KEP-5504). A version that is no number
    /// is newer than none.
    pub fn is_older_than(&self, other: Option<&str>) -> bool {
        let number = |version: &str| version.parse::<u64>().ok();
        match (self.version.as_deref().and_then(number), other.and_then(number)) {
            (Some(own), Some(other)) => own < other,
            (None, Some(_)) => true,
            _ => false,
        }
    }
}

/// Why a configuration is refused: one sentence a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Refused(pub Vec<String>);

/// One key: its name, its bounds, and where it goes.
struct Key {
    name: &'static str,
    min: i64,
    max: i64,
    set: fn(&mut Settings, i64),
}

/// A number within the bounds of its key.
fn from_config(value: i64) -> Threshold {
    Threshold { value: i32::try_from(value).unwrap_or(i32::MAX), from: ThresholdSource::Config }
}

const WEEK: i64 = 7 * 24 * 3600;

const KEYS: &[Key] = &[
    Key {
        name: "defaultMaxIterations",
        min: 1,
        max: MAX_ITERATIONS as i64,
        set: |s, v| s.default_max_iterations = from_config(v),
    },
    Key { name: "hardLimit", min: 1, max: MAX_ITERATIONS as i64, set: |s, v| s.hard_limit = from_config(v) },
    Key {
        name: "noChangeThreshold",
        min: 1,
        max: MAX_ITERATIONS as i64,
        set: |s, v| s.no_change_threshold = from_config(v),
    },
    Key {
        name: "sameErrorThreshold",
        min: 1,
        max: MAX_ITERATIONS as i64,
        set: |s, v| s.same_error_threshold = from_config(v),
    },
    Key {
        name: "iterationTimeoutSeconds",
        min: 1,
        max: WEEK,
        set: |s, v| s.iteration_timeout_seconds = from_config(v),
    },
    Key { name: "startRetryMinSeconds", min: 1, max: WEEK, set: |s, v| s.start_retry_min_seconds = v },
    Key { name: "startRetryMaxSeconds", min: 1, max: WEEK, set: |s, v| s.start_retry_max_seconds = v },
    Key { name: "rateLimitMinSeconds", min: 1, max: WEEK, set: |s, v| s.rate_limit_min_seconds = v },
    Key { name: "rateLimitMaxSeconds", min: 1, max: WEEK, set: |s, v| s.rate_limit_max_seconds = v },
    Key { name: "freeAttempts", min: 0, max: MAX_ITERATIONS as i64, set: |s, v| s.free_attempts = v },
    Key { name: "sidecarGraceSeconds", min: 0, max: WEEK, set: |s, v| s.sidecar_grace_seconds = v },
    Key { name: "agentExitGraceSeconds", min: 1, max: WEEK, set: |s, v| s.agent_exit_grace_seconds = v },
    Key { name: "transcriptIterations", min: 0, max: 10_000, set: |s, v| s.transcript_iterations = v },
    Key { name: "transcriptMebibytes", min: 0, max: 1 << 20, set: |s, v| s.transcript_mebibytes = v },
];

const PAUSED: &str = "paused";
const LOG_LEVEL: &str = "logLevel";

/// The keys that say how long something is waited for, and nothing else.
const DELAYS: &[&str] = &[
    "startRetryMinSeconds",
    "startRetryMaxSeconds",
    "rateLimitMinSeconds",
    "rateLimitMaxSeconds",
    "sidecarGraceSeconds",
];

/// The defaults, with the delays of `data` that can be read. Of a shortest delay above the longest one, both are the
/// longer.
fn delays(data: &BTreeMap<String, String>) -> Settings {
    let mut settings = Settings::default();
    for (name, text) in data {
        let key = KEYS.iter().find(|key| canonical(key.name) == canonical(name));
        let value = text.trim().parse::<i64>().ok();
        if let (Some(key), Some(value)) = (key, value)
            && DELAYS.contains(&key.name)
            && (key.min..=key.max).contains(&value)
        {
            (key.set)(&mut settings, value);
        }
    }
    settings.start_retry_max_seconds = settings.start_retry_max_seconds.max(settings.start_retry_min_seconds);
    settings.rate_limit_max_seconds = settings.rate_limit_max_seconds.max(settings.rate_limit_min_seconds);
    settings
}

/// A key's name without case and underscores, so that `hard_limit` is `hardLimit`.
fn canonical(name: &str) -> String {
    name.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect()
}

fn parse(data: &BTreeMap<String, String>) -> Result<Settings, Refused> {
    let mut settings = Settings::default();
    let mut problems = Vec::new();
    let mut seen = BTreeMap::new();
    for (name, text) in data {
        let canonical_name = canonical(name);
        if let Some(earlier) = seen.insert(canonical_name.clone(), name) {
            problems.push(format!("{earlier} and {name} are the same key: keep one"));
        }
        if canonical_name == canonical(PAUSED) {
            if read_bool(text).is_none() {
                problems.push(format!("{name}: {} is not true or false", quoted(text)));
            }
            continue;
        }
        if canonical_name == canonical(LOG_LEVEL) {
            settings.log_level = LogLevel::read(text);
            if settings.log_level.is_none() {
                problems
                    .push(format!("{name}: {} is not one of error, warn, info, debug, trace", quoted(text)));
            }
            continue;
        }
        let Some(key) = KEYS.iter().find(|key| canonical(key.name) == canonical_name) else {
            problems.push(format!("unknown setting {}: remove it or fix its spelling", quoted(name)));
            continue;
        };
        match text.trim().parse::<i64>() {
            Err(_) => problems.push(format!("{name}: {} is not a whole number", quoted(text))),
            Ok(value) if value < key.min || value > key.max => {
                problems.push(format!("{name}: {value} is not between {} and {}", key.min, key.max));
            }
            Ok(value) => (key.set)(&mut settings, value),
        }
    }
    if problems.is_empty() {
        problems.extend(contradictions(&mut settings));
    }
    if problems.is_empty() { Ok(settings) } else { Err(Refused(problems)) }
}

fn contradictions(settings: &mut Settings) -> Vec<String> {
    let mut problems = Vec::new();
    // A hard limit below our own default is no contradiction of the administrator's: the default yields.
    let default = &mut settings.default_max_iterations;
    if default.from == ThresholdSource::Default {
        default.value = default.value.min(settings.hard_limit.value);
    }
    let mut at_most = |low: (&str, i64), high: (&str, i64)| {
        if low.1 > high.1 {
            problems.push(format!("{} ({}) must not be above {} ({})", low.0, low.1, high.0, high.1));
        }
    };
    at_most(
        ("defaultMaxIterations", settings.default_max_iterations.value.into()),
        ("hardLimit", settings.hard_limit.value.into()),
    );
    at_most(
        ("startRetryMinSeconds", settings.start_retry_min_seconds),
        ("startRetryMaxSeconds", settings.start_retry_max_seconds),
    );
    at_most(
        ("rateLimitMinSeconds", settings.rate_limit_min_seconds),
        ("rateLimitMaxSeconds", settings.rate_limit_max_seconds),
    );
    problems
}

fn read_bool(text: &str) -> Option<bool> {
    match text.trim().to_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// Any spelling of the key that is not plainly false pauses.
fn paused(data: &BTreeMap<String, String>) -> bool {
    data.iter().any(|(name, text)| canonical(name) == canonical(PAUSED) && read_bool(text) != Some(false))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", agentloop_contract::text::cut(text, 40))
}

impl Settings {
    /// The thresholds for a task, its own spec first.
    pub fn thresholds(&self, spec: &AgentTaskSpec, version: Option<String>) -> Thresholds {
        let or = |own: Option<i32>, configured: Threshold| {
            own.map_or(configured, |value| Threshold { value, from: ThresholdSource::Spec })
        };
        let breaker = spec.breaker.as_ref();
        Thresholds {
            max_iterations: or(spec.max_iterations, self.default_max_iterations),
            hard_limit: self.hard_limit,
            no_change: or(breaker.and_then(|b| b.no_change_threshold), self.no_change_threshold),
            same_error: or(breaker.and_then(|b| b.same_error_threshold), self.same_error_threshold),
            iteration_timeout_seconds: or(spec.iteration_timeout_seconds, self.iteration_timeout_seconds),
            config_version: version,
        }
    }
}

impl Thresholds {
    /// The limit in force: what is asked for, and never more than the hard limit. At least 1, whatever an
    /// object that escaped validation says: no number ever means unlimited.
    pub fn effective_limit(&self) -> i32 {
        self.max_iterations.value.min(self.hard_limit.value).clamp(1, MAX_ITERATIONS)
    }

    /// Whether more is asked for than the hard limit allows.
    pub fn is_clamped(&self) -> bool {
        self.max_iterations.value > self.hard_limit.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn read(pairs: &[(&str, &str)]) -> Configuration {
        Configuration::read(&data(pairs), Some("7".to_owned()), &Settings::default())
    }

    #[track_caller]
    fn refused(pairs: &[(&str, &str)], words: &str) {
        let configuration = read(pairs);
        let message = configuration.newest.expect_err("refused").to_string();
        assert!(message.contains(words), "{message:?} does not say {words:?}");
        assert_eq!(configuration.last_good, Settings::default());
    }

    #[test]
    fn an_operator_that_starts_under_a_refused_configuration_keeps_its_delays_and_takes_no_bound_from_it() {
        let pairs = [
            ("hardLimit", "9"),
            ("noChangeThreshold", "7"),
            ("hardLimits", "x"),
            ("start_retry_min_seconds", "60"),
            ("rateLimitMinSeconds", "4000"),
            ("rateLimitMaxSeconds", "-1"),
            ("sidecarGraceSeconds", "soon"),
        ];
        let read = Configuration::read_first(&data(&pairs), None);
        assert!(read.newest.is_err());
        let expected = Settings {
            start_retry_min_seconds: 60,
            rate_limit_min_seconds: 4000,
            rate_limit_max_seconds: 4000,
            ..Settings::default()
        };
        assert_eq!(read.last_good, expected);
        let good = Configuration::read_first(&data(&[("hardLimit", "9")]), None);
        assert_eq!(good.newest, Ok(good.last_good));
    }

    #[test]
    fn an_absent_or_empty_configuration_means_the_defaults() {
        assert_eq!(read(&[]).newest, Ok(Settings::default()));
        assert!(!read(&[]).paused);
    }

    #[test]
    fn every_key_is_read_in_both_spellings_and_remembers_that_it_was_configured() {
        let settings = read(&[("hard_limit", "40"), ("NoChangeThreshold", " 7 ")]).newest.expect("good");
        assert_eq!(settings.hard_limit, from_config(40));
        assert_eq!(settings.no_change_threshold, from_config(7));
        assert_eq!(settings.same_error_threshold, Threshold { value: 5, from: ThresholdSource::Default });
        for key in KEYS {
            let value = key.max.to_string();
            let others = [
                ("hardLimit", "10000"),
                ("startRetryMaxSeconds", "604800"),
                ("rateLimitMaxSeconds", "604800"),
            ];
            let mut pairs = data(&others);
            pairs.insert(key.name.to_owned(), value);
            let read = Configuration::read(&pairs, None, &Settings::default());
            assert!(read.newest.is_ok(), "{}: {:?}", key.name, read.newest);
            assert_ne!(read.newest, Ok(Settings::default()), "{} changes nothing", key.name);
        }
    }

    #[test]
    fn every_key_may_have_its_lowest_value() {
        let lowest = KEYS.iter().map(|key| (key.name.to_owned(), key.min.to_string())).collect();
        let read = Configuration::read(&lowest, None, &Settings::default()).newest.expect("good");
        assert_eq!((read.hard_limit, read.sidecar_grace_seconds), (from_config(1), 0));
    }

    #[test]
    fn a_bad_key_is_refused_by_name_and_changes_nothing() {
        refused(&[("hardLimit", "20"), ("hardlimits", "5")], "unknown setting \"hardlimits\"");
        refused(&[("hardLimit", "many")], "hardLimit: \"many\" is not a whole number");
        refused(&[("hardLimit", "0")], "hardLimit: 0 is not between 1 and 10000");
        refused(&[("hardLimit", "10001")], "hardLimit: 10001 is not between");
        refused(&[("noChangeThreshold", "-1")], "noChangeThreshold: -1 is not between");
        refused(&[("hardLimit", "99999999999999999999")], "not a whole number");
        refused(&[("hardLimit", "5"), ("hard_limit", "6")], "same key");
        refused(
            &[("defaultMaxIterations", "60")],
            "defaultMaxIterations (60) must not be above hardLimit (50)",
        );
        refused(&[("startRetryMinSeconds", "900")], "startRetryMinSeconds (900) must not be above");
        refused(&[("rateLimitMinSeconds", "9000")], "rateLimitMinSeconds (9000) must not be above");
        refused(&[("paused", "maybe")], "paused: \"maybe\" is not true or false");
    }

    #[test]
    fn the_last_good_settings_stay_when_a_change_is_refused() {
        let good = read(&[("hardLimit", "20")]);
        let bad = Configuration::read(&data(&[("hardLimit", "x")]), Some("8".to_owned()), &good.last_good);
        assert_eq!(bad.last_good.hard_limit, from_config(20));
    }

    #[test]
    fn a_hard_limit_below_the_default_lowers_the_default() {
        let settings = read(&[("hardLimit", "4")]).newest.expect("good");
        assert_eq!(settings.default_max_iterations.value, 4);
    }

    #[test]
    fn paused_works_by_itself_and_unreadable_means_true() {
        assert!(read(&[("paused", "true")]).paused);
        assert!(read(&[("paused", "true")]).newest.is_ok());
        assert!(read(&[("paused", "yes please")]).paused);
        assert!(read(&[("Paused", "true"), ("hardLimit", "x")]).paused);
        assert!(!read(&[("paused", "False")]).paused);
    }

    #[test]
    fn the_log_level_is_one_of_five_words_in_any_case() {
        assert_eq!(read(&[]).newest.expect("valid").log_level, None);
        for level in LogLevel::ALL {
            for text in [level.as_str().to_owned(), format!(" {} ", level.as_str().to_uppercase())] {
                let settings = read(&[("logLevel", &text)]).newest.expect("valid");
                assert_eq!(settings.log_level, Some(level), "{text:?}");
            }
        }
        for text in ["", "loud", "info,kube=debug", "0"] {
            let words = format!("logLevel: \"{text}\" is not one of error, warn, info, debug, trace");
            refused(&[("logLevel", text)], &words);
        }
        refused(&[("logLevel", "info"), ("log_level", "debug")], "same key");
    }

    #[test]
    fn an_invalid_log_level_leaves_the_one_before() {
        let before = read(&[("logLevel", "debug")]).last_good;
        let invalid = Configuration::read(&data(&[("logLevel", "loud")]), None, &before);
        assert_eq!(invalid.last_good.log_level, Some(LogLevel::Debug));
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let own = read(&[]);
        assert!(own.is_older_than(Some("10")));
        assert!(!own.is_older_than(Some("7")));
        assert!(!own.is_older_than(Some("6")));
        assert!(!own.is_older_than(None));
        assert!(Configuration::absent().is_older_than(Some("1")));
    }

    #[test]
    fn the_limit_in_force_is_never_above_the_hard_limit_and_never_unlimited() {
        let limit = |asked: Option<i32>| {
            let spec = AgentTaskSpec { max_iterations: asked, ..AgentTaskSpec::default() };
            Settings::default().thresholds(&spec, None).effective_limit()
        };
        assert_eq!(limit(None), 10);
        assert_eq!(limit(Some(60)), 50);
        assert_eq!(limit(Some(50)), 50);
        assert_eq!(limit(Some(1)), 1);
        assert_eq!(limit(Some(0)), 1);
        assert_eq!(limit(Some(-5)), 1);
        assert_eq!(limit(Some(i32::MAX)), 50);
    }
}
