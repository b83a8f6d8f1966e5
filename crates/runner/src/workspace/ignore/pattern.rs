//! One pattern, parsed once into bytes, sets and stars, because it is matched against thousands of names.

use super::Effort;

/// One line of a gitignore file.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    /// It negates earlier patterns.
    pub(super) negated: bool,
    folders_only: bool,
    /// It contains a slash, so it is matched against the whole path and not the last name.
    anchored: bool,
    segments: Vec<Segment>,
    /// The path also matches if these do: see [`after_literal`].
    alternative: Option<Vec<Segment>>,
}

/// The part between two slashes.
#[derive(Clone, Debug)]
enum Segment {
    /// `**`: any number of folders; at the end, at least one name.
    Folders,
    Name(Vec<u8>),
    Glob(Vec<GlobToken>),
}

#[derive(Clone, Debug)]
enum GlobToken {
    Byte(u8),
    /// `?`
    One,
    /// `*`
    Star,
    /// `[a-z]`
    Set(Box<Bytes>),
    /// An unclosed set, or a backslash at the end.
    Never,
}

impl Pattern {
    /// Reads a line; `None` if it is empty or a comment.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        // Git reads a line as a C string.
        let line = line.split(|byte| *byte == 0).next().unwrap_or_default();
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
        let ways = if anchored { after_literal(line) } else { None };
        let (line, other) = ways.as_ref().map_or((line, None), |(line, other)| (line, other.as_deref()));
        let alternative = other.map(Segment::parse_all);
        Some(Self { negated, folders_only, anchored, segments: Segment::parse_all(line), alternative })
    }

    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        64 + self.segments.iter().chain(self.alternative.iter().flatten()).map(Segment::bytes).sum::<usize>()
    }

    pub(super) fn matches(&self, names: &[&[u8]], folder: bool, effort: &Effort<'_>) -> bool {
        if self.folders_only && !folder {
            return false;
        }
        match (self.anchored, self.segments.as_slice(), names.last()) {
            (false, [segment], Some(name)) => segment.matches(name, effort),
            _ => {
                path_matches(&self.segments, names, effort)
                    || self.alternative.as_ref().is_some_and(|other| path_matches(other, names, effort))
            }
        }
    }
}

/// Rewrites a pattern whose literal beginning ends within a name and is followed by `**`, as equivalent patterns.
///
/// Git compares the literal beginning by itself (`match_pathname` in its `dir.c`) and then reads what is left as a
/// whole pattern, which begins with `**`. So `src/a**/b` matches `src/ab`, `src/ac/b` and `src/ac/d/b`, although git's
/// documentation says that such stars stand for one name.
fn after_literal(line: &[u8]) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let (literal, rest) = line.split_at(line.iter().position(|byte| b"*?[\\".contains(byte))?);
    if literal.is_empty() || literal.ends_with(b"/") {
        return None;
    }
    let mut after = two_stars(rest)?;
    // Further ones change nothing.
    while let Some(more) = after.strip_prefix(b"/").and_then(two_stars) {
        after = more;
    }
    let with = |parts: &[&[u8]]| [&[literal], parts].concat().concat();
    Some(match (after.strip_prefix(b"/"), after.strip_prefix(b"\\/")) {
        (Some(names), _) => (with(&[b"*/**/", names]), Some(with(&[names]))),
        (_, Some(names)) => (with(&[b"*/**/", names]), None),
        _ => (with(&[b"*/**"]), Some(with(&[b"*"]))),
    })
}

/// What follows two stars or more, if that makes them stand for folders: a slash, or nothing.
fn two_stars(text: &[u8]) -> Option<&[u8]> {
    let stars = text.iter().take_while(|byte| **byte == b'*').count();
    let after = text.get(stars..)?;
    let ends = after.is_empty() || after.starts_with(b"/") || after.starts_with(b"\\/");
    (stars > 1 && ends).then_some(after)
}

