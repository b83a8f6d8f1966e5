//! `files`, `diff` and `cp`.

use std::path::{Component, Path, PathBuf};

use agentloop_contract::names::ANNOTATION_AGENT;
use agentloop_contract::report::Report;
use agentloop_core::api::{AgentTask, PastIteration};
use agentloop_core::pod::pod_name;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio_util::io::SyncIoBridge;

use super::reader::{self as pods, Reader};
use crate::cli::{CopyArgs, DiffArgs, FilesArgs};
use crate::failure::Failure;
use crate::output;
use crate::reader::{self, DIFF, changed};
use crate::session::{Session, note, print};
use crate::text::{self, Colour, line};

pub(super) async fn files(session: &Session, args: &FilesArgs) -> Result<(), Failure> {
    let task: AgentTask = session.task(&args.name).await?;
    let past = iteration(&task, args.iteration)?;
    let report = match from_pod(session, &task, &past).await {
        Some(report) => report,
        None => from_workspace(session, &task, &past).await?,
    };
    print(&report.files.iter().map(|name| line(name)).collect::<Vec<_>>())?;
    let rest = changed(past.changed, report.files_changed, report.files.len());
    if let Some(rest) = rest {
        note(&format!("iteration {}: {rest}", past.iteration));
    }
    Ok(())
}

