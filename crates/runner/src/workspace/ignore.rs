//! Gitignore patterns, as git reads them.

/// The patterns of one file, or of the task's `workspace.ignore`.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The folder that they are relative to, without a slash at its end; empty for the root.
    base: Vec<u8>,
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug)]
struct Pattern {
    negated: bool,
    folders_only: bool,
    /// It has a slash: matched against the whole path, not the last name.
    anchored: bool,
    segments: Vec<Vec<u8>>,
}

impl Rules {
    /// Reads the lines of a gitignore file that lies in the folder `base`.
    pub fn parse(base: &[u8], text: &[u8]) -> Self {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let patterns = text.split(|byte| *byte == b'\n').filter_map(Pattern::parse).collect();
        Self { base: base.to_vec(), patterns }
    }

    /// Whether there is no pattern at all.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// About what they take in memory.
    pub fn bytes(&self) -> usize {
        let segments = self.patterns.iter().flat_map(|pattern| &pattern.segments);
        self.patterns.len() * 64 + segments.map(|segment| segment.len() + 64).sum::<usize>()
    }

    /// What the last pattern that matches says of a path: ignored, or not; `None` where none matches.
    pub fn verdict(&self, path: &[u8], folder: bool) -> Option<bool> {
        let below = match self.base.as_slice() {
            b"" => path,
            base => path.strip_prefix(base)?.strip_prefix(b"/")?,
        };
        let names: Vec<&[u8]> = below.split(|byte| *byte == b'/').collect();
        let found = self.patterns.iter().rev().find(|pattern| pattern.matches(&names, folder))?;
        Some(!found.negated)
    }
}

