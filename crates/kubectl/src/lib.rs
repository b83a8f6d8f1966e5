//! `kubectl-agentloop`: a kubectl plugin for the people whose loops run.
//!
//! ```text
//! main ──► cli ──► commands ──► session (client, terminal)       requests and output
//!                     │
//!                     └──► view, resume, jsonpath, transcript     pure: facts → lines, arguments → patch
//! ```
//!
//! It has the user's own rights and needs nothing in the cluster but the API. Its sentences are those of the status and
//! of `agentloop-core`.
//!
//! * [`cli`]: commands, flags and exit codes.
//! * [`commands`]: what each command requests and prints.
//! * [`session`]: the client and the terminal. [`proxy`]: which clusters are reached without a proxy. [`failure`]: what goes wrong, and what to do.
//! * [`view`]: objects as lines of text. [`text`]: tables, colours, durations, and text that is safe on a terminal.
//! * [`output`]: `-o json|yaml|name|jsonpath`. [`jsonpath`]: kubectl's JSONPath.
//! * [`manifest`]: a task from the flags of `run`.
//! * [`resume`]: which patch resumes a task. [`owners`]: who else writes the fields that a patch changes.
//! * [`lint`]: what is wrong with a manifest.
//! * [`reader`]: the pod that reads a workspace, and the commands that it runs.
//! * [`transcript`]: the output of agents, as text for people.
//! * [`complete`]: completion of command lines. [`reference`](mod@reference): the reference page.

pub mod cli;
pub mod commands;
pub mod complete;
pub mod failure;
pub mod jsonpath;
pub mod lint;
pub mod manifest;
pub mod output;
pub mod owners;
pub mod proxy;
pub mod reader;
pub mod reference;
pub mod resume;
pub mod session;
pub mod text;
pub mod transcript;
pub mod view;
