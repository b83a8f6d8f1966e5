//! Compares this module with the `ignore` crate (of ripgrep) and with git. Git is always right.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use proptest::{prelude::*, test_runner::TestRunner};

use super::{IgnoreRules, tests::effort};

const NAMES: [&str; 19] = [
    "a", "b", "ab", "abc", "ba", "x", "a b", "a ", "*", "#a", "!a", "]a", "-", ".a", "[a", "\\", "[ab]", "1",
    "c",
];

/// Files at the top, in folders, and in folders of folders.
fn paths() -> Vec<String> {
    let mut paths: Vec<String> = NAMES.map(str::to_owned).into();
    for folder in ["b", "ab", "x", "#a"] {
        paths.extend(NAMES.map(|name| format!("D{folder}/{name}")));
        paths.extend(NAMES.map(|name| format!("q/{folder}/{name}")));
        paths.extend(["a", "b", "x"].map(|name| format!("q/{folder}/r/s/{name}")));
    }
    paths
}

fn piece() -> impl Strategy<Value = &'static str> {
    let names =
        prop::sample::select(vec!["a", "b", "ab", "x", "q", "r", "1", "-", ".", " ", "#", "!", "]", "D"]);
    let stars = prop::sample::select(vec!["*", "*", "**", "***", "?", "/", "/", "/**/", "**/", "/**"]);
    let sets = prop::sample::select(vec![
        "[ab]",
        "[!a]",
        "[^b]",
        "[a-c]",
        "[c-a]",
        "[]a]",
        "[!]]",
        "[a-]",
        "[-a]",
        "[a-c-x]",
        "[[:alpha:]]",
        "[[:digit:]a]",
        "[![:space:]]",
        "[[:none:]]",
        "[a/b]",
        "[\\]]",
        "[\\a-c]",
        "[a",
        "[",
        "[[:alpha]",
    ]);
    let escapes = prop::sample::select(vec!["\\a", "\\*", "\\[", "\\ ", "\\\\", "\\/", "\\#", "\\!", "\\"]);
    prop_oneof![4 => names, 4 => stars, 2 => sets, 1 => escapes]
}

fn patterns() -> impl Strategy<Value = String> {
    let begin = prop::sample::select(vec!["", "", "", "!", "/", "!/", "\\", "#"]);
    let end = prop::sample::select(vec!["", "", "", "/", " ", "  ", "\\ ", " \\", "\r", "/ "]);
    let line = (begin, prop::collection::vec(piece(), 1..6), end)
        .prop_map(|(begin, pieces, end)| format!("{begin}{}{end}\n", pieces.concat()));
    prop::collection::vec(line, 1..4).prop_map(|lines| lines.concat())
}

/// The paths that are ignored, or are in an ignored folder.
fn ignored(paths: &[String], is_ignored: &dyn Fn(&Path, bool) -> bool) -> Vec<String> {
    let any = |path: &Path| {
        let mut above: Vec<&Path> = path.ancestors().filter(|path| *path != Path::new("")).collect();
        above.reverse();
        above.into_iter().any(|at| is_ignored(at, at != path))
    };
    paths.iter().filter(|path| any(Path::new(path))).cloned().collect()
}

fn by_us(text: &str, paths: &[String]) -> Vec<String> {
    let rules = IgnoreRules::parse(b"", text.as_bytes());
    ignored(paths, &|path, folder| {
        rules.verdict(path.as_os_str().as_encoded_bytes(), folder, &effort()) == Some(true)
    })
}

/// `None` if the crate rejects a line.
fn by_the_crate(text: &str, paths: &[String]) -> Option<Vec<String>> {
    let mut builder = GitignoreBuilder::new("");
    for line in text.lines() {
        builder.add_line(None, line).ok()?;
    }
    let rules: Gitignore = builder.build().ok()?;
    Some(ignored(paths, &|path, folder| rules.matched(path, folder).is_ignore()))
}

