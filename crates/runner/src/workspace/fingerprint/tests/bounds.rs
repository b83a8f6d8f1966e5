//! The bounds of a walk.

use std::{
    fs,
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use agentloop_contract::report::Change;

use super::super::Difference;
use crate::workspace::{Limits, test_workspace::TestWorkspace};

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
    let mut path = space.root().to_path_buf();
    for _ in 0..420 {
        path.push("d");
        fs::create_dir(&path).expect("folder");
    }
    assert!(space.print().incomplete().is_some());
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