/// Removes trailing spaces, unless a backslash precedes them.
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

impl Segment {
    /// Reads the parts between slashes. A slash in a set ends no part: it is a member that no name contains.
    fn parse_all(pattern: &[u8]) -> Vec<Self> {
        let mut segments = Vec::new();
        let mut left = Some(pattern);
        while let Some(rest) = left {
            let (segment, length) = Self::parse(rest);
            let after = rest.get(length..).unwrap_or_default();
            let escaped = after.starts_with(b"\\/");
            left = after.strip_prefix(if escaped { &b"\\/"[..] } else { b"/" });
            // `**` may stand for no folder only if an unescaped slash follows.
            let one_at_least = escaped && matches!(segment, Self::Folders);
            segments.push(segment);
            if one_at_least {
                segments.push(Self::Glob(vec![GlobToken::Star]));
            }
        }
        segments
    }

    /// Reads up to a slash, escaped or not. Also returns how much was read.
    fn parse(text: &[u8]) -> (Self, usize) {
        let literal = text.iter().position(|byte| b"/*?[\\".contains(byte)).unwrap_or(text.len());
        if text.get(literal).is_none_or(|byte| *byte == b'/') {
            return (Self::Name(text.get(..literal).unwrap_or_default().to_vec()), literal);
        }
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            let (token, length) = match rest {
                [b'/', ..] | [b'\\', b'/', ..] => break,
                [b'*', ..] => (GlobToken::Star, 1),
                [b'?', ..] => (GlobToken::One, 1),
                [b'\\', escaped, ..] => (GlobToken::Byte(*escaped), 2),
                [b'[', set @ ..] => match Bytes::parse(set) {
                    Some((bytes, length)) => (GlobToken::Set(Box::new(bytes)), length + 1),
                    None => (GlobToken::Never, rest.len()),
                },
                [literal, ..] if *literal != b'\\' => (GlobToken::Byte(*literal), 1),
                _ => (GlobToken::Never, rest.len()),
            };
            at += length;
            if matches!((&token, tokens.last()), (GlobToken::Star, Some(GlobToken::Star))) {
                continue;
            }
            tokens.push(token);
        }
        // Two stars or more.
        let folders = at > 1 && matches!(tokens.as_slice(), [GlobToken::Star]);
        (if folders { Self::Folders } else { Self::Glob(tokens) }, at)
    }

    fn bytes(&self) -> usize {
        let own = match self {
            Self::Folders => 0,
            Self::Name(name) => name.len(),
            Self::Glob(tokens) => {
                tokens.capacity() * size_of::<GlobToken>()
                    + tokens.iter().filter(|token| matches!(token, GlobToken::Set(_))).count() * 48
            }
        };
        own + 64
    }

    /// Whether it matches one name.
    fn matches(&self, name: &[u8], effort: &Effort<'_>) -> bool {
        match self {
            // Without other parts, it matches any name.
            Self::Folders => effort.spend(1),
            Self::Name(own) => effort.spend(1) && own == name,
            Self::Glob(tokens) => {
                effort.spend(tokens.len().saturating_mul(name.len()).max(1)) && glob_matches(tokens, name)
            }
        }
    }
}

fn path_matches(pattern: &[Segment], names: &[&[u8]], effort: &Effort<'_>) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to continue if the parts after the last `**` do not match: one name further.
    let mut retry: Option<(usize, usize)> = None;
    while let Some(name) = names.get(n) {
        match pattern.get(p) {
            Some(Segment::Folders) if p + 1 == pattern.len() => return true,
            Some(Segment::Folders) => {
                retry = Some((p + 1, n));
                p += 1;
            }
            Some(segment) if segment.matches(name, effort) => {
                p += 1;
                n += 1;
            }
            _ => match &mut retry {
                Some((after, from)) if effort.spend(1) => {
                    *from += 1;
                    (p, n) = (*after, *from);
                }
                _ => return false,
            },
        }
    }
    p == pattern.len()
}

