use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use super::*;
use crate::workspace::{
    self, Limits,
    ignore::{Effort, Ignore, IgnoreRules},
    take_fingerprint,
};

/// A workspace that is removed at the end of the test.
struct TestWorkspace {
    folder: tempfile::TempDir,
    ignore: Ignore,
}

impl TestWorkspace {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("temporary folder"), ignore: Ignore::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> &Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        fs::write(path, text).expect("write");
        self
    }

    fn print_within(&self, limits: Limits<'_>) -> Fingerprint {
        let path = self.folder.path();
        let root = workspace::open(path).expect("open");
        take_fingerprint(&root, path.as_os_str().as_encoded_bytes(), &self.ignore, limits)
    }

    fn print(&self) -> Fingerprint {
        self.print_within(Limits::default())
    }

    /// The difference that `act` makes to the fingerprint.
    fn after(&self, act: impl FnOnce(&Self)) -> Difference {
        let before = self.print();
        act(self);
        before.difference(&self.print(), 5)
    }

    #[track_caller]
    fn changes(&self, act: impl FnOnce(&Self)) -> Difference {
        let difference = self.after(act);
        assert_eq!(difference.changed, Change::Changed);
        difference
    }

    #[track_caller]
    fn changes_nothing(&self, act: impl FnOnce(&Self)) {
        let difference = self.after(act);
        assert_eq!(difference, Difference { changed: Change::Unchanged, files: Some(0), names: Vec::new() });
    }

    /// Runs git in a folder of the workspace.
    #[track_caller]
    fn git(&self, folder: &str, args: &[&str]) {
        let output = Command::new("git")
            .args(["-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always", "-c", "gc.auto=0"])
            .args(args)
            .current_dir(self.path(folder))
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .envs([("GIT_AUTHOR_NAME", "a"), ("GIT_AUTHOR_EMAIL", "a@example.com")])
            .envs([("GIT_COMMITTER_NAME", "a"), ("GIT_COMMITTER_EMAIL", "a@example.com")])
            .output()
            .expect("git");
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A repository with one commit.
    fn repository(&self, folder: &str) -> &Self {
        fs::create_dir_all(self.path(folder)).expect("folder");
        self.git(folder, &["init", "-q"]);
        self.write(&format!("{folder}/a.txt"), "a");
        self.git(folder, &["add", "."]);
        self.git(folder, &["commit", "-qm", "one"]);
        self
    }
}

#[test]
fn new_removed_and_changed_files_are_changes_and_are_named() {
    let space = TestWorkspace::new();
    space.write("keep", "1").write("edit", "1").write("gone", "1");
    let difference = space.changes(|s| {
        s.write("edit", "2").write("d/new", "1");
        fs::remove_file(s.path("gone")).expect("remove");
    });
    assert_eq!(difference.files, Some(3));
    assert_eq!(difference.names, ["d/new", "edit", "gone", "d"]);
}

#[test]
fn the_same_length_and_time_do_not_hide_a_change() {
    let space = TestWorkspace::new();
    space.write("f", "one");
    let time = fs::metadata(space.path("f")).and_then(|m| m.modified()).expect("time");
    space.changes(|s| {
        s.write("f", "two");
        fs::File::open(s.path("f")).and_then(|f| f.set_modified(time)).expect("set time");
    });
}

#[test]
fn touching_and_changing_back_are_no_changes() {
    let space = TestWorkspace::new();
    space.write("f", "one");
    space.changes_nothing(|s| {
        s.write("f", "two").write("f", "one").write("g", "");
        fs::remove_file(s.path("g")).expect("remove");
    });
}

#[test]
fn permissions_links_and_empty_folders_count() {
    let space = TestWorkspace::new();
    space.write("f", "x");
    symlink("f", space.path("link")).expect("link");
    space.changes(|s| fs::set_permissions(s.path("f"), fs::Permissions::from_mode(0o755)).expect("chmod"));
    space.changes(|s| {
        fs::remove_file(s.path("link")).expect("remove");
        symlink("elsewhere", s.path("link")).expect("link");
    });
    let difference = space.changes(|s| fs::create_dir(s.path("d")).expect("folder"));
    assert_eq!(difference.files, Some(0));
}

#[test]
fn links_out_of_the_workspace_are_not_followed() {
    let outside = TestWorkspace::new();
    outside.write("f", "1");
    let space = TestWorkspace::new();
    symlink(outside.folder.path(), space.path("out")).expect("link");
    symlink("/", space.path("root")).expect("link");
    space.changes_nothing(|_| {
        outside.write("f", "2");
    });
}

