//! The completion gate: what an agent reports about its own work at the end of an iteration.

use serde::{Deserialize, Serialize};

/// The line that opens a completion gate in the agent's output.
pub const OPEN: &str = "<COMPLETION_GATE>";
/// The line that closes it.
pub const CLOSE: &str = "</COMPLETION_GATE>";

/// A complete completion gate, with a boolean `ready`. Anything less is not a completion gate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompletionGate {
    /// The agent says that the goal is reached.
    pub ready: bool,
    /// Why, or why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What this iteration achieved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// What blocks the agent. The first blocker is the iteration's error.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blockers: Vec<String>,
}

/// Why an output has no completion gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoCompletionGate {
    /// The agent printed nothing that looks like a completion gate.
    Absent,
    /// A completion gate was opened but not closed.
    Unclosed,
    /// The last block has no boolean `ready`.
    NoReady,
    /// All blocks are in code fences with text after them, so they explain the format and state nothing.
    Quoted,
}
