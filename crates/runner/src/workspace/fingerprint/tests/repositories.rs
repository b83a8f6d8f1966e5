//! Repositories: tracked and ignored files, commits, branches, submodules.

use std::{fs, time::Duration};

use crate::workspace::test_workspace::TestWorkspace;

#[test]
fn a_gitignore_outside_a_repository_has_no_effect() {
    let space = TestWorkspace::new();
    space.write(".gitignore", "*\n");
    space.changes(|s| {
        s.write("f", "1");
    });
}

#[test]
fn untracked_files_count_and_ignored_ones_do_not() {
    let space = TestWorkspace::new();
    space
        .repository("r")
        .write("r/.gitignore", "target/\n*.tmp\n!keep.tmp\n")
        .write("r/sub/.gitignore", "/only\n");
    space.write("r/.git/info/exclude", "excluded\n");
    space.changes_nothing(|s| {
        fs::create_dir(s.path("r/empty")).expect("folder");
        s.write("r/target/x", "1")
            .write("r/pkg/a.tmp", "1")
            .write("r/sub/a.tmp", "1")
            .write("r/sub/only", "1")
            .write("r/excluded", "1");
    });
    let difference = space.changes(|s| {
        s.write("r/keep.tmp", "1").write("r/only", "1").write("r/new", "1");
    });
    assert_eq!(difference.names, ["r/keep.tmp", "r/new", "r/only"]);
}

#[test]
fn an_ignored_file_that_is_tracked_counts() {
    let space = TestWorkspace::new();
    space.repository("r").write("r/gen/deep/t.txt", "1").write("r/gen/other", "1");
    space.git("r", &["add", "-f", "gen/deep/t.txt"]);
    space.write("r/.gitignore", "gen/\n");
    space.changes_nothing(|s| {
        s.write("r/gen/other", "2").write("r/gen/deep/other", "2");
    });
    assert_eq!(
        space
            .changes(|s| {
                s.write("r/gen/deep/t.txt", "2");
            })
            .names,
        ["r/gen/deep/t.txt"]
    );
}

#[test]
fn commits_amended_commits_and_branches_are_changes() {
    let space = TestWorkspace::new();
    space.repository("r").write("r/b.txt", "b");
    space.changes(|s| s.git("r", &["add", "b.txt"]));
    let commit = space.changes(|s| s.git("r", &["commit", "-qm", "two"]));
    assert_eq!((commit.files, commit.names), (Some(0), vec!["r/.git/refs/heads/main".to_owned()]));
    space.changes(|s| s.git("r", &["commit", "-q", "--amend", "-m", "other words"]));
    space.changes(|s| s.git("r", &["branch", "side"]));
    space.changes(|s| s.git("r", &["checkout", "-q", "side"]));
    space.changes(|s| s.git("r", &["tag", "v1"]));
    space.changes(|s| s.git("r", &["reset", "-q", "--hard", "HEAD~1"]));
}

#[test]
fn what_git_does_for_itself_is_no_change() {
    for version in ["2", "4"] {
        let space = TestWorkspace::new();
        space.repository("r");
        space.git("r", &["update-index", "--index-version", version]);
        space.git("r", &["branch", "side"]);
        space.changes_nothing(|s| {
            let file = fs::File::open(s.path("r/a.txt")).expect("open");
            file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).expect("touch");
            s.git("r", &["status"]);
            s.git("r", &["pack-refs", "--all"]);
            s.git("r", &["gc", "-q"]);
            s.git("r", &["checkout", "-q", "side"]);
            s.git("r", &["checkout", "-q", "main"]);
            s.write("r/.git/index.lock", "")
                .write("r/.git/FETCH_HEAD", "x")
                .write("r/.git/COMMIT_EDITMSG", "x");
        });
    }
}

#[test]
fn a_push_is_a_change_and_a_fetch_is_not() {
    let space = TestWorkspace::new();
    let other = TestWorkspace::new();
    other.repository("origin");
    other.git("origin", &["config", "receive.denyCurrentBranch", "ignore"]);
    let url = other.path("origin").display().to_string();
    space.git("", &["clone", "-q", &url, "r"]);
    space.git("r", &["commit", "-q", "--allow-empty", "-m", "mine"]);
    space.changes(|s| s.git("r", &["push", "-q"]));
    space.git("r", &["commit", "-q", "--allow-empty", "-m", "not pushed"]);
    for _ in 0..2 {
        other.git("origin", &["commit", "-q", "--allow-empty", "-m", "theirs"]);
        space.changes_nothing(|s| s.git("r", &["fetch", "-q"]));
    }
}

