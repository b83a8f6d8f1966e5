//! Recognises what is volatile in an error, and what only looks volatile.

use std::sync::LazyLock;

use regex_lite::{Captures, Regex};

/// What replaces a match.
enum Replacement {
    /// This text, in which `$1` stands for a group.
    Word(&'static str),
    /// What this function computes from it.
    Computed(fn(&Captures) -> String),
}

/// Patterns of what is volatile, and their replacements. The order matters: larger patterns come first.
static VOLATILE: LazyLock<Vec<(Regex, Replacement)>> = LazyLock::new(|| {
    use Replacement::{Computed, Word};
    [
        (r"\x1b\[[0-9;?]*[A-Za-z]", Word("")),
        (r"(?i)\b[a-z][a-z0-9+.-]*://[^\s'\x22)>\]]+", Word("<url>")),
        (r"(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", Word("<id>")),
        (r"\b\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d+)?)?)?\s*(Z|UTC|[+-]\d{2}:?\d{2})?", Word("<time>")),
        (r"([^\s:'\x22]*):\d+(:\d+)?\b", Computed(line_number)),
        (r"\b\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?\s*([AaPp][Mm])?\b", Word("<time>")),
        (r"\b\d{1,3}(\.\d{1,3}){3}(:\d+)?\b", Word("<address>")),
        (r"(?i)\b(localhost|[a-z0-9-]+(\.[a-z0-9-]+)+):\d{2,5}\b", Word("<address>")),
        (r"(?i)\b0x[0-9a-f]+\b", Word("<address>")),
        (r"(^|[\s'\x22`(=:<,\[])((/private)?(/var)?/tmp|(/private)?/var/folders)/[^\s'\x22`:,)>\]]+", Word("$1<temporary>")),
        (
            r"(?i)\b(req|request|trace|span|session|thread|msg|call|run|job|build|chatcmpl|resp|toolu|ses|gen)[_-][a-z0-9]+([_-][a-z0-9]+)*\b",
            Computed(id),
        ),
        (r"(?i)\b[0-9a-f]{7,}\b", Computed(hex)),
        (r"(?i)\b\d+([.,]\d+)?\s*(ns|us|µs|ms|s|secs?|seconds?|m|mins?|minutes?|h|hours?)\b", Word("<duration>")),
        (r"(?i)\b(line|lines|column|col|ln)\s+\d+", Word("$1 <n>")),
        (r"(?i)\b(pid|attempt|retry|try|after)(\s*[=:#]?\s*)\d+\b", Word("$1$2<n>")),
        (r"(^|[^\w.-])\d{5,}\b", Word("$1<n>")),
        (r"\s+", Word(" ")),
    ]
    .into_iter()
    .filter_map(|(pattern, replacement)| Regex::new(pattern).ok().map(|regex| (regex, replacement)))
    .collect()
});

/// The number of patterns. A pattern that does not compile would be missing.
#[cfg(test)]
pub(super) fn patterns() -> usize {
    VOLATILE.len()
}

/// Replaces everything volatile in a text by placeholders.
pub(super) fn replace(mut text: String) -> String {
    for (regex, replacement) in VOLATILE.iter() {
        text = match replacement {
            Replacement::Word(word) => regex.replace_all(&text, *word),
            Replacement::Computed(compute) => regex.replace_all(&text, *compute),
        }
        .into_owned();
    }
    text
}

fn group<'a>(found: &'a Captures, index: usize) -> &'a str {
    found.get(index).map_or("", |group| group.as_str())
}

/// Last labels that show that a name is a host's and not a file's.
const HOSTS: &[&str] =
    &["com", "net", "org", "io", "ai", "dev", "local", "internal", "svc", "cloud", "localhost"];

/// `src/lib.rs:10:5` names a line; `exit:1`, `step:3` and `db.example.com:5432` do not.
fn line_number(found: &Captures) -> String {
    let name = group(found, 1);
    let bare = name.trim_end_matches([')', ']', '>', '`']);
    let extension = bare.rsplit_once('.').map(|(_, extension)| extension);
    let letters = |extension: &str| extension.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let file = match extension {
        Some(extension) => letters(extension) && !HOSTS.contains(&extension.to_ascii_lowercase().as_str()),
        None => {
            bare.contains('/')
                || bare.ends_with("file")
                || bare.contains('<')
                || bare != name
                || name.is_empty()
        }
    };
    if file { format!("{name}:<n>") } else { group(found, 0).to_owned() }
}

/// `req_011CaB3` is an id; `request_2_roundtrip`, `run-3` and `build-arm64` are names.
fn id(found: &Captures) -> String {
    let whole = group(found, 0);
    let opaque = whole.split(['_', '-']).skip(1).any(opaque);
    if opaque { "<id>".to_owned() } else { whole.to_owned() }
}

/// Whether a part of a name was generated, not chosen by a person.
fn opaque(part: &str) -> bool {
    let digits = part.bytes().filter(u8::is_ascii_digit).count();
    if digits == part.len() {
        return digits >= 5;
    }
    let kinds: Vec<bool> = part.bytes().map(|byte| byte.is_ascii_digit()).collect();
    let turns = kinds.windows(2).filter(|pair| pair.first() != pair.last()).count();
    let mixed = part.bytes().any(|b| b.is_ascii_uppercase()) && part.bytes().any(|b| b.is_ascii_lowercase());
    let hex = part.len() >= 7 && part.bytes().all(|b| b.is_ascii_hexdigit());
    part.len() >= 5
        && digits >= 2
        && turns >= 2
        && (mixed || (2 * digits >= part.len() && digits >= 3 && part.len() < 8) || hex || part.len() >= 16)
}

/// Replaces hexadecimal digits that are neither a plain number nor a word. Codes such as `E501` are too short to match.
fn hex(found: &Captures) -> String {
    let digits = group(found, 0);
    let numbers = digits.bytes().filter(u8::is_ascii_digit).count();
    if numbers == 0 || numbers == digits.len() { digits.to_owned() } else { "<hex>".to_owned() }
}
