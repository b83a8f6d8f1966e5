//! Copies this program into a folder, from an image that may contain nothing else.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// The program's name in the folder.
const NAME: &str = "agentloop-runner";

/// Copies the running program into `folder`, executable by every user, completely or not at all.
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
    // An init container that was killed may have left it behind.
    let _ = fs::remove_file(to);
    let mut own = File::open("/proc/self/exe")?;
    let mut file = File::options().write(true).create_new(true).mode(0o755).open(to)?;
    io::copy(&mut own, &mut file)?;
    // Set explicitly, because the umask may restrict it.
    file.set_permissions(fs::Permissions::from_mode(0o755))?;
    file.sync_all()
}
