//! Runs one iteration of a coding agent inside its pod, as whatever the agent's image makes of it: as PID 1 or not, as
//! any user, on a read-only root file system, without capabilities, and with nothing else in the image.
//!
//! Data flows one way; only the modules marked with * do any input or output:
//!
//! [`inputs`]* → [`prompt`] → [`workspace`]* (before) → [`process`]* with [`output`] and [`completion_gate`] → [`workspace`]*
//! (after) → [`process`]* (verify) → [`evaluation`] → [`termination_message`]*
//!
//! What anything but the agent says passes [`secrets`] first.
//!
//! [`run`] is that sequence, [`cli`] the commands around it, [`install`] how the program gets into a foreign image.

pub mod cli;
pub mod completion_gate;
pub mod evaluation;
pub mod inputs;
pub mod install;
pub mod output;
pub mod process;
pub mod prompt;
pub mod run;
pub mod secrets;
pub mod signals;
pub mod start;
pub mod termination_message;
pub mod workspace;
