//! Matches gitignore patterns directly by their definition: nothing is compiled, and every way to match is tried. It is
//! slow on purpose, so that it contains nothing clever that could be wrong.

use std::collections::HashMap;

/// How many steps a comparison may take before it gives up.
const MAX_STEPS: usize = 200_000;

/// The result of the last line that matches a path; `None` if it takes too many steps.
#[must_use]
pub fn verdict(text: &[u8], path: &[u8], folder: bool) -> Option<Option<bool>> {
    let mut steps = MAX_STEPS;
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    for line in lines.into_iter().rev() {
        let Some((negated, line)) = pattern(line) else { continue };
        if line_matches(line, path, folder, &mut steps)? {
            return Some(Some(!negated));
        }
    }
    Some(None)
}

/// The pattern of a line, and whether it negates earlier ones.
fn pattern(line: &[u8]) -> Option<(bool, &[u8])> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = &line[..line.iter().position(|byte| *byte == 0).unwrap_or(line.len())];
    if line.first() == Some(&b'#') {
        return None;
    }
    // Without trailing spaces that no backslash precedes.
    let (mut at, mut end) = (0, 0);
    while let Some(byte) = line.get(at) {
        at += if *byte == b'\\' { 2 } else { 1 };
        if *byte != b' ' {
            end = at.min(line.len());
        }
    }
    let line = &line[..end];
    let (negated, line) = line.strip_prefix(b"!").map_or((false, line), |line| (true, line));
    (!matches!(line, b"" | b"/")).then_some((negated, line))
}

fn line_matches(line: &[u8], path: &[u8], folder: bool, steps: &mut usize) -> Option<bool> {
    let (only_folders, line) = line.strip_suffix(b"/").map_or((false, line), |line| (true, line));
    if only_folders && !folder {
        return Some(false);
    }
    let (line, path) = if line.contains(&b'/') {
        (line.strip_prefix(b"/").unwrap_or(line), path)
    } else {
        // A pattern without a slash is matched against the last name.
        (line, path.rsplit(|byte| *byte == b'/').next().unwrap_or(path))
    };
    // Git compares the literal beginning separately, and what follows is a pattern of its own.
    let begin = line.iter().position(|byte| b"*?[\\".contains(byte)).unwrap_or(line.len());
    Ways { pattern: line, path, begin, known: HashMap::new(), steps }.matches(0, 0)
}

struct Ways<'a> {
    pattern: &'a [u8],
    path: &'a [u8],
    begin: usize,
    known: HashMap<(usize, usize), bool>,
    steps: &'a mut usize,
}

impl Ways<'_> {
    /// Whether the pattern from `p` on matches the path from `n` on.
    fn matches(&mut self, p: usize, n: usize) -> Option<bool> {
        if let Some(known) = self.known.get(&(p, n)) {
            return Some(*known);
        }
        *self.steps = self.steps.checked_sub(1)?;
        let result = self.any_way(p, n)?;
        self.known.insert((p, n), result);
        Some(result)
    }

    fn any_way(&mut self, p: usize, n: usize) -> Option<bool> {
        let Some(byte) = self.pattern.get(p) else { return Some(n == self.path.len()) };
        let here = self.path.get(n).copied();
        let in_name = here.filter(|byte| *byte != b'/');
        match byte {
            b'*' => {
                let stars = self.pattern[p..].iter().take_while(|byte| **byte == b'*').count();
                let after = &self.pattern[p + stars..];
                let begins = p == self.begin || self.pattern[p - 1] == b'/';
                if stars > 1 && begins && (after.is_empty() || after[0] == b'/' || after.starts_with(b"\\/"))
                {
                    // Any number of folders, or the rest of the path.
                    if after.is_empty() {
                        return Some(true);
                    }
                    if after[0] == b'/' && self.matches(p + stars + 1, n)? {
                        return Some(true);
                    }
                    for next in n..self.path.len() {
                        if self.path[next] == b'/' && self.matches(p + stars, next)? {
                            return Some(true);
                        }
                    }
                    return Some(false);
                }
                if self.matches(p + 1, n)? {
                    return Some(true);
                }
                if in_name.is_some() { self.matches(p, n + 1) } else { Some(false) }
            }
            b'?' => {
                if in_name.is_some() {
                    self.matches(p + 1, n + 1)
                } else {
                    Some(false)
                }
            }
            b'[' => match in_name.and_then(|byte| set(&self.pattern[p + 1..], byte)) {
                Some(length) => self.matches(p + 1 + length, n + 1),
                None => Some(false),
            },
            b'\\' => match self.pattern.get(p + 1) {
                Some(escaped) if here == Some(*escaped) => self.matches(p + 2, n + 1),
                _ => Some(false),
            },
            own => {
                if here == Some(*own) {
                    self.matches(p + 1, n + 1)
                } else {
                    Some(false)
                }
            }
        }
    }
}

/// How long a set is, if it matches a byte.
fn set(set: &[u8], byte: u8) -> Option<usize> {
    let negated = matches!(set.first(), Some(b'!' | b'^'));
    let mut at = usize::from(negated);
    let first = at;
    let mut found = false;
    // The beginning of a range that a `-` would continue.
    let mut before = None;
    while at == first || *set.get(at)? != b']' {
        if set[at..].starts_with(b"[:")
            && let length = set[at + 2..].iter().position(|byte| *byte == b']')?
            && let Some(class) = set[at + 2..at + 2 + length].strip_suffix(b":")
        {
            found |= class_has(class, byte)?;
            before = None;
            at += length + 3;
        } else if let (Some(low), b'-', Some(next)) = (before, *set.get(at)?, set.get(at + 1))
            && *next != b']'
        {
            at += 1 + usize::from(*next == b'\\');
            found |= (low..=*set.get(at)?).contains(&byte);
            before = None;
            at += 1;
        } else {
            at += usize::from(*set.get(at)? == b'\\');
            let own = *set.get(at)?;
            found |= own == byte;
            before = Some(own);
            at += 1;
        }
    }
    (found != negated).then_some(at + 1)
}

fn class_has(class: &[u8], byte: u8) -> Option<bool> {
    Some(match class {
        b"alnum" => byte.is_ascii_alphanumeric(),
        b"alpha" => byte.is_ascii_alphabetic(),
        b"blank" => byte == b' ' || byte == b'\t',
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