fn by_git(repository: &Path, text: &str, paths: &[String]) -> Vec<String> {
    fs::write(repository.join(".gitignore"), text).expect("write");
    let mut git = Command::new("git")
        .args(["check-ignore", "-z", "--stdin", "--no-index"])
        .current_dir(repository)
        .envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git");
    git.stdin.take().expect("stdin").write_all(paths.join("\0").as_bytes()).expect("write");
    let output = git.wait_with_output().expect("git").stdout;
    let ignored: Vec<&[u8]> = output.split(|byte| *byte == 0).collect();
    paths.iter().filter(|path| ignored.contains(&path.as_bytes())).cloned().collect()
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) })
}

fn repository() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    let status = Command::new("git").args(["init", "-q"]).current_dir(folder.path()).status().expect("git");
    assert!(status.success());
    folder
}

#[test]
fn patterns_are_read_as_git_reads_them() {
    let (repository, paths) = (repository(), paths());
    let result = runner(200).run(&patterns(), |text| {
        prop_assert_eq!(by_us(&text, &paths), by_git(repository.path(), &text, &paths), "for {:?}", text);
        Ok(())
    });
    assert!(result.is_ok(), "{}", result.expect_err("it failed"));
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
    let names = [
        "a", "b", "c", "d", "e", "f", "g", "h", "x.o", "keep.o", "x1", "y1", "#x", "ij", "j", "k", "ll",
        "mxn", "Xx", "o", "p ", "!q", "rs", "]s", "t", "u", "keep",
    ];
    let repository = repository();
    let mut paths: Vec<String> = names.map(str::to_owned).into();
    for top in ["a", "b", "c", "f", "g", "u", "ij"] {
        paths.extend(names.map(|name| format!("q/{top}/{name}")));
        paths.extend(names.map(|name| format!("D{top}/{name}")));
    }
    for pattern in patterns {
        for extra in ["", "*.o\n!keep.o\n"] {
            let text = format!("{extra}{pattern}\n");
            assert_eq!(by_us(&text, &paths), by_git(repository.path(), &text, &paths), "for {text:?}");
        }
    }
}

#[test]
fn if_the_ignore_crate_reads_patterns_differently_git_agrees_with_us() {
    let (repository, paths) = (repository(), paths());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(400));
    let agreed = std::cell::Cell::new(0);
    let result = runner.run(&patterns(), |text| {
        let ours = by_us(&text, &paths);
        if by_the_crate(&text, &paths).as_ref() == Some(&ours) {
            agreed.set(agreed.get() + 1);
        } else {
            prop_assert_eq!(ours, by_git(repository.path(), &text, &paths), "for {:?}", text);
        }
        Ok(())
    });
    assert!(result.is_ok(), "{}", result.expect_err("it failed"));
    assert!(agreed.get() > 100, "the crate agrees with {} of 400 lists alone", agreed.get());
}

/// These are the differences between version 0.4 of the crate and version 2.39 of git.
#[test]
fn the_crates_known_differences_from_git_are_not_ours() {
    let (repository, paths) = (repository(), paths());
    for pattern in [
        // A backward range contains only its first character; for the crate it is an error.
        "[c-a]",
        // A `-` after a range is an ordinary member and does not continue the range.
        "[a-c-x]",
        // An unclosed set or escape matches nothing; the crate takes it literally, or as an error.
        "[a",
        "a\\",
        // More than two stars mean the same as two; for the crate they mean the same as one.
        "***/a",
        // Two stars before an escaped slash also match folders; for the crate they mean the same as one star.
        "q/**\\/a",
        // Two stars after a literal beginning match folders; for the crate they match one name.
        "q/a**/s/a",
        "D**/*/",
    ] {
        let git = by_git(repository.path(), &format!("{pattern}\n"), &paths);
        assert_eq!(by_us(pattern, &paths), git, "for {pattern:?}");
        assert_ne!(by_the_crate(pattern, &paths), Some(git), "for {pattern:?}");
    }
}
