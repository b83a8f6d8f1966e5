use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    sync::atomic::AtomicBool,
};

use super::*;
use crate::workspace::{self, test_workspace::TestWorkspace};

impl TestWorkspace {
    /// A workspace with a repository of one commit.
    fn with_repository() -> Self {
        let space = Self::new();
        space.write("a.txt", "a").write("b.txt", "b").write("node_modules/x/index.js", "1");
        space.sh("git init -q -b main; echo node_modules >.gitignore; git add .; git commit -qm one");
        space
    }

    /// Whether a script touches nothing.
    #[track_caller]
    fn untouched_after(&self, script: &str) -> bool {
        let root = workspace::open(self.root()).expect("open");
        let before = MetadataSnapshot::before(&root, Limits::default());
        assert_eq!(before.incomplete(), None);
        self.sh(script);
        before.is_untouched(&MetadataSnapshot::after(&root, Limits::default()))
    }
}

#[test]
fn reading_touches_nothing() {
    let space = TestWorkspace::with_repository();
    symlink("a.txt", space.path("link")).expect("link");
    assert!(space.untouched_after("true"));
    assert!(space.untouched_after("cat a.txt link; ls -laR . ; grep -r x . || true; git log; git diff"));
}

#[test]
fn every_write_touches() {
    for script in [
        "echo x >>a.txt",
        "echo new >new",
        "rm a.txt",
        "touch a.txt",
        "mkdir d",
        "chmod 600 a.txt",
        // A change that is undone still counts.
        "echo x >new; rm new",
        "mv a.txt c; mv c a.txt",
        "chmod 600 a.txt; chmod 644 a.txt",
        "touch -r a.txt /tmp/../tmp; cp -p a.txt c; printf b >a.txt; touch -r c a.txt; rm c",
        "ln a.txt /dev/null 2>/dev/null || ln a.txt b2 && rm b2",
        "printf b >t; touch -r a.txt t; mv t a.txt",
        // Changes that no fingerprint covers.
        "echo x >>node_modules/x/index.js",
        "echo x >node_modules/.cache",
        "mkdir -p .agentloop; echo x >.agentloop/log",
        "echo x >.git/notes",
        "echo x >>.git/config",
        "echo x >.git/objects/x",
        "git stash list; echo x >.git/logs/x",
        "git hash-object -w b.txt /etc/hostname >/dev/null",
        "touch -d 1999-01-01 .",
    ] {
        assert!(!TestWorkspace::with_repository().untouched_after(script), "{script}");
    }
}

#[test]
fn the_same_length_and_time_do_not_hide_an_immediate_touch() {
    // Written just before the snapshot: if the clock has not advanced since, the change would have the same time.
    let space = TestWorkspace::new();
    space.write("f", "one");
    assert!(!space.untouched_after("cp -p f /tmp/$$; printf two >f; touch -r /tmp/$$ f; rm /tmp/$$"));
}

#[test]
fn a_git_status_that_refreshes_the_index_touches_nothing() {
    for version in ["2", "4"] {
        let space = TestWorkspace::with_repository();
        space.sh(&format!("git update-index --index-version {version}; touch -d 2001-01-01 a.txt"));
        let index = fs::metadata(space.path(".git/index")).and_then(|file| file.modified()).expect("time");
        assert!(space.untouched_after("git status"));
        let later = fs::metadata(space.path(".git/index")).and_then(|file| file.modified()).expect("time");
        assert_ne!(index, later, "the index was rewritten");
    }
}

#[test]
fn a_git_status_in_a_linked_worktree_in_a_submodule_or_with_sha256_touches_nothing() {
    let space = TestWorkspace::with_repository();
    space.sh("git worktree add -q .trees/one; touch -d 2001-01-01 .trees/one/a.txt");
    assert!(space.untouched_after("git -C .trees/one status"));
    let space = TestWorkspace::with_repository();
    space.sh("git init -q -b main /tmp/$$-sub; git -C /tmp/$$-sub commit -q --allow-empty -m x; \
         git -c protocol.file.allow=always submodule --quiet add /tmp/$$-sub sub; rm -rf /tmp/$$-sub; \
         echo x >sub/x; git -C sub add x; touch -d 2001-01-01 sub/x");
    assert!(space.untouched_after("git -C sub status"));
    let space = TestWorkspace::new();
    space.sh("git init -q --object-format=sha256 -b main; echo x >f; git add f; touch -d 2001-01-01 f");
    assert!(space.untouched_after("git status"));
}

