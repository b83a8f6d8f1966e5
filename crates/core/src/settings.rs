//! The operator's ConfigMap, read into checked settings.
//!
//! A change is applied as a whole or not at all: a configuration with one invalid key changes nothing, so that a typing
//! error never moves a bound that someone relies on. The exception is `paused`, the emergency switch: it works even if
//! other keys are invalid, and an invalid value means true.

use std::collections::BTreeMap;

use crate::api::{AgentTaskSpec, MAX_ITERATIONS, Threshold, ThresholdSource, Thresholds};

/// The settings in force. A threshold also has its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The limit of tasks that do not set one.
    pub default_max_iterations: Threshold,
    /// The bound on every limit.
    pub hard_limit: Threshold,
    /// Iterations in a row without a change that stop a loop.
    pub no_change_threshold: Threshold,
    /// Iterations in a row with the same error that stop a loop.
    pub same_error_threshold: Threshold,
    /// The timeout of one iteration in seconds.
    pub iteration_timeout_seconds: Threshold,
    /// The first delay in seconds after a failed start.
    pub start_retry_min_seconds: i64,
    /// The maximum delay in seconds after a failed start.
    pub start_retry_max_seconds: i64,
    /// The first delay in seconds after a refusal of the provider.
    pub rate_limit_min_seconds: i64,
    /// The maximum delay in seconds after a refusal of the provider.
    pub rate_limit_max_seconds: i64,
    /// How many attempts at one iteration may be free although their agent had started.
    pub free_attempts: i64,
    /// Seconds that other containers may keep running after the agent's container has ended.
    pub sidecar_grace_seconds: i64,
    /// Seconds without output after which an agent is stopped that has printed its final event but does not exit.
    pub agent_exit_grace_seconds: i64,
    /// Iterations whose transcripts are kept in a workspace.
    pub transcript_iterations: i64,
    /// Maximum total size in mebibytes of the transcripts in a workspace.
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

/// The configuration as the operator knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The settings of the newest configuration, or why it is invalid.
    pub newest: Result<Settings, InvalidConfiguration>,
    /// The last valid settings; the defaults if there were none.
    pub last_valid: Settings,
    /// The resourceVersion of the newest configuration; absent if there is no ConfigMap.
    pub version: Option<String>,
    /// Whether it was read from the API server, not from a cache.
    pub consistent: bool,
    /// Whether all loops are paused: no iteration starts.
    pub paused: bool,
}

impl Default for Configuration {
    fn default() -> Self {
        Self::absent()
    }
}

impl Configuration {
    /// The configuration without a ConfigMap: the defaults.
    pub fn absent() -> Self {
        Self {
            newest: Ok(Settings::default()),
            last_valid: Settings::default(),
            version: None,
            consistent: false,
            paused: false,
        }
    }

    /// The configuration in `data`. `last_valid` are the settings that were in force before.
    pub fn read(data: &BTreeMap<String, String>, version: Option<String>, last_valid: &Settings) -> Self {
        let newest = parse(data);
        Self {
            last_valid: newest.as_ref().map_or_else(|_| last_valid.clone(), Clone::clone),
            newest,
            version,
            consistent: false,
            paused: paused(data),
        }
    }

    /// The same for an operator that has just started and knows no earlier configuration. If this one is invalid, its
    /// valid delays still apply: they bound nothing, and a restart of the operator should not change the delays of all
    /// tasks.
    pub fn read_first(data: &BTreeMap<String, String>, version: Option<String>) -> Self {
        Self::read(data, version, &delays(data))
    }

    /// Whether a configuration of version `other` is newer than this one.
    ///
    /// Versions of one kind of object can be compared as numbers (KEP-5504). A version that is not a number is not
    /// newer than any other.
    pub fn is_older_than(&self, other: Option<&str>) -> bool {
        let number = |version: &str| version.parse::<u64>().ok();
        match (self.version.as_deref().and_then(number), other.and_then(number)) {
            (Some(own), Some(other)) => own < other,
            (None, Some(_)) => true,
            _ => false,
        }
    }
}

/// Why a configuration is invalid: one sentence for each key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct InvalidConfiguration(pub Vec<String>);

/// A key: its name, its bounds, and how to set it.
struct Key {
    name: &'static str,
    min: i64,
    max: i64,
    set: fn(&mut Settings, i64),
}

/// A threshold from the configuration. `value` is within the bounds of its key.
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

/// The keys that are delays, and bound nothing.
const DELAYS: &[&str] = &[
    "startRetryMinSeconds",
    "startRetryMaxSeconds",
    "rateLimitMinSeconds",
    "rateLimitMaxSeconds",
    "sidecarGraceSeconds",
];

/// The defaults, with the valid delays of `data`. If a minimum is above its maximum, it replaces the maximum.
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

