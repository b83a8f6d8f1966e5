use super::*;

/// Unbounded effort.
pub(super) fn effort() -> Effort<'static> {
    Effort::while_allowed(&|| true)
}

fn ignored(patterns: &str, path: &str) -> bool {
    let (path, folder) = path.strip_suffix('/').map_or((path, false), |path| (path, true));
    IgnoreRules::parse(b"", patterns.as_bytes()).verdict(path.as_bytes(), folder, &effort()) == Some(true)
}

#[test]
fn a_pattern_without_a_slash_matches_at_any_depth() {
    assert!(ignored("*.o", "a.o") && ignored("*.o", "a/b/c.o") && !ignored("*.o", "a.ox"));
    assert!(ignored("build/", "x/build/") && !ignored("build/", "x/build"));
}

#[test]
fn a_pattern_with_a_slash_matches_from_its_folder() {
    assert!(ignored("/a", "a") && !ignored("/a", "b/a"));
    assert!(ignored("a/b", "a/b") && !ignored("a/b", "x/a/b"));
    let rules = IgnoreRules::parse(b"sub", b"/a\n");
    assert_eq!(rules.verdict(b"sub/a", false, &effort()), Some(true));
    assert_eq!(rules.verdict(b"a", false, &effort()), None);
    assert_eq!(rules.verdict(b"subway/a", false, &effort()), None);
}

#[test]
fn two_stars_stand_for_folders() {
    assert!(ignored("**/a", "a") && ignored("**/a", "x/y/a"));
    assert!(ignored("a/**", "a/b/c") && !ignored("a/**", "a/"));
    assert!(ignored("a/**/b", "a/b") && ignored("a/**/b", "a/x/y/b") && !ignored("a/**/b", "a/x/c"));
    assert!(ignored("**/x/**/y", "q/x/x/r/y"));
}

#[test]
fn more_than_two_stars_are_two() {
    assert!(ignored("***/a", "a") && ignored("***/a", "x/y/a") && ignored("a/****/b", "a/x/y/b"));
    assert!(!ignored("[a]***/b", "ax/y/b"));
}

/// Git reads what follows the literal beginning as a pattern of its own.
#[test]
fn two_stars_after_a_literal_beginning_stand_for_folders() {
    for pattern in ["a**/b", "a***/b", "a**/**/b", "q/a**/b", "/a**/b"] {
        let path = |path: &str| if pattern.starts_with('q') { format!("q/{path}") } else { path.to_owned() };
        for yes in ["ab", "a/b", "ax/b", "ax/y/b"] {
            assert!(ignored(pattern, &path(yes)), "{pattern} {yes}");
        }
        for no in ["axb", "xa/b", "a", "b"] {
            assert!(!ignored(pattern, &path(no)), "{pattern} {no}");
        }
    }
    assert!(ignored("q/a**", "q/a") && ignored("q/a**", "q/ax/y") && !ignored("q/a**", "q/x"));
    assert!(ignored("a**/*/", "ab/") && ignored("a**/*/", "ab/c/") && !ignored("a**/*/", "ab"));
    assert!(ignored("a**\\/b", "ax/b") && ignored("a**\\/b", "ax/y/b") && !ignored("a**\\/b", "ab"));
    assert!(!ignored("a?**/b", "axx/y/b") && !ignored("a**c/b", "axc/y/b"));
}

#[test]
fn slashes_in_sets_and_escaped_slashes_are_read_as_git_does() {
    assert!(ignored("a[b/c]d", "abd") && ignored("a[b/c]d", "acd") && !ignored("a[b/c]d", "a/d"));
    assert!(!ignored("a[b/c]d", "x/abd") && !ignored("a[b/c", "a[b/c"));
    assert!(ignored("a\\/b", "a/b") && !ignored("a\\/b", "x/a/b") && !ignored("\\/a", "a"));
    assert!(ignored("a/**\\/b", "a/x/b") && !ignored("a/**\\/b", "a/b"));
}

#[test]
fn the_last_match_wins() {
    assert!(!ignored("*.o\n!keep.o", "keep.o") && ignored("!keep.o\n*.o", "keep.o"));
}

#[test]
fn sets_escapes_and_comments_are_read() {
    assert!(ignored("[a-c]x", "bx") && !ignored("[!a-c]x", "bx") && ignored("[]-]x", "]x"));
    assert!(ignored("[z-a]", "z") && !ignored("[z-a]", "a") && !ignored("[!]-9]", "]"));
    assert!(ignored("[[:digit:]]", "7") && !ignored("[[:digit:]]", "x"));
    assert!(ignored("\\#a", "#a") && !ignored("#a", "#a") && ignored("\\!a", "!a") && ignored("a\\*", "a*"));
    assert!(ignored("a   ", "a") && ignored("a\\ ", "a ") && ignored("a\r", "a") && ignored("a\0b", "a"));
    assert!(!ignored("[a", "a") && !ignored("", "a") && !ignored("/", "a"));
}

#[test]
fn a_pattern_that_is_slow_on_purpose_is_matched_quickly() {
    assert!(!ignored(&"*a".repeat(50), &("a".repeat(4000) + "b")));
    assert!(!ignored(&"**/a/".repeat(50), &("a/".repeat(1500) + "b/")));
}

proptest::proptest! {
    #[test]
    fn no_pattern_makes_it_panic(pattern in "[]\\[*?!^a-c:/\\\\ -]{0,20}", path in "[]\\[a-c/-]{1,12}") {
        ignored(&pattern, &path);
    }
}
