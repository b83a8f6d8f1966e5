//! Compares the workspace before and after the agent.

use std::{
    ffi::OsStr,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    time::Duration,
};

use agentloop_contract::{
    context::Context,
    report::{Change, Report},
};

use crate::{
    process::Supervisor,
    secrets,
    workspace::{
        self, Limits,
        fingerprint::{Difference, Fingerprint},
        ignore,
        metadata::MetadataSnapshot,
    },
};

/// How many changed files the full report names.
const MAX_NAMES: usize = 200;
/// How long a fingerprint may still take after an order to stop. The kubelet does not wait for long.
const WHEN_STOPPING: Duration = Duration::from_secs(5);

/// The workspace as it was before the agent.
pub(super) struct WorkspaceBefore {
    pub(super) fingerprint: Fingerprint,
    pub(super) ignore: ignore::Ignore,
    /// Taken last. From then on, the runner writes nothing to the workspace until the agent has ended.
    pub(super) metadata: MetadataSnapshot,
}

impl WorkspaceBefore {
    /// Compares the workspace now with the workspace before the agent, and reports the result.
    pub(super) fn compare(
        &self,
        report: &mut Report,
        context: &Context,
        supervisor: &Supervisor,
        (path, root): (&Path, &OwnedFd),
    ) {
        let difference = if workspace::is_at(root, path) {
            let after = fingerprint(root, context, &self.ignore, supervisor, WHEN_STOPPING);
            report.fingerprint_after = after.hex();
            let difference = self.fingerprint.difference(&after, MAX_NAMES);
            report.untouched =
                difference.changed != Change::Changed && untouched(root, supervisor, &self.metadata);
            difference
        } else {
            secrets::log("the workspace was replaced by something else, so it is unknown whether it changed");
            Difference::UNKNOWN
        };
        (report.changed, report.files_changed, report.files) =
            (difference.changed, difference.files, difference.names);
    }
}

/// Takes a fingerprint of the workspace.
pub(super) fn fingerprint(
    root: &OwnedFd,
    context: &Context,
    ignore: &ignore::Ignore,
    supervisor: &Supervisor,
    after_stop: Duration,
) -> Fingerprint {
    let limits = Limits { stop: Some(supervisor.stop_flag()), after_stop, ..Limits::default() };
    let print = workspace::take_fingerprint(root, OsStr::new(&context.workspace).as_bytes(), ignore, limits);
    if let Some(why) = print.incomplete() {
        secrets::log(format_args!("the workspace cannot be compared reliably: {why}"));
    }
    print
}

/// Takes the metadata of the workspace before the agent starts.
pub(super) fn metadata(root: &OwnedFd, supervisor: &Supervisor) -> MetadataSnapshot {
    let snapshot =
        MetadataSnapshot::before(root, Limits { stop: Some(supervisor.stop_flag()), ..Limits::default() });
    if let Some(why) = snapshot.incomplete() {
        secrets::log(format_args!(
            "this attempt is charged even if the provider refuses it, because its workspace cannot be compared: {why}"
        ));
    }
    snapshot
}

fn untouched(root: &OwnedFd, supervisor: &Supervisor, before: &MetadataSnapshot) -> bool {
    // If the first snapshot is incomplete, the answer is no without a second one.
    before.incomplete().is_none() && {
        let limits =
            Limits { stop: Some(supervisor.stop_flag()), after_stop: WHEN_STOPPING, ..Limits::default() };
        before.is_untouched(&MetadataSnapshot::after(root, limits))
    }
}
