//! What the operator passes to the runner about an iteration.

use serde::{Deserialize, Serialize};

use crate::{completion_gate::CompletionGate, report::Change};

/// Version of [`Context`] that this build writes and reads.
pub const VERSION: u32 = 1;

/// Everything that the runner needs to know, mounted read-only as `context.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Context {
    /// Layout of this document: [`VERSION`].
    pub version: u32,
    /// The task.
    pub task: Task,
    /// This iteration's number, from 1.
    pub iteration: i32,
    /// The limit that was in force when the iteration was started.
    pub max_iterations: i32,
    /// This attempt's number within the iteration, from 0.
    pub attempt: i32,
    /// Where the workspace is mounted.
    pub workspace: String,
    /// Whether the workspace is a volume that outlives the pod.
    #[serde(default)]
    pub workspace_stays: bool,
    /// Gitignore patterns that do not count as change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
    /// Whether the prompt ends with a section on the loop.
    pub loop_context: LoopContext,
    /// When the task is done.
    pub policy: Policy,
    /// The command that must pass for the task to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// Seconds after which the agent is stopped.
    pub iteration_timeout_seconds: i64,
    /// Seconds between a polite stop (SIGTERM) and a kill of the agent's process group.
    pub grace_seconds: i64,
    /// Exit codes of the agent that mean "try again later".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retry_on_exit_codes: Vec<i32>,
    /// Whether the template names no working directory. If the container then starts in `/`, the agent starts in the
    /// workspace.
    #[serde(default)]
    pub start_in_workspace: bool,
    /// Whether the agent must not gain privileges (`no_new_privs`), because its container does not allow it.
    #[serde(default)]
    pub no_new_privileges: bool,
    /// Seconds without output after which an agent is stopped that has printed its final event but does not exit.
    #[serde(default = "default_exit_grace_seconds")]
    pub exit_grace_seconds: i64,
    /// How many transcripts the workspace keeps.
    #[serde(default)]
    pub transcripts: Transcripts,
    /// The maximum size of the report in bytes.
    pub report_limit_bytes: usize,
    /// Streaks before this iteration, and the thresholds at which they stop the loop.
    pub breaker: Breaker,
    /// The last iterations, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Past>,
}

fn default_exit_grace_seconds() -> i64 {
    60
}

/// How many transcripts of a task the workspace keeps. The oldest are removed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transcripts {
    /// Iterations whose transcripts are kept.
    pub iterations: i64,
    /// Their maximum total size in bytes.
    pub bytes: i64,
}

impl Default for Transcripts {
    fn default() -> Self {
        Self { iterations: 50, bytes: 64 << 20 }
    }
}

/// The task that an iteration belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, which distinguishes it from other tasks with the same name.
    pub uid: String,
}

/// How the agent learns about the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoopContext {
    /// The prompt ends with a short section on the loop.
    InPrompt,
    /// The prompt is passed on as written. Only the context file describes the loop.
    FileOnly,
}

/// When a task is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// The agent printed a completion gate with `ready: true` and exited with 0.
    Gate,
    /// The agent exited with 0.
    ExitCode,
    /// The verify command passed, whatever the agent reports.
    Verify,
}

/// A command that decides whether the work is really done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verify {
    /// The command and its arguments; no shell is implied.
    pub command: Vec<String>,
    /// Seconds after which it has failed.
    pub timeout_seconds: i64,
}

/// The circuit breaker's streaks before this iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Breaker {
    /// Consecutive iterations that changed nothing.
    pub consecutive_no_change: i32,
    /// The number of them that stops the loop.
    pub no_change_threshold: i32,
    /// Consecutive iterations that ended with the same error.
    pub consecutive_same_error: i32,
    /// The number of them that stops the loop.
    pub same_error_threshold: i32,
}

/// What is known about a previous iteration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Past {
    /// Its number.
    pub iteration: i32,
    /// How it ended: an outcome in the task's history such as `Exited` or `TimedOut`.
    pub outcome: String,
    /// The agent's exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Whether it changed the workspace.
    pub changed: Change,
    /// The completion gate that the agent printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<CompletionGate>,
    /// Its error in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
