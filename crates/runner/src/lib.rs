//! Runs one iteration of a coding agent inside its pod. It works in any image: as PID 1 or not, as any user, on a
//! read-only root file system, without capabilities, and with nothing else in the image.
//!
//! Data flows in one direction. Only the modules marked with * do input or output:
//!
//! [`inputs`]* → [`prompt`] → [`workspace`]* (before) → [`process`]* with [`output`] and [`completion_gate`] → [`workspace`]*
//! (after) → [`process`]* (verify) → [`evaluation`] → [`termination_message`]*
//!
//! [`secrets`] masks credentials in everything that the runner writes, except in the agent's own output.
//!
//! [`run`] is that sequence, [`cli`] parses the commands, and [`install`] copies the program into another image.

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

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex even if a thread panicked while it had the lock: what it left is still valid.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
