//! Starts a command from a separate thread, because what the command inherits is an attribute of the thread.

use std::{
    io,
    process::{Child, Command},
    thread,
};

/// Options for starting a command.
#[derive(Clone, Copy, Debug, Default)]
pub struct LaunchOptions {
    /// Programs that the command executes cannot give it privileges, even if they are setuid or have capabilities.
    pub no_new_privileges: bool,
}

/// Starts the command. It is not started if the options cannot be applied.
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
