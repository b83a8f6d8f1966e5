//! Removes what is old of a task's own records.

use std::os::fd::OwnedFd;

use agentloop_contract::context::Context;
use rustix::{
    fs::{AtFlags, FileType},
    io::Errno,
};

use super::iteration;
use crate::workspace::{kind, names, open_folder};

/// Records of more iterations are not looked at: their names are the agent's making.
const MOST: usize = 100_000;
/// What names in one folder may take in memory.
const ROOM: usize = 16 << 20;
/// Folders within folders that are removed; records have none.
const DEPTH: usize = 16;

/// Removes the markers of a task's earlier iterations: they are settled, and never run again.
pub(super) fn markers(ran: &OwnedFd, context: &Context) {
    let prefix = format!("{}-", context.task.uid);
    for name in names(ran, MOST, ROOM).unwrap_or_default() {
        let number = std::str::from_utf8(&name)
            .ok()
            .and_then(|name| name.strip_prefix(&prefix)?.split_once('-')?.0.parse::<i32>().ok());
        if number.is_some_and(|number| number < context.iteration) {
            let _ = remove(ran, &name, 1);
        }
    }
}

/// Removes the oldest transcripts of a task, until so many iterations and bytes are left as are to be kept. Those of the
/// present attempt stay whatever they take.
pub(super) fn transcripts(iterations: &OwnedFd, context: &Context) {
    let present = iteration(context);
    let mut old: Vec<((i32, i32), Vec<u8>)> = names(iterations, MOST, ROOM)
        .unwrap_or_default()
        .into_iter()
        .filter(|name| name != present.as_bytes())
        .filter_map(|name| Some((number(&name)?, name)))
        .collect();
    old.sort();
    let most = usize::try_from(context.transcripts.iterations).unwrap_or(0);
    let limit = u64::try_from(context.transcripts.bytes).unwrap_or(0);
    let mut kept = vec![context.iteration];
    let mut bytes = size(iterations, present.as_bytes());
    let mut full = false;
    while let Some(((number, _), name)) = old.pop() {
        if !kept.contains(&number) {
            kept.push(number);
        }
        bytes = bytes.saturating_add(size(iterations, &name));
        full = full || kept.len() > most || bytes > limit;
        if full {
            let _ = remove(iterations, &name, DEPTH);
        }
    }
}

/// Iteration and attempt, as a folder's name says them; `None` for what is not ours.
fn number(name: &[u8]) -> Option<(i32, i32)> {
    let name = std::str::from_utf8(name).ok()?;
    let (iteration, attempt) = name.split_once('-').unwrap_or((name, "0"));
    let digits =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    Some((digits(iteration)?, digits(attempt)?))
}

/// The bytes of the files in a folder.
fn size(parent: &OwnedFd, name: &[u8]) -> u64 {
    let Ok(folder) = open_folder(parent, name) else { return 0 };
    let sizes = names(&folder, MOST, ROOM).unwrap_or_default().into_iter().filter_map(|name| {
        let stat = rustix::fs::statat(&folder, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        u64::try_from(stat.st_size).ok()
    });
    sizes.fold(0, u64::saturating_add)
}

/// Removes a file, or a folder with what is in it; links are not followed.
fn remove(parent: &OwnedFd, name: &[u8], depth: usize) -> Result<(), Errno> {
    if kind(parent, name) != Some(FileType::Directory) {
        return rustix::fs::unlinkat(parent, name, AtFlags::empty());
    }
    if let Some(depth) = depth.checked_sub(1) {
        let folder = open_folder(parent, name)?;
        for name in names(&folder, MOST, ROOM)? {
            remove(&folder, &name, depth)?;
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}
