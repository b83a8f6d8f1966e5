use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use super::*;
use crate::workspace;

/// A workspace that is removed at the end.
struct Space {
    folder: tempfile::TempDir,
    ignore: Rules,
}

impl Space {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("temporary folder"), ignore: Rules::default() }
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
        take(&root, path.as_os_str().as_encoded_bytes(), &self.ignore, limits)
    }

    fn print(&self) -> Fingerprint {
        self.print_within(Limits::default())
    }

    /// What `act` changes, as a fingerprint sees it.
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
fn a_new_a_removed_and_another_file_are_changes_and_named() {
    let space = Space::new();
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
    let space = Space::new();
    space.write("f", "one");
    let time = fs::metadata(space.path("f")).and_then(|m| m.modified()).expect("time");
    space.changes(|s| {
        s.write("f", "two");
        fs::File::open(s.path("f")).and_then(|f| f.set_modified(time)).expect("set time");
    });
}

#[test]
fn touching_and_changing_back_are_no_changes() {
    let space = Space::new();
    space.write("f", "one");
    space.changes_nothing(|s| {
        s.write("f", "two").write("f", "one").write("g", "");
        fs::remove_file(s.path("g")).expect("remove");
    });
}

#[test]
fn permissions_links_and_empty_folders_count() {
    let space = Space::new();
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
    let outside = Space::new();
    outside.write("f", "1");
    let space = Space::new();
    symlink(outside.folder.path(), space.path("out")).expect("link");
    symlink("/", space.path("root")).expect("link");
    space.changes_nothing(|_| {
        outside.write("f", "2");
    });
}

#[test]
fn a_workspace_that_is_a_link_is_not_opened() {
    let space = Space::new();
    symlink("/", space.path("link")).expect("link");
    assert!(workspace::open(&space.path("link")).is_err());
}

#[test]
fn fifos_sockets_and_devices_are_not_opened() {
    let space = Space::new();
    let fifo = space.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    let _socket = std::os::unix::net::UnixListener::bind(space.path("socket")).expect("socket");
    space.changes_nothing(|_| ());
    space.changes(|_| fs::remove_file(&fifo).expect("remove"));
}

#[test]
fn our_own_folder_and_ignored_patterns_do_not_count() {
    let mut space = Space::new();
    space.ignore = Rules::parse(b"", b"*.log\n/cache/\n");
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
fn outside_a_repository_a_gitignore_hides_nothing() {
    let space = Space::new();
    space.write(".gitignore", "*\n");
    space.changes(|s| {
        s.write("f", "1");
    });
}

#[test]
fn untracked_files_count_and_ignored_ones_do_not() {
    let space = Space::new();
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
    let space = Space::new();
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
    let space = Space::new();
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
        let space = Space::new();
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
    let space = Space::new();
    let other = Space::new();
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
fn several_repositories_are_all_seen_even_ignored_ones() {
    let space = Space::new();
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
fn a_commit_in_a_linked_worktree_is_seen() {
    let space = Space::new();
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
fn a_commit_in_a_submodule_is_seen() {
    let space = Space::new();
    let other = Space::new();
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
    let space = Space::new();
    fs::create_dir(space.path("r")).expect("folder");
    space.git("r", &["init", "-q", "--object-format=sha256"]);
    space.write("r/a", "1").write("r/b", "1");
    space.changes(|s| s.git("r", &["add", "."]));
    space.changes_nothing(|s| s.git("r", &["status"]));
}

#[test]
fn what_cannot_be_told_of_a_split_index_is_unknown_and_hides_nothing() {
    let space = Space::new();
    space.repository("r").write("r/.gitignore", "*.tmp\n");
    space.git("r", &["update-index", "--split-index"]);
    space.changes_nothing(|_| ());
    space.changes(|s| {
        s.write("r/x.tmp", "1");
    });
}

#[test]
fn a_fingerprint_that_gave_up_is_unknown() {
    let space = Space::new();
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
fn too_many_files_to_name_are_still_compared() {
    let space = Space::new();
    let limits = Limits { kept: 2, ..Limits::default() };
    space.write("a", "1").write("b", "1").write("c", "1");
    let before = space.print_within(limits);
    assert_eq!(before.difference(&space.print_within(limits), 5).changed, Change::Unchanged);
    space.write("c", "2");
    let difference = before.difference(&space.print_within(limits), 5);
    assert_eq!(difference, Difference { changed: Change::Changed, files: None, names: Vec::new() });
}

#[test]
fn very_deep_folders_are_given_up() {
    let space = Space::new();
    let mut path = space.folder.path().to_path_buf();
    for _ in 0..420 {
        path.push("d");
        fs::create_dir(&path).expect("folder");
    }
    assert!(space.print().incomplete().is_some());
}

#[test]
fn the_same_content_has_the_same_fingerprint_elsewhere() {
    let [a, b] = [Space::new(), Space::new()];
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
    ];
    let paths = [
        "a", "b", "c", "d", "e", "f", "g", "h", "x.o", "keep.o", "x1", "y1", "#x", "ij", "j", "k", "ll",
        "mxn", "Xx", "o", "p ", "!q", "rs", "]s", "t", "u", "keep",
    ];
    let space = Space::new();
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
            let rules = Rules::parse(b"", text.as_bytes());
            let ours: Vec<&String> =
                names.iter().filter(|name| ignored_with_parents(&rules, Path::new(name))).collect();
            assert_eq!(ours, ignored_by_git(&space, &names), "for {text:?}");
        }
    }
}

/// Below an ignored folder everything is.
fn ignored_with_parents(rules: &Rules, path: &Path) -> bool {
    let mut ancestors: Vec<_> = path.ancestors().filter(|a| *a != Path::new("")).collect();
    ancestors.reverse();
    ancestors.iter().any(|at| rules.verdict(at.as_os_str().as_encoded_bytes(), *at != path) == Some(true))
}

fn ignored_by_git<'a>(space: &Space, names: &'a [String]) -> Vec<&'a String> {
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
fn names_patterns_and_tracked_files_that_take_too_much_memory_are_given_up() {
    let few = Limits { bytes: 10_000, ..Limits::default() };
    let given_up =
        |space: &Space| space.print_within(few).incomplete().is_some_and(|why| why.contains("MiB"));
    let space = Space::new();
    space.write("a", "1").repository("b");
    assert!(!given_up(&space));
    let patterns = Space::new();
    patterns.repository(".").write(".gitignore", &"x\n".repeat(500));
    assert!(given_up(&patterns));
    let tracked = Space::new();
    tracked.repository(".");
    for name in 0..200 {
        tracked.write(&format!("d/{name}"), "");
    }
    tracked.git(".", &["add", "."]);
    fs::remove_dir_all(tracked.path("d")).expect("remove");
    assert!(given_up(&tracked));
}

/// Reading them all would take minutes; only a bound that is looked at between them ends it.
#[test]
fn a_repository_with_too_many_worktrees_is_given_up_in_time() {
    let space = Space::new();
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
