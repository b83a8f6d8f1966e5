//! Real agents, with a scripted model. `hack/e2e up` builds their images from the packages of their vendors.
//!
//! The scenarios are the same for all agents. An agent is a file that says how it starts and how it finds its model.

mod claude_code;
mod codex;
mod scenarios;
mod setup;
mod unknown;
