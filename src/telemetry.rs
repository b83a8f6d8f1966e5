//! Logs, on standard error: JSON for machines, lines for people.

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::Arc;

use agentloop_core::settings::LogLevel;
use clap::ValueEnum;
use parking_lot::Mutex;
use tracing::{error, info};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::{EnvFilter, reload};

/// The target of the operator's own messages: the name of this crate.
const OWN_TARGET: &str = env!("CARGO_CRATE_NAME");

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// A line for people.
    Human,
}

/// Logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is invalid.
    #[error(
        "--log-level {0:?} is not a log filter: {1} (examples: info, debug, info,agentloop_operator=debug)"
    )]
    Filter(String, ParseError),
    /// A subscriber is already installed.
    #[error("logs are already set up: {0}")]
    Installed(Box<dyn std::error::Error + Send + Sync>),
}

/// Sets up the logs of the whole process. The default format is `human` on a terminal, and otherwise `json`.
pub fn init(format: Option<LogFormat>, filter: &str) -> Result<LogControl, TelemetryError> {
    let parsed = parse(filter, None).map_err(|error| TelemetryError::Filter(filter.to_owned(), error))?;
    let terminal = io::stderr().is_terminal();
    let human = if terminal { LogFormat::Human } else { LogFormat::Json };
    let logs = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(io::stderr);
    match format.unwrap_or(human) {
        LogFormat::Json => {
            let json = logs.json().flatten_event(true).with_current_span(true).with_span_list(false);
            let logs = json.with_filter_reloading();
            let handle = logs.reload_handle();
            logs.try_init().map_err(TelemetryError::Installed)?;
            Ok(LogControl::new(filter, move |filter| handle.reload(filter)))
        }
        LogFormat::Human => {
            let logs = logs.with_ansi(terminal).with_filter_reloading();
            let handle = logs.reload_handle();
            logs.try_init().map_err(TelemetryError::Installed)?;
            Ok(LogControl::new(filter, move |filter| handle.reload(filter)))
        }
    }
}

/// The filter of the command line, with another level for the operator's own messages if there is one.
///
/// An empty filter (an unset value in a chart) means the default, not silence.
fn parse(filter: &str, level: Option<LogLevel>) -> Result<EnvFilter, ParseError> {
    let filter = if filter.trim().is_empty() { "info" } else { filter };
    let filter = EnvFilter::builder().parse(filter)?;
    let Some(level) = level else { return Ok(filter) };
    Ok(filter.add_directive(format!("{OWN_TARGET}={}", level.as_str()).parse()?))
}

type Reload = dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync;

/// Changes the log level while the process runs. Clones change the same logs.
///
/// Only the operator's own messages change: libraries keep the level that the command line sets, so that `debug` shows
/// what the operator does, not every byte of its connections.
#[derive(Clone)]
pub struct LogControl {
    filter: Arc<str>,
    level: Arc<Mutex<Option<LogLevel>>>,
    reload: Arc<Reload>,
}

impl LogControl {
    fn new(
        filter: &str,
        reload: impl Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync + 'static,
    ) -> Self {
        Self { filter: filter.into(), level: Arc::default(), reload: Arc::new(reload) }
    }

    /// For a process whose logs are not set up here, such as a test: it changes nothing.
    pub fn disconnected() -> Self {
        Self::new("", |_| Ok(()))
    }

    /// Sets the level of the operator's own messages; `None` restores the one that the command line sets.
    pub fn set(&self, level: Option<LogLevel>) {
        let mut current = self.level.lock();
        if *current == level {
            return;
        }
        let changed = parse(&self.filter, level)
            .map_err(|error| error.to_string())
            .and_then(|filter| (self.reload)(filter).map_err(|error| error.to_string()));
        match changed {
            Ok(()) => {
                *current = level;
                let level = level.map_or("as on the command line", LogLevel::as_str);
                info!(level, "changed the log level");
            }
            Err(error) => error!(error, "cannot change the log level"),
        }
    }
}

impl fmt::Debug for LogControl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("LogControl").field("filter", &self.filter).finish_non_exhaustive()
    }
}

/// An id for one piece of work, such as a reconcile: a field of its span, so that its log lines can be found together.
pub(crate) fn work_id() -> String {
    format!("{:016x}", fastrand::u64(..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_filter_means_the_default() {
        assert_eq!(parse(" ", None).unwrap().to_string(), "info");
    }

    #[test]
    fn a_mistake_is_an_error_instead_of_silence() {
        assert!(parse("info,agentloop=loud", None).is_err());
    }

    #[test]
    fn a_level_changes_the_operators_own_messages_and_is_taken_back() {
        let filters = Arc::<Mutex<Vec<String>>>::default();
        let reloaded = filters.clone();
        let control = LogControl::new("warn,kube=error", move |filter| {
            reloaded.lock().push(filter.to_string());
            Ok(())
        });
        for level in [None, Some(LogLevel::Debug), Some(LogLevel::Debug), Some(LogLevel::Error), None] {
            control.set(level);
        }
        let expected = [
            "agentloop_operator=debug,kube=error,warn",
            "agentloop_operator=error,kube=error,warn",
            "kube=error,warn",
        ];
        assert_eq!(*filters.lock(), expected);
        let filter = parse("info,agentloop_operator=trace", Some(LogLevel::Warn)).unwrap();
        assert_eq!(
            filter.to_string(),
            "agentloop_operator=warn,info",
            "it replaces the level of the command line"
        );
    }
}