fn parse(data: &BTreeMap<String, String>) -> Result<Settings, InvalidConfiguration> {
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
    if problems.is_empty() { Ok(settings) } else { Err(InvalidConfiguration(problems)) }
}

fn contradictions(settings: &mut Settings) -> Vec<String> {
    let mut problems = Vec::new();
    // If the hard limit is below the built-in default limit, the default is lowered.
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

/// Every value of the key other than false pauses all loops.
fn paused(data: &BTreeMap<String, String>) -> bool {
    data.iter().any(|(name, text)| canonical(name) == canonical(PAUSED) && read_bool(text) != Some(false))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", agentloop_contract::text::cut(text, 40))
}

impl Settings {
    /// The thresholds of a task. Its spec takes precedence.
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
    /// The limit in force: the requested limit, but at most the hard limit. It is at least 1, even for an object that
    /// was not validated, so that no number means unlimited.
    pub fn effective_limit(&self) -> i32 {
        self.max_iterations.value.min(self.hard_limit.value).clamp(1, MAX_ITERATIONS)
    }

    /// Whether the requested limit is above the hard limit.
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
    fn is_invalid(pairs: &[(&str, &str)], words: &str) {
        let configuration = read(pairs);
        let message = configuration.newest.expect_err("invalid").to_string();
        assert!(message.contains(words), "{message:?} does not say {words:?}");
        assert_eq!(configuration.last_valid, Settings::default());
    }

    #[test]
    fn an_operator_that_starts_with_an_invalid_configuration_uses_its_delays_but_none_of_its_bounds() {
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
        assert_eq!(read.last_valid, expected);
        let good = Configuration::read_first(&data(&[("hardLimit", "9")]), None);
        assert_eq!(good.newest, Ok(good.last_valid));
    }

    #[test]
    fn an_absent_or_empty_configuration_means_the_defaults() {
        assert_eq!(read(&[]).newest, Ok(Settings::default()));
        assert!(!read(&[]).paused);
    }

    #[test]
    fn every_key_is_read_in_both_spellings_and_shows_that_it_was_configured() {
        let settings = read(&[("hard_limit", "40"), ("NoChangeThreshold", " 7 ")]).newest.expect("valid");
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
        let read = Configuration::read(&lowest, None, &Settings::default()).newest.expect("valid");
        assert_eq!((read.hard_limit, read.sidecar_grace_seconds), (from_config(1), 0));
    }

    #[test]
    fn an_invalid_key_is_named_and_changes_nothing() {
        is_invalid(&[("hardLimit", "20"), ("hardlimits", "5")], "unknown setting \"hardlimits\"");
        is_invalid(&[("hardLimit", "many")], "hardLimit: \"many\" is not a whole number");
        is_invalid(&[("hardLimit", "0")], "hardLimit: 0 is not between 1 and 10000");
        is_invalid(&[("hardLimit", "10001")], "hardLimit: 10001 is not between");
        is_invalid(&[("noChangeThreshold", "-1")], "noChangeThreshold: -1 is not between");
        is_invalid(&[("hardLimit", "99999999999999999999")], "not a whole number");
        is_invalid(&[("hardLimit", "5"), ("hard_limit", "6")], "same key");
        is_invalid(
            &[("defaultMaxIterations", "60")],
            "defaultMaxIterations (60) must not be above hardLimit (50)",
        );
        is_invalid(&[("startRetryMinSeconds", "900")], "startRetryMinSeconds (900) must not be above");
        is_invalid(&[("rateLimitMinSeconds", "9000")], "rateLimitMinSeconds (9000) must not be above");
        is_invalid(&[("paused", "maybe")], "paused: \"maybe\" is not true or false");
    }

    #[test]
    fn the_last_valid_settings_stay_in_force_when_a_change_is_invalid() {
        let good = read(&[("hardLimit", "20")]);
        let bad = Configuration::read(&data(&[("hardLimit", "x")]), Some("8".to_owned()), &good.last_valid);
        assert_eq!(bad.last_valid.hard_limit, from_config(20));
    }

    #[test]
    fn a_hard_limit_below_the_default_lowers_the_default() {
        let settings = read(&[("hardLimit", "4")]).newest.expect("valid");
        assert_eq!(settings.default_max_iterations.value, 4);
    }

    #[test]
    fn paused_works_beside_invalid_keys_and_an_invalid_value_means_true() {
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
            is_invalid(&[("logLevel", text)], &words);
        }
        is_invalid(&[("logLevel", "info"), ("log_level", "debug")], "same key");
    }

    #[test]
    fn an_invalid_log_level_leaves_the_one_before() {
        let before = read(&[("logLevel", "debug")]).last_valid;
        let invalid = Configuration::read(&data(&[("logLevel", "loud")]), None, &before);
        assert_eq!(invalid.last_valid.log_level, Some(LogLevel::Debug));
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
