//! Removes a task's old records.

use std::os::fd::OwnedFd;

use agentloop_contract::context::Context;
use rustix::{
    fs::{AtFlags, FileType},
    io::Errno,
};

use super::iteration;
use crate::workspace::{kind, names, open_folder};

/// The maximum number of records that are read. If there are more, the agent created them.
const MAX_RECORDS: usize = 100_000;
/// How much memory the names in one folder may take.
const ROOM: usize = 16 << 20;
/// How deep nested folders are removed. Records contain none.
const DEPTH: usize = 16;

/// Removes the markers of a task's earlier iterations, which are settled and never run again.
pub(super) fn markers(ran: &OwnedFd, context: &Context) {
    let prefix = format!("{}-", context.task.uid);
    for name in names(ran, MAX_RECORDS, ROOM).unwrap_or_default() {
        let number = std::str::from_utf8(&name)
            .ok()
            .and_then(|name| name.strip_prefix(&prefix)?.split_once('-')?.0.parse::<i32>().ok());
        if number.is_some_and(|number| number < context.iteration) {
            let _ = remove(ran, &name, 1);
        }
    }
}

/// Removes the oldest transcripts of a task until the rest is within the limits on iterations and bytes. Those of the
/// current attempt always stay.
pub(super) fn transcripts(iterations: &OwnedFd, context: &Context) {
    let current = iteration(context);
    let mut old: Vec<((i32, i32), Vec<u8>)> = names(iterations, MAX_RECORDS, ROOM)
        .unwrap_or_default()
        .into_iter()
        .filter(|name| name != current.as_bytes())
        .filter_map(|name| Some((number(&name)?, name)))
        .collect();
    old.sort();
    let max_iterations = usize::try_from(context.transcripts.iterations).unwrap_or(0);
    let max_bytes = u64::try_from(context.transcripts.bytes).unwrap_or(0);
    let mut kept = vec![context.iteration];
    let mut bytes = size(iterations, current.as_bytes());
    let mut full = false;
    while let Some(((number, _), name)) = old.pop() {
        if !kept.contains(&number) {
            kept.push(number);
        }
        bytes = bytes.saturating_add(size(iterations, &name));
        full = full || kept.len() > max_iterations || bytes > max_bytes;
        if full {
            let _ = remove(iterations, &name, DEPTH);
        }
    }
}

/// Iteration and attempt from the name of a folder; `None` if it is no folder of records.
fn number(name: &[u8]) -> Option<(i32, i32)> {
    let name = std::str::from_utf8(name).ok()?;
    let (iteration, attempt) = name.split_once('-').unwrap_or((name, "0"));
    let digits =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    Some((digits(iteration)?, digits(attempt)?))
}

/// The total size of the files in a folder.
fn size(parent: &OwnedFd, name: &[u8]) -> u64 {
    let Ok(folder) = open_folder(parent, name) else { return 0 };
    let sizes = names(&folder, MAX_RECORDS, ROOM).unwrap_or_default().into_iter().filter_map(|name| {
        let stat = rustix::fs::statat(&folder, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        u64::try_from(stat.st_size).ok()
    });
    sizes.fold(0, u64::saturating_add)
}

/// Removes a file, or a folder with its content. Links are not followed.
fn remove(parent: &OwnedFd, name: &[u8], depth: usize) -> Result<(), Errno> {
    if kind(parent, name) != Some(FileType::Directory) {
        return rustix::fs::unlinkat(parent, name, AtFlags::empty());
    }
    if let Some(depth) = depth.checked_sub(1) {
        let folder = open_folder(parent, name)?;
        for name in names(&folder, MAX_RECORDS, ROOM)? {
            remove(&folder, &name, depth)?;
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}