fn glob_matches(pattern: &[GlobToken], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while let Some(&byte) = name.get(n) {
        let matched = match pattern.get(p) {
            Some(GlobToken::Star) => {
                p += 1;
                retry = Some((p, n));
                continue;
            }
            Some(GlobToken::One) => true,
            Some(GlobToken::Byte(own)) => *own == byte,
            Some(GlobToken::Set(set)) => set.has(byte),
            Some(GlobToken::Never) | None => false,
        };
        if matched {
            p += 1;
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
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|token| matches!(token, GlobToken::Star)))
}

/// The bytes that a set in brackets matches.
#[derive(Clone, Debug)]
struct Bytes([u128; 2]);

impl Bytes {
    /// Reads a set without its opening bracket. Also returns its length. `None` if it is not closed or names an unknown
    /// class: git then matches nothing.
    fn parse(set: &[u8]) -> Option<(Self, usize)> {
        let negated = matches!(set.first(), Some(b'!' | b'^'));
        let mut bytes = Self([0; 2]);
        let mut at = usize::from(negated);
        let mut first = true;
        // The next `]` of a class. It is searched once, however many beginnings of classes precede it.
        let mut close = 0;
        loop {
            let rest = set.get(at..)?;
            if let [b']', ..] = rest
                && !first
            {
                if negated {
                    bytes.0 = bytes.0.map(|half| !half);
                }
                return Some((bytes, at + 1));
            }
            first = false;
            if let [b'[', b':', ..] = rest {
                let begin = at + 2;
                if close < begin {
                    close = begin + set.get(begin..)?.iter().position(|byte| *byte == b']')?;
                }
                if let Some(class) = set.get(begin..close).and_then(|class| class.strip_suffix(b":")) {
                    bytes.add_class(class)?;
                    at = close + 1;
                    continue;
                }
            }
            let (low, length) = set_byte(rest)?;
            at += length;
            // Also if it begins a backward range, which contains nothing else.
            bytes.add(low);
            match set.get(at..)? {
                [b'-', next, ..] if *next != b']' => {
                    let (high, length) = set_byte(set.get(at + 1..)?)?;
                    (low..=high).for_each(|byte| bytes.add(byte));
                    at += 1 + length;
                }
                _ => {}
            }
        }
    }

    fn has(&self, byte: u8) -> bool {
        let [low, high] = self.0;
        let half = if byte < 128 { low } else { high };
        half & (1 << (byte % 128)) != 0
    }

    fn add(&mut self, byte: u8) {
        let [low, high] = &mut self.0;
        let half = if byte < 128 { low } else { high };
        *half |= 1 << (byte % 128);
    }

    fn add_class(&mut self, class: &[u8]) -> Option<()> {
        let member: fn(&u8) -> bool = match class {
            b"alnum" => u8::is_ascii_alphanumeric,
            b"alpha" => u8::is_ascii_alphabetic,
            b"blank" => |byte| matches!(byte, b' ' | b'\t'),
            b"cntrl" => u8::is_ascii_control,
            b"digit" => u8::is_ascii_digit,
            b"graph" => u8::is_ascii_graphic,
            b"lower" => u8::is_ascii_lowercase,
            b"print" => |byte| byte.is_ascii_graphic() || *byte == b' ',
            b"punct" => u8::is_ascii_punctuation,
            b"space" => |byte| byte.is_ascii_whitespace() || *byte == 0x0b,
            b"upper" => u8::is_ascii_uppercase,
            b"xdigit" => u8::is_ascii_hexdigit,
            _ => return None,
        };
        (0..=u8::MAX).filter(member).for_each(|byte| self.add(byte));
        Some(())
    }
}

fn set_byte(set: &[u8]) -> Option<(u8, usize)> {
    match set {
        [b'\\', escaped, ..] => Some((*escaped, 2)),
        [byte, ..] => Some((*byte, 1)),
        [] => None,
    }
}