fn iteration(task: &AgentTask, number: Option<i32>) -> Result<PastIteration, Failure> {
    let history = task.status.as_ref().map(|status| status.history.clone()).unwrap_or_default();
    let found = match number {
        Some(number) => history.iter().find(|past| past.iteration == number),
        None => history.first(),
    };
    found.cloned().ok_or_else(|| {
        let known: Vec<String> = history.iter().rev().map(|past| past.iteration.to_string()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Failure::new(format!(
            "the status of {} does not have this iteration; it has: {known}",
            output::name(task)
        ))
    })
}

/// The report in the status of an iteration's pod.
async fn from_pod(session: &Session, task: &AgentTask, past: &PastIteration) -> Option<Report> {
    let name = pod_name(&task.name_any(), &task.uid()?, past.iteration, past.attempt);
    let api: kube::Api<Pod> = session.api(&task.namespace()?);
    let pod = api.get(&name).await.ok()?;
    let agent = pod.annotations().get(ANNOTATION_AGENT)?;
    let mut statuses = pod.status.as_ref()?.container_statuses.iter().flatten();
    let own = statuses.find(|status| status.name == *agent)?;
    Report::decode(own.state.as_ref()?.terminated.as_ref()?.message.as_deref()?).ok()
}

/// The report among the records in the workspace.
async fn from_workspace(
    session: &Session,
    task: &AgentTask,
    past: &PastIteration,
) -> Result<Report, Failure> {
    let file =
        format!("{}/{}/report.json", reader::records(task), reader::folder(past.iteration, past.attempt));
    let command = ["cat".to_owned(), file];
    let output = pods::with(session, task, async |reader: &Reader| reader.run(&command).await).await?;
    let read = serde_json::from_slice(&output.stdout).ok().filter(|_| output.succeeded);
    read.ok_or_else(|| {
        Failure::new(format!(
            "the report of iteration {} is not in the workspace: {}",
            past.iteration,
            line(output.stderr.trim())
        ))
    })
}

pub(super) async fn diff(session: &Session, args: &DiffArgs) -> Result<(), Failure> {
    let task: AgentTask = session.task(&args.name).await?;
    let workspace = task.spec.workspace.mount_path.clone();
    pods::with(session, &task, async |reader: &Reader| {
        let found = reader.run(&reader::find_repositories(&workspace)).await?;
        let found = String::from_utf8_lossy(&found.stdout).into_owned();
        let repositories: Vec<&str> = found.lines().collect();
        if repositories.is_empty() {
            return Err(Failure::new(format!(
                "there is no git repository in {}; kubectl agentloop files {} lists what an iteration changed",
                line(&workspace),
                line(&args.name)
            )));
        }
        for repository in &repositories {
            if repositories.len() > 1 {
                let title = format!("── {}", line(repository));
                print(&[session.terminal.style.paint(Some(Colour::Bold), &title)])?;
            }
            of_repository(session, reader, repository, args).await?;
        }
        Ok(())
    })
    .await
}

/// The tree that has nothing, for a repository without a commit.
const EMPTY_TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";

async fn of_repository(
    session: &Session,
    reader: &Reader,
    repository: &str,
    args: &DiffArgs,
) -> Result<(), Failure> {
    let base = args.base.as_deref().unwrap_or("HEAD");
    let asked = ["rev-parse", "--quiet", "--verify", "--end-of-options", &format!("{base}^{{commit}}")]
        .map(str::to_owned);
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    let known = reader.run(&reader::git(repository, &asked)).await?;
    let commit = String::from_utf8_lossy(&known.stdout).trim().to_owned();
    if !known.succeeded && (args.base.is_some() || !known.stderr.trim().is_empty()) {
        return Err(Failure::new(format!(
            "git has no commit \"{}\" in {}: {}",
            line(base),
            line(repository),
            line(known.stderr.trim())
        )));
    }
    let commit = if commit.is_empty() { EMPTY_TREE } else { &commit };
    let mut asked = DIFF.to_vec();
    if args.stat {
        asked.push("--stat");
    }
    asked.extend([commit, "--"]);
    let diff = reader.run(&reader::git(repository, &asked)).await?;
    if !diff.succeeded {
        return Err(Failure::new(format!(
            "git diff failed in {}: {}",
            line(repository),
            line(diff.stderr.trim())
        )));
    }
    let shown = text::lines(&String::from_utf8_lossy(&diff.stdout));
    print(&shown.iter().map(|line| coloured(session, line)).collect::<Vec<_>>())?;
    let others =
        reader.run(&reader::git(repository, &["ls-files", "--others", "--exclude-standard"])).await?;
    let others = text::lines(&String::from_utf8_lossy(&others.stdout));
    print(&others.iter().map(|name| format!("untracked: {name}")).collect::<Vec<_>>())?;
    if shown.is_empty() && others.is_empty() {
        note(&format!("{}: no difference to {}", line(repository), line(base)));
    }
    Ok(())
}

fn coloured(session: &Session, line: &str) -> String {
    let colour = match line.chars().next() {
        _ if line.starts_with("+++") || line.starts_with("---") || line.starts_with("diff ") => {
            Some(Colour::Bold)
        }
        Some('+') => Some(Colour::Green),
        Some('-') => Some(Colour::Red),
        Some('@') => Some(Colour::Cyan),
        _ => None,
    };
    session.terminal.style.paint(colour, line)
}

pub(super) async fn copy(session: &Session, args: &CopyArgs) -> Result<(), Failure> {
    let task: AgentTask = session.task(&args.source.name).await?;
    let workspace = task.spec.workspace.mount_path.trim_end_matches('/');
    // Absolute paths are allowed if they are in the workspace.
    let path = args.source.path.strip_prefix(workspace).unwrap_or(&args.source.path).trim_start_matches('/');
    let path = if path.is_empty() { "." } else { path };
    let command = ["tar", "-C", workspace, "-cf", "-", "--", path].map(str::to_owned);
    let target = args.target.clone();
    let wanted = PathBuf::from(path);
    let (copied, errors, succeeded) = pods::with(session, &task, async |reader: &Reader| {
        let unpack = async |stdout| {
            let stream = SyncIoBridge::new(stdout);
            let unpacked = tokio::task::spawn_blocking(move || unpack(stream, &wanted, &target));
            unpacked.await.map_err(|error| Failure::new(format!("the copy was interrupted: {error}")))?
        };
        reader.stream(&command, unpack).await
    })
    .await?;
    if !succeeded {
        return Err(Failure::new(format!(
            "cannot read {} in the workspace of {}: {}",
            line(path),
            output::name(&task),
            line(errors.trim())
        )));
    }
    if copied.skipped > 0 {
        note(&format!("{} links and special files were not copied", copied.skipped));
    }
    let files = if copied.files == 1 { "file" } else { "files" };
    print(&[format!("copied {} {files} to {}", copied.files, line(&args.target.to_string_lossy()))])
}

/// What was copied.
#[derive(Debug, Default, PartialEq, Eq)]
struct Copied {
    files: usize,
    skipped: usize,
}

/// Unpacks what is below `wanted` to `target`. Only files and folders are created, with the user's own permissions, and
/// none outside of `target`: the agent wrote what is in the workspace, and its image has the program that packs it.
fn unpack(archive: impl std::io::Read, wanted: &Path, target: &Path) -> Result<Copied, Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("cannot copy: {}", line(&error.to_string())));
    // As cp does: into an existing folder, under its own name.
    let target = match wanted.file_name() {
        Some(name) if target.is_dir() => target.join(name),
        _ => target.to_owned(),
    };
    let mut copied = Copied::default();
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let kind = entry.header().entry_type();
        let path = entry.path().map_err(failed)?.into_owned();
        let Some(place) = place(&path, wanted, &target) else {
            copied.skipped += 1;
            continue;
        };
        if kind.is_dir() {
            std::fs::create_dir_all(&place).map_err(failed)?;
        } else if kind.is_file() {
            if let Some(parent) = place.parent() {
                std::fs::create_dir_all(parent).map_err(failed)?;
            }
            let mut file = std::fs::File::create(&place).map_err(failed)?;
            std::io::copy(&mut entry, &mut file).map_err(failed)?;
            copied.files += 1;
        } else {
            copied.skipped += 1;
        }
    }
    Ok(copied)
}

