//! Files, links, folders and special files outside repositories.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    process::Command,
};

use crate::workspace::{self, ignore::IgnoreRules, test_workspace::TestWorkspace};

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
    symlink(outside.root(), space.path("out")).expect("link");
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
