//! Logs, on standard error: JSON for machines, lines for people.

use std::io::{self, IsTerminal};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// A line to be read by people.
    Human,
}

/// Logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter has a mistake.
    #[error(
        "--log-level {0:?} is not a log filter: {1} (examples: info, debug, info,agentloop_operator=debug)"
    )]
    Filter(String, tracing_subscriber::filter::ParseError),
    /// A subscriber is installed already.
    #[error("logs are set up already: {0}")]
    Installed(Box<dyn std::error::Error + Send + Sync>),
}

/// Sets logs up for the whole process. Without a format: people's on a terminal, else JSON.
pub fn init(format: Option<LogFormat>, filter: &str) -> Result<(), TelemetryError> {
    let parsed = parse(filter).map_err(|error| TelemetryError::Filter(filter.to_owned(), error))?;
    let terminal = io::stderr().is_terminal();
    let human = if terminal { LogFormat::Human } else { LogFormat::Json };
    let logs = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(io::stderr);
    match format.unwrap_or(human) {
        LogFormat::Json => {
            logs.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
        }
        LogFormat::Human => logs.with_ansi(terminal).try_init(),
    }
    .map_err(TelemetryError::Installed)
}

/// An empty filter (an unset value in a chart) means the default, not silence.
fn parse(filter: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    let filter = if filter.trim().is_empty() { "info" } else { filter };
    EnvFilter::builder().parse(filter)
}

/// An id for one piece of work, such as a reconcile: a field of its span, so that its log lines can be found together.
pub(crate) fn work_id() -> String {
    format!("{:016x}", fastrand::u64(..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_filter_is_the_default() {
        assert_eq!(parse(" ").unwrap().to_string(), "info");
    }

    #[test]
    fn a_mistake_is_an_error_instead_of_silence() {
        assert!(parse("info,agentloop=loud").is_err());
    }
}