/// Where an entry of the archive is written; none if that would be elsewhere.
fn place(entry: &Path, wanted: &Path, target: &Path) -> Option<PathBuf> {
    let plain = |path: &Path| {
        let parts = path.components().filter(|part| *part != Component::CurDir);
        parts
            .map(|part| match part {
                Component::Normal(name) => Some(PathBuf::from(name)),
                _ => None,
            })
            .collect::<Option<PathBuf>>()
    };
    let below = plain(entry)?.strip_prefix(plain(wanted)?).ok()?.to_owned();
    Some(if below.as_os_str().is_empty() { target.to_owned() } else { target.join(below) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o777);
            header.set_size(if kind.is_file() { content.len() as u64 } else { 0 });
            if kind.is_symlink() {
                header.set_link_name(content).expect("a link");
            }
            // The safe way of setting a path refuses what is tested here.
            if let Some(name) = header.as_gnu_mut() {
                name.name[..path.len()].copy_from_slice(path.as_bytes());
            }
            header.set_cksum();
            builder.append(&header, if kind.is_file() { content.as_bytes() } else { &[] }).expect("an entry");
        }
        builder.into_inner().expect("an archive")
    }

    #[test]
    fn an_archive_is_unpacked_below_the_target_and_nowhere_else() {
        use tar::EntryType as Kind;
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("out");
        let hostile = archive(&[
            ("src", Kind::Directory, ""),
            ("src/a.txt", Kind::Regular, "a"),
            ("src/deep/b.txt", Kind::Regular, "b"),
            ("src/link", Kind::Symlink, "/"),
            ("src/link/c.txt", Kind::Regular, "c"),
            ("src/../../d.txt", Kind::Regular, "d"),
            ("/etc/e.txt", Kind::Regular, "e"),
            ("other.txt", Kind::Regular, "f"),
        ]);
        let copied = unpack(hostile.as_slice(), Path::new("src"), &target).expect("it is unpacked");
        assert_eq!(copied, Copied { files: 3, skipped: 4 });
        let read = |path: &str| std::fs::read_to_string(target.join(path)).expect("a file");
        assert_eq!(
            (read("a.txt"), read("deep/b.txt"), read("link/c.txt")),
            ("a".into(), "b".into(), "c".into())
        );
        assert!(!target.join("link").is_symlink());
        let names = std::fs::read_dir(folder.path()).expect("the folder");
        assert_eq!(names.count(), 1, "nothing beside the target");
    }

    #[test]
    fn one_file_is_copied_into_an_existing_folder_or_under_a_new_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let one = archive(&[("src/a.txt", tar::EntryType::Regular, "a")]);
        for (target, expected) in [(folder.path().to_owned(), "a.txt"), (folder.path().join("new"), "new")] {
            let copied = unpack(one.as_slice(), Path::new("src/a.txt"), &target).expect("it is unpacked");
            assert_eq!(copied.files, 1);
            assert_eq!(std::fs::read_to_string(folder.path().join(expected)).expect("the file"), "a");
        }
    }
}