#[test]
fn a_workspace_that_is_a_link_is_not_opened() {
    let space = TestWorkspace::new();
    symlink("/", space.path("link")).expect("link");
    assert!(workspace::open(&space.path("link")).is_err());
}

#[test]
fn fifos_sockets_and_devices_are_not_opened() {
    let space = TestWorkspace::new();
    let fifo = space.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    let _socket = std::os::unix::net::UnixListener::bind(space.path("socket")).expect("socket");
    space.changes_nothing(|_| ());
    space.changes(|_| fs::remove_file(&fifo).expect("remove"));
}

#[test]
fn our_own_folder_and_ignored_patterns_do_not_count() {
    let mut space = TestWorkspace::new();
    space.ignore.task = IgnoreRules::parse(b"", b"*.log\n/cache/\n");
    space.write("a/f", "1");
    space.changes_nothing(|s| {
        s.write(".agentloop/ran/x", "").write("a/b.log", "1").write("cache/x", "1");
    });
    space.changes(|s| {
        s.write("sub/.agentloop/x", "1");
    });
    space.changes(|s| {
        s.write("sub/cache/x", "1");
    });
}

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
fn a_fingerprint_that_gave_up_is_unknown() {
    let space = TestWorkspace::new();
    for i in 0..50 {
        space.write(&format!("f{i}"), "1");
    }
    let whole = space.print();
    for limits in [
        Limits { entries: 10, ..Limits::default() },
        Limits { time: Duration::ZERO, ..Limits::default() },
        Limits { stop: Some(&AtomicBool::new(true)), ..Limits::default() },
    ] {
        let print = space.print_within(limits);
        assert!(print.incomplete().is_some() && print.hex().is_none());
        assert_eq!(whole.difference(&print, 5), Difference::UNKNOWN);
        assert_eq!(print.difference(&whole, 5), Difference::UNKNOWN);
    }
}

#[test]
fn files_that_are_too_many_to_name_are_still_compared() {
    let space = TestWorkspace::new();
    let limits = Limits { kept: 2, ..Limits::default() };
    space.write("a", "1").write("b", "1").write("c", "1");
    let before = space.print_within(limits);
    assert_eq!(before.difference(&space.print_within(limits), 5).changed, Change::Unchanged);
    space.write("c", "2");
    let difference = before.difference(&space.print_within(limits), 5);
    assert_eq!(difference, Difference { changed: Change::Changed, files: None, names: Vec::new() });
}

#[test]
fn the_walk_gives_up_on_very_deep_folders() {
    let space = TestWorkspace::new();
    let mut path = space.folder.path().to_path_buf();
    for _ in 0..420 {
        path.push("d");
        fs::create_dir(&path).expect("folder");
    }
    assert!(space.print().incomplete().is_some());
}

#[test]
fn the_same_content_has_the_same_fingerprint_elsewhere() {
    let [a, b] = [TestWorkspace::new(), TestWorkspace::new()];
    for space in [&a, &b] {
        (0..200).for_each(|i| {
            space.write(&format!("d{}/f{i}", i % 7), &i.to_string());
        });
    }
    assert!(a.print().hex().is_some());
    assert_eq!(a.print().hex(), b.print().hex());
}

#[test]
fn what_git_ignores_is_ignored_and_nothing_else() {
    let patterns = [
        "*.o",
        "/a",
        "b/",
        "c/d",
        "**/e",
        "f/**",
        "g/**/h",
        "!keep*",
        "[!x]1",
        "\\#x",
        "i*/j",
        "*/k",
        "?l",
        "**",
        "m**n",
        "a/*",
        "!a/keep",
        "[[:upper:]]x",
        "o ",
        "p\\ ",
        "\\!q",
        "[z-a]",
        "[]r]s",
        "/**/t",
        "u/**/",
        "***/t",
        "q/****",
        "q/[ab/c]/b",
        "q\\/c",
        "q/**\\/b",
        "q/[a/b",
        "\\/a",
        "[a-c--d]",
        "[[:alpha:]-x]1",
    ];
    let paths = [
        "a", "b", "c", "d", "e", "f", "g", "h", "x.o", "keep.o", "x1", "y1", "#x", "ij", "j", "k", "ll",
        "mxn", "Xx", "o", "p ", "!q", "rs", "]s", "t", "u", "keep",
    ];
    let space = TestWorkspace::new();
    space.repository("r");
    let mut names: Vec<String> = paths.iter().map(|&p| p.to_owned()).collect();
    for top in ["a", "b", "c", "f", "g", "u", "ij"] {
        names.extend(paths.iter().map(|p| format!("q/{top}/{p}")));
        names.extend(paths.iter().map(|p| format!("D{top}/{p}")));
    }
    for pattern in patterns {
        for extra in ["", "*.o\n!keep.o\n"] {
            let text = format!("{extra}{pattern}\n");
            space.write("r/.gitignore", &text);
            let rules = IgnoreRules::parse(b"", text.as_bytes());
            let ours: Vec<&String> =
                names.iter().filter(|name| ignored_with_parents(&rules, Path::new(name))).collect();
            assert_eq!(ours, ignored_by_git(&space, &names), "for {text:?}");
        }
    }
}