impl Pattern {
    fn parse(line: &[u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.starts_with(b"#") {
            return None;
        }
        let line = without_trailing_spaces(line);
        let (negated, line) = line.strip_prefix(b"!").map_or((false, line), |rest| (true, rest));
        let (folders_only, line) = line.strip_suffix(b"/").map_or((false, line), |rest| (true, rest));
        let anchored = line.contains(&b'/');
        let line = line.strip_prefix(b"/").unwrap_or(line);
        if line.is_empty() {
            return None;
        }
        let segments = line.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
        Some(Self { negated, folders_only, anchored, segments })
    }

    fn matches(&self, names: &[&[u8]], folder: bool) -> bool {
        if self.folders_only && !folder {
            return false;
        }
        match (self.anchored, self.segments.as_slice(), names.last()) {
            (false, [segment], Some(name)) => name_matches(segment, name),
            _ => path_matches(&self.segments, names),
        }
    }
}

/// Trailing spaces do not count, unless a backslash stands before them.
fn without_trailing_spaces(line: &[u8]) -> &[u8] {
    let mut line = line;
    while let Some(rest) = line.strip_suffix(b" ") {
        let escapes = rest.iter().rev().take_while(|byte| **byte == b'\\').count();
        if escapes % 2 == 1 {
            break;
        }
        line = rest;
    }
    line
}

/// `**` stands for any number of folders; at the end, for one name at least.
fn path_matches(pattern: &[Vec<u8>], names: &[&[u8]]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on when what follows the last `**` does not match: one name further.
    let mut retry: Option<(usize, usize)> = None;
    while let Some(name) = names.get(n) {
        match pattern.get(p).map(Vec::as_slice) {
            Some(b"**") if p + 1 == pattern.len() => return true,
            Some(b"**") => {
                retry = Some((p + 1, n));
                p += 1;
            }
            Some(segment) if name_matches(segment, name) => {
                p += 1;
                n += 1;
            }
            _ => match &mut retry {
                Some((after, from)) => {
                    *from += 1;
                    (p, n) = (*after, *from);
                }
                None => return false,
            },
        }
    }
    p == pattern.len()
}

/// `*`, `?`, `[a-z]` and `\` within one name.
fn name_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while let Some(&byte) = name.get(n) {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            retry = Some((p, n));
            continue;
        }
        if let Some(length) = one_matches(pattern.get(p..).unwrap_or_default(), byte) {
            p += length;
            n += 1;
            continue;
        }
        match &mut retry {
            Some((after, from)) => {
                *from += 1;
                (p, n) = (*after, *from);
            }
            None => return false,
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

/// How much of the pattern one byte uses up; `None` where it does not match.
fn one_matches(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [b'[', set @ ..] => {
            let (matched, length) = set_matches(set, byte)?;
            matched.then_some(length + 1)
        }
        [literal, ..] if *literal != b'\\' => (*literal == byte).then_some(1),
        _ => None,
    }
}

/// A set in brackets, without the first of them: whether it holds the byte, and its length. `None` where it never ends.
fn set_matches(set: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(set.first(), Some(b'!' | b'^'));
    let mut at = usize::from(negated);
    let mut matched = false;
    let mut first = true;
    loop {
        let rest = set.get(at..)?;
        if let [b']', ..] = rest
            && !first
        {
            return Some((matched != negated, at + 1));
        }
        first = false;
        if let [b'[', b':', class @ ..] = rest
            && let Some(end) = class.windows(2).position(|pair| pair == b":]")
        {
            matched |= in_class(class.get(..end)?, byte)?;
            at += end + 4;
            continue;
        }
        let (low, length) = set_byte(rest)?;
        at += length;
        match set.get(at..)? {
            [b'-', next, ..] if *next != b']' => {
                let (high, length) = set_byte(set.get(at + 1..)?)?;
                matched |= (low..=high).contains(&byte);
                at += 1 + length;
            }
            _ => matched |= low == byte,
        }
    }
}

fn set_byte(set: &[u8]) -> Option<(u8, usize)> {
    match set {
        [b'\\', escaped, ..] => Some((*escaped, 2)),
        [byte, ..] => Some((*byte, 1)),
        [] => None,
    }
}

fn in_class(class: &[u8], byte: u8) -> Option<bool> {
    Some(match class {
        b"alnum" => byte.is_ascii_alphanumeric(),
        b"alpha" => byte.is_ascii_alphabetic(),
        b"blank" => matches!(byte, b' ' | b'\t'),
        b"cntrl" => byte.is_ascii_control(),
        b"digit" => byte.is_ascii_digit(),
        b"graph" => byte.is_ascii_graphic(),
        b"lower" => byte.is_ascii_lowercase(),
        b"print" => byte.is_ascii_graphic() || byte == b' ',
        b"punct" => byte.is_ascii_punctuation(),
        b"space" => byte.is_ascii_whitespace() || byte == 0x0b,
        b"upper" => byte.is_ascii_uppercase(),
        b"xdigit" => byte.is_ascii_hexdigit(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignored(patterns: &str, path: &str) -> bool {
        let (path, folder) = path.strip_suffix('/').map_or((path, false), |path| (path, true));
        Rules::parse(b"", patterns.as_bytes()).verdict(path.as_bytes(), folder) == Some(true)
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
        let rules = Rules::parse(b"sub", b"/a\n");
        assert_eq!(rules.verdict(b"sub/a", false), Some(true));
        assert_eq!(rules.verdict(b"a", false), None);
        assert_eq!(rules.verdict(b"subway/a", false), None);
    }

    #[test]
    fn two_stars_stand_for_folders() {
        assert!(ignored("**/a", "a") && ignored("**/a", "x/y/a"));
        assert!(ignored("a/**", "a/b/c") && !ignored("a/**", "a/"));
        assert!(ignored("a/**/b", "a/b") && ignored("a/**/b", "a/x/y/b") && !ignored("a/**/b", "a/x/c"));
        assert!(ignored("**/x/**/y", "q/x/x/r/y"));
    }

    #[test]
    fn the_last_match_wins() {
        assert!(!ignored("*.o\n!keep.o", "keep.o") && ignored("!keep.o\n*.o", "keep.o"));
    }

    #[test]
    fn sets_escapes_and_comments_are_read() {
        assert!(ignored("[a-c]x", "bx") && !ignored("[!a-c]x", "bx") && ignored("[]-]x", "]x"));
        assert!(ignored("[[:digit:]]", "7") && !ignored("[[:digit:]]", "x"));
        assert!(
            ignored("\\#a", "#a") && !ignored("#a", "#a") && ignored("\\!a", "!a") && ignored("a\\*", "a*")
        );
        assert!(ignored("a   ", "a") && ignored("a\\ ", "a ") && ignored("a\r", "a"));
        assert!(!ignored("[a", "a") && !ignored("", "a") && !ignored("/", "a"));
    }

    #[test]
    fn a_pattern_made_to_be_slow_is_not() {
        assert!(!ignored(&"*a".repeat(50), &("a".repeat(4000) + "b")));
        assert!(!ignored(&"**/a/".repeat(50), &("a/".repeat(1500) + "b/")));
    }

    proptest::proptest! {
        #[test]
        fn no_pattern_makes_it_panic(pattern in "[]\\[*?!^a-c:/\\\\ -]{0,20}", path in "[]\\[a-c/-]{1,12}") {
            ignored(&pattern, &path);
        }
    }
}
