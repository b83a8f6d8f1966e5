//! Starts a command from a thread of its own, because what it is to inherit is an attribute of the thread.

use std::{
    io,
    process::{Child, Command},
    thread,
};

/// What a command gets beside its arguments.
#[derive(Clone, Copy, Debug, Default)]
pub struct LaunchOptions {
    /// No program that it executes, setuid or with capabilities of its own, gives it a right that it has not got.
    pub no_new_privileges: bool,
}

/// Starts the command; where what it must inherit cannot be set, it is not started.
pub(super) fn spawn(command: &mut Command, launch: LaunchOptions) -> io::Result<Child> {
    let started = thread::scope(|scope| {
        let launcher = thread::Builder::new().name("launch".to_owned()).spawn_scoped(scope, || {
            super::terminal::unblock()?;
            if launch.no_new_privileges {
                let set = rustix::thread::set_no_new_privs(true);
                set.map_err(|errno| io::Error::other(format!("cannot set no_new_privs: {errno}")))?;
            }
            command.spawn()
        })?;
        Ok(launcher.join())
    });
    started.and_then(|joined| joined.unwrap_or_else(|_| Err(io::Error::other("the launch failed"))))
}