/// Everything below an ignored folder is ignored.
fn ignored_with_parents(rules: &IgnoreRules, path: &Path) -> bool {
    let mut ancestors: Vec<_> = path.ancestors().filter(|a| *a != Path::new("")).collect();
    ancestors.reverse();
    ancestors.iter().any(|at| {
        rules.verdict(at.as_os_str().as_encoded_bytes(), *at != path, &Effort::while_allowed(&|| true))
            == Some(true)
    })
}

fn ignored_by_git<'a>(space: &TestWorkspace, names: &'a [String]) -> Vec<&'a String> {
    use std::io::Write;
    let mut git = Command::new("git")
        .args(["check-ignore", "-z", "--stdin", "--no-index"])
        .current_dir(space.path("r"))
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("git");
    git.stdin.take().expect("stdin").write_all(names.join("\0").as_bytes()).expect("write");
    let output = git.wait_with_output().expect("git").stdout;
    let ignored: Vec<&[u8]> = output.split(|byte| *byte == 0).collect();
    names.iter().filter(|name| ignored.contains(&name.as_bytes())).collect()
}

#[test]
fn the_walk_gives_up_if_names_patterns_or_tracked_files_take_too_much_memory() {
    let few = Limits { bytes: 10_000, ..Limits::default() };
    let given_up =
        |space: &TestWorkspace| space.print_within(few).incomplete().is_some_and(|why| why.contains("MiB"));
    let space = TestWorkspace::new();
    space.write("a", "1").repository("b");
    assert!(!given_up(&space));
    let patterns = TestWorkspace::new();
    patterns.repository(".").write(".gitignore", &"x\n".repeat(500));
    assert!(given_up(&patterns));
    let tracked = TestWorkspace::new();
    tracked.repository(".");
    for name in 0..200 {
        tracked.write(&format!("d/{name}"), "");
    }
    tracked.git(".", &["add", "."]);
    fs::remove_dir_all(tracked.path("d")).expect("remove");
    assert!(given_up(&tracked));
}

/// Reading all of them would take minutes; only a bound that is checked between them ends it.
#[test]
fn the_walk_gives_up_in_time_on_a_repository_with_too_many_worktrees() {
    let space = TestWorkspace::new();
    space.repository(".");
    space.write("large", "");
    fs::File::create(space.path("large")).and_then(|file| file.set_len(4 << 20)).expect("length");
    for number in 0..2000 {
        let folder = space.path(&format!(".git/worktrees/{number}"));
        fs::create_dir_all(&folder).expect("folder");
        fs::hard_link(space.path("large"), folder.join("index")).expect("link");
    }
    let print = space.print_within(Limits { time: Duration::from_secs(1), ..Limits::default() });
    assert!(print.incomplete().is_some_and(|why| why.contains("within")), "{:?}", print.incomplete());
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

/// Otherwise two million names of 255 bytes would be read before the bound is checked.
#[test]
fn the_walk_gives_up_while_it_reads_names_that_take_too_much_memory() {
    let space = TestWorkspace::new();
    for number in 0..200 {
        space.write(&format!("{number:0>200}"), "");
    }
    let print = space.print_within(Limits { bytes: 20_000, ..Limits::default() });
    assert_eq!(print.incomplete(), Some("a folder has too many names"));
}

/// Sets in which every beginning looks like that of a class, in very many patterns that are tried at each byte.
#[test]
fn the_walk_gives_up_in_time_on_slow_patterns() {
    let space = TestWorkspace::new();
    space.repository(".").write(&"a".repeat(250), "");
    for pattern in [
        format!("*[{}", "[:".repeat(2000)),
        format!("*[{}]", "[:".repeat(2000)),
        format!("{}b", "*a".repeat(2000)),
        "**/".repeat(1300) + "b",
    ] {
        let text = format!("{pattern}\n").repeat((1 << 20) / (pattern.len() + 1) - 1);
        space.write(".gitignore", &text);
        let started = Instant::now();
        let print = space.print_within(Limits { time: Duration::from_secs(2), ..Limits::default() });
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        assert!(print.incomplete().is_none_or(|why| why.contains("within")), "{:?}", print.incomplete());
    }
}