#[test]
fn all_repositories_are_read_even_ignored_ones() {
    let space = TestWorkspace::new();
    space.repository(".").repository("repos/one").repository("repos/two");
    space.write(".gitignore", "repos/\n");
    space.changes(|s| {
        s.write("repos/one/new", "1");
    });
    space.changes(|s| s.git("repos/two", &["commit", "-q", "--allow-empty", "-m", "x"]));
    space.changes_nothing(|s| {
        s.write("repos/note", "1");
    });
}

#[test]
fn a_commit_in_a_submodule_is_a_change() {
    let space = TestWorkspace::new();
    let other = TestWorkspace::new();
    other.repository("origin");
    space.repository("r");
    space.git("r", &["submodule", "--quiet", "add", &other.path("origin").display().to_string(), "libs/sub"]);
    space.write("r/libs/sub/.gitignore", "*.tmp\n");
    space.changes_nothing(|s| {
        s.write("r/libs/sub/x.tmp", "1");
    });
    space.changes(|s| s.git("r/libs/sub", &["commit", "-q", "--allow-empty", "-m", "x"]));
}

#[test]
fn a_repository_with_long_object_names_is_read() {
    let space = TestWorkspace::new();
    fs::create_dir(space.path("r")).expect("folder");
    space.git("r", &["init", "-q", "--object-format=sha256"]);
    space.write("r/a", "1").write("r/b", "1");
    space.changes(|s| s.git("r", &["add", "."]));
    space.changes_nothing(|s| s.git("r", &["status"]));
}

#[test]
fn a_split_index_hides_nothing() {
    let space = TestWorkspace::new();
    space.repository("r").write("r/.gitignore", "*.tmp\n");
    space.git("r", &["update-index", "--split-index"]);
    space.changes_nothing(|_| ());
    space.changes(|s| {
        s.write("r/x.tmp", "1");
    });
}

#[test]
fn a_folder_that_only_looks_like_a_repository_or_is_a_tracked_sample_of_one_hides_nothing() {
    let space = TestWorkspace::new();
    space.write("d/HEAD", "not one").write("d/objects/x", "1").write("d/refs/x", "1");
    space.changes(|s| _ = s.write("d/objects/x", "2"));
    space.repository(".");
    space.git(".", &["init", "-q", "--bare", "samples/one.git"]);
    space.write("samples/one.git/objects/x", "1").write("samples/one.git/refs/heads/y", "1");
    space.git(
        ".",
        &["add", "-f", "samples/one.git/HEAD", "samples/one.git/objects", "samples/one.git/config"],
    );
    space.changes(|s| _ = s.write("samples/one.git/objects/x", "2"));
}

#[test]
fn a_fetch_after_a_push_of_ones_own_is_no_change_and_another_push_is() {
    let others = TestWorkspace::new();
    others.repository("seed");
    others.git("seed", &["clone", "-q", "--bare", ".", "../up.git"]);
    let space = TestWorkspace::new();
    space.git("", &["clone", "-q", &others.path("up.git").display().to_string(), "r"]);
    // The remote-tracking branch is at the commit of the local branch, and moves away.
    others.git("seed", &["commit", "-q", "--allow-empty", "-m", "theirs"]);
    others.git("seed", &["push", "-q", "../up.git", "main"]);
    space.changes_nothing(|s| s.git("r", &["fetch", "-q"]));
    space.git("r", &["pull", "-q", "--rebase"]);
    space.git("r", &["commit", "-q", "--allow-empty", "-m", "mine"]);
    let push = space.changes(|s| s.git("r", &["push", "-q"]));
    assert_eq!((push.files, push.names), (Some(0), vec!["r/.git/refs/remotes/origin/main".to_owned()]));
}

#[test]
fn lock_files_that_git_left_behind_are_named() {
    let space = TestWorkspace::new();
    space.repository("r");
    space.git("r", &["worktree", "add", "-q", "-b", "side", "../tree"]);
    assert_eq!(space.print().locks(), Vec::<String>::new());
    let locks = [
        "r/.git/config.lock",
        "r/.git/index.lock",
        "r/.git/refs/heads/main.lock",
        "r/.git/worktrees/tree/index.lock",
    ];
    for lock in locks {
        space.write(lock, "");
    }
    space.write("r/package.lock", "").write("r/.git/objects/x.lock", "");
    assert_eq!(space.print().locks(), locks);
    for number in 0..50 {
        space.write(&format!("r/.git/refs/heads/{number}.lock"), "");
    }
    assert_eq!(space.print().locks().len(), 20);
}
