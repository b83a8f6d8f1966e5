//! A task as the API shows it.

use std::fmt;

use agentloop_test_support::json;
use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::Value;

/// The state of a task that is done.
pub const DONE: &str = "Succeeded/Completed";
/// The state of a task that has reached its limit.
pub const LIMIT: &str = "IterationLimitReached/IterationLimit";

/// A task as the API server returned it.
#[derive(Clone, Debug)]
pub struct TaskSnapshot(pub Value);

impl TaskSnapshot {
    fn text(&self, pointer: &str) -> &str {
        json::text(&self.0, pointer)
    }

    /// The number at a JSON pointer; 0 if there is none.
    pub fn number(&self, pointer: &str) -> i64 {
        json::number(&self.0, pointer)
    }

    /// The task's uid.
    pub fn uid(&self) -> &str {
        json::uid(&self.0)
    }

    /// The release that serves it.
    pub fn served_by(&self) -> &str {
        self.text("/status/servedBy")
    }

    /// The phase; empty before the operator has seen the task.
    pub fn phase(&self) -> &str {
        self.text("/status/phase")
    }

    /// Why it waits or stopped.
    pub fn reason(&self) -> &str {
        self.text("/status/reason")
    }

    /// The message for the user.
    pub fn message(&self) -> &str {
        self.text("/status/message")
    }

    /// Iterations settled and charged.
    pub fn iterations(&self) -> i64 {
        self.number("/status/iterations")
    }

    /// The pod of the active iteration.
    pub fn active_pod(&self) -> Option<&str> {
        self.0.pointer("/status/active/podName").and_then(Value::as_str)
    }

    /// When the next pod is created at the earliest, if the task waits for a time.
    pub fn not_before(&self) -> Option<Timestamp> {
        self.text("/status/waiting/retryTime").parse().ok()
    }

    /// The phase and its reason, if any: `CircuitOpen/NoChange`.
    pub fn state(&self) -> String {
        match self.reason() {
            "" => self.phase().to_owned(),
            reason => format!("{}/{reason}", self.phase()),
        }
    }

    /// The charged iterations, oldest first, by one field of their entries.
    pub fn history(&self, field: &str) -> Vec<String> {
        let entries = json::list(&self.0, "/status/history");
        let text = |entry: &Value| match entry.get(field) {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => "-".to_owned(),
        };
        entries.iter().rev().map(text).collect()
    }

    /// Status and reason of a condition: `True HardLimit`.
    pub fn condition(&self, type_: &str) -> Option<String> {
        let conditions = json::list(&self.0, "/status/conditions");
        let condition = conditions.iter().find(|c| c.get("type").is_some_and(|t| t == type_))?;
        let text = |field: &str| condition.get(field).and_then(Value::as_str).unwrap_or("-");
        Some(format!("{} {}", text("status"), text("reason")))
    }

    /// The commands in the message, in order.
    pub fn commands(&self) -> Vec<String> {
        // Each ends with the quote of its patch.
        let starts: Vec<usize> = self.message().match_indices("kubectl ").map(|(at, _)| at).collect();
        let command = |at: &usize| {
            let text = self.message().get(*at..)?;
            let end = text.find("}'")?;
            text.get(..end + 2).map(str::to_owned)
        };
        starts.iter().filter_map(command).collect()
    }

    /// The first command in the message that contains this word.
    pub fn command_with(&self, word: &str) -> Result<String> {
        let found = self.commands().into_iter().find(|command| command.contains(word));
        found.with_context(|| format!("no command with {word} in the message: {}", self.message()))
    }
}

impl fmt::Display for TaskSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} after {} iterations, active {}, message {:?}",
            self.state(),
            self.iterations(),
            self.active_pod().unwrap_or("none"),
            self.message(),
        )
    }
}
