//! Copies this program into a folder, from an image that may hold nothing else.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// The program's name in the folder.
const NAME: &str = "agentloop-runner";

/// Puts a copy of the running program into `folder`, executable by everybody, whole or not at all.
pub fn install(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let temporary = folder.join(format!(".{NAME}.{}", std::process::id()));
    let copied = copy(&temporary).and_then(|()| fs::rename(&temporary, folder.join(NAME)));
    if copied.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    copied
}

fn copy(to: &Path) -> io::Result<()> {
    // A left-over of an init container that was killed.
    let _ = fs::remove_file(to);
    let mut own = File::open("/proc/self/exe")?;
    let mut file = File::options().write(true).create_new(true).mode(0o755).open(to)?;
    io::copy(&mut own, &mut file)?;
    // Whatever the umask is.
    file.set_permissions(fs::Permissions::from_mode(0o755))?;
    file.sync_all()
}
