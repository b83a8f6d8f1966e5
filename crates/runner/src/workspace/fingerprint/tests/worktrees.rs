//! Linked worktrees and bare repositories.

use std::{fs, time::Duration};

use crate::workspace::{ignore::IgnoreRules, test_workspace::TestWorkspace};

#[test]
fn a_commit_in_a_linked_worktree_is_a_change() {
    let space = TestWorkspace::new();
    space.repository("r");
    space.changes(|s| s.git("r", &["worktree", "add", "-q", "../tree", "-b", "side"]));
    space.write("tree/.gitignore", "*.tmp\n");
    space.changes_nothing(|s| {
        s.write("tree/x.tmp", "1");
    });
    space.changes(|s| {
        s.write("tree/x", "1");
    });
    space.changes(|s| s.git("tree", &["add", "x"]));
    space.changes(|s| s.git("tree", &["commit", "-qm", "x"]));
}

#[test]
fn work_in_linked_worktrees_below_ignored_folders_is_a_change() {
    for (options, place) in [
        (&[][..], ".claude/worktrees/topic"),
        (&[], "ignored/a/b/c/d/e"),
        (&[], ".worktrees/feature/login"),
        (&["-c", "worktree.useRelativePaths=true"], ".claude/worktrees/topic"),
    ] {
        let space = TestWorkspace::new();
        space.repository(".").write(".gitignore", ".claude/\n.worktrees/\nignored/\n");
        space.git(".", &[options, &["worktree", "add", "-q", "-b", "topic", place]].concat());
        space.write(&format!("{place}/.gitignore"), "*.tmp\n");
        let file = format!("{place}/a.txt");
        assert_eq!(space.changes(|s| _ = s.write(&file, "work")).names, [file.as_str()], "{place}");
        space.changes(|s| _ = s.write(&format!("{place}/new"), "1"));
        space.changes(|s| s.git(place, &["commit", "-qam", "work"]));
        space.changes_nothing(|s| {
            s.write(&format!("{place}/x.tmp"), "1").git(place, &["status"]);
            s.write(&format!("{place}/../beside"), "1");
        });
        // What is left after its folder was removed by hand.
        fs::remove_dir_all(space.path(place)).expect("remove");
        space.changes_nothing(|_| ());
    }
}

#[test]
fn worktrees_of_submodules_and_of_other_repositories_are_found_wherever_they_are() {
    let other = TestWorkspace::new();
    other.repository("origin");
    let space = TestWorkspace::new();
    space.repository("r").write("r/.gitignore", "deep/\n").repository("zz");
    space.git("r", &["submodule", "--quiet", "add", &other.path("origin").display().to_string(), "sub"]);
    space.git("r/sub", &["worktree", "add", "-q", "-b", "side", "../deep/of/a/sub"]);
    space.git("zz", &["worktree", "add", "-q", "-b", "side", "../r/deep/of/another"]);
    for place in ["r/deep/of/a/sub", "r/deep/of/another"] {
        space.changes(|s| _ = s.write(&format!("{place}/new"), "1"));
        space.changes(|s| s.git(place, &["add", "new"]));
        space.changes(|s| s.git(place, &["commit", "-qm", "x"]));
        space.changes_nothing(|s| s.git(place, &["status"]));
    }
}

#[test]
fn a_worktree_that_the_task_ignores_is_not_searched() {
    let mut space = TestWorkspace::new();
    space.ignore.task = IgnoreRules::parse(b"", b"/trees/\n");
    space.repository("r");
    space.git("r", &["worktree", "add", "-q", "-b", "topic", "../trees/topic"]);
    space.changes_nothing(|s| _ = s.write("trees/topic/new", "1"));
}

/// A bare repository with a worktree beside or in it, as [`layouts`] make it.
struct Layout {
    space: TestWorkspace,
    others: TestWorkspace,
    bare: &'static str,
}

fn layouts() -> Vec<Layout> {
    // Beside the worktrees with and without a `.git` file, as the workspace itself, and below an ignored folder.
    [(".bare", true), ("store.git", false), (".", false), ("r/hidden/deep/down/x.git", false)]
        .into_iter()
        .map(|(bare, link)| {
            let others = TestWorkspace::new();
            others.repository("seed");
            others.git("seed", &["clone", "-q", "--bare", ".", "../up.git"]);
            let space = TestWorkspace::new();
            if bare.starts_with('r') {
                space.repository("r").write("r/.gitignore", "hidden/\n");
            }
            space.git(".", &["clone", "-q", "--bare", &others.path("up.git").display().to_string(), bare]);
            if link {
                space.write(".git", &format!("gitdir: ./{bare}\n"));
            }
            space.git(bare, &["config", "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"]);
            let tree = space.path("main").display().to_string();
            space.git(bare, &["worktree", "add", "-q", &tree, "main"]);
            space.git("main", &["fetch", "-q"]);
            Layout { space, others, bare }
        })
        .collect()
}

#[test]
fn a_bare_repository_is_read_as_a_repository() {
    for Layout { space, others, bare } in layouts() {
        space.changes_nothing(|s| {
            let file = fs::File::open(s.path("main/a.txt")).expect("open");
            file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).expect("touch");
            s.git("main", &["status"]);
            s.git("main", &["gc", "-q"]);
        });
        others.git("seed", &["commit", "-q", "--allow-empty", "-m", "theirs"]);
        others.git("seed", &["push", "-q", "../up.git", "main"]);
        space.changes_nothing(|s| s.git("main", &["fetch", "-q"]));
        space.changes(|s| _ = s.write("main/a.txt", "2"));
        space.changes(|s| s.git("main", &["commit", "-qam", "mine"]));
        space.changes(|s| s.git("main", &["push", "-qf", "origin", "main"]));
        space.changes(|s| s.git(bare, &["branch", "side"]));
        // A file that is no part of a repository counts like any other.
        space.changes(|s| _ = s.write(&format!("{bare}/notes.txt"), "1"));
    }
}