#[test]
fn another_index_and_a_change_behind_a_rewritten_index_are_detected() {
    for script in [
        "git rm -q --cached b.txt",
        "git update-index --assume-unchanged b.txt",
        "git update-index --chmod=+x b.txt",
        "echo x >.git/index.lock",
        // The times of the folder follow the index, and nothing else in it does.
        "touch -d 2001-01-01 a.txt; git status >/dev/null; echo x >.git/note",
        "touch -d 2001-01-01 a.txt; git status >/dev/null; touch .git/HEAD",
        "chmod 700 .git; git status >/dev/null; git update-index --refresh",
        "chmod 600 .git/index",
        "printf x >>.git/index",
        // Without a rewritten index, the folder's times count.
        "echo x >.git/note; rm .git/note",
    ] {
        assert!(!TestWorkspace::with_repository().untouched_after(script), "{script}");
    }
}

#[test]
fn attributes_do_not_hide_behind_a_rewritten_index() {
    let space = TestWorkspace::with_repository();
    let set = |path: &str, value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(space.path(path), "user.agent", value, flags)
    };
    if set(".git", b"before") == Err(Errno::NOTSUP) {
        return;
    }
    let root = workspace::open(space.root()).expect("open");
    for path in [".git", ".git/index"] {
        space.sh("touch -d 2001-01-01 a.txt");
        let before = MetadataSnapshot::before(&root, Limits::default());
        space.sh("git status");
        set(path, b"hidden").expect("set");
        assert!(!before.is_untouched(&MetadataSnapshot::after(&root, Limits::default())), "{path}");
    }
}

#[test]
fn a_split_index_is_compared_as_a_file() {
    let space = TestWorkspace::with_repository();
    space.sh("git update-index --split-index");
    assert!(space.untouched_after("true"));
    assert!(!space.untouched_after("touch .git/index"));
}

#[test]
fn what_cannot_be_read_is_not_untouched() {
    let space = TestWorkspace::new();
    for name in 0..50 {
        space.write(&format!("d{name}/f"), "1");
    }
    let root = workspace::open(space.root()).expect("open");
    let whole = MetadataSnapshot::before(&root, Limits::default());
    assert!(whole.is_untouched(&MetadataSnapshot::after(&root, Limits::default())));
    for limits in [
        Limits { entries: 10, ..Limits::default() },
        Limits { bytes: 1000, ..Limits::default() },
        Limits { time: Duration::ZERO, ..Limits::default() },
        Limits { stop: Some(&AtomicBool::new(true)), ..Limits::default() },
    ] {
        let part = MetadataSnapshot::after(&root, limits);
        assert!(part.incomplete().is_some());
        assert!(!whole.is_untouched(&part) && !part.is_untouched(&whole) && !part.is_untouched(&part));
    }
    assert!(!MetadataSnapshot::none("x").is_untouched(&whole));
}

#[test]
fn a_change_time_in_the_future_cannot_be_distinguished_from_a_later_one() {
    assert!(wait_past(Duration::ZERO));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("time");
    assert!(wait_past(now + Duration::from_nanos(1)));
    assert!(!wait_past(now + Duration::from_hours(1)));
}

#[test]
fn only_a_folder_that_its_owner_could_open_again_fails_the_snapshot() {
    let space = TestWorkspace::new();
    space.write("d/f", "1");
    fs::set_permissions(space.path("d"), fs::Permissions::from_mode(0o000)).expect("mode");
    let root = workspace::open(space.root()).expect("open");
    let snapshot = MetadataSnapshot::before(&root, Limits::default());
    // Root can read it; any other owner could open it again.
    let is_root = rustix::process::geteuid().is_root();
    assert_eq!(snapshot.incomplete().is_none(), is_root);
    fs::set_permissions(space.path("d"), fs::Permissions::from_mode(0o755)).expect("mode");
}
