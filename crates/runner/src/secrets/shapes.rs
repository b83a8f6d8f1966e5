//! Recognises text that looks like a credential, whatever its source.

use std::ops::Range;

use super::names::{self, Field};

/// A kind of token: its prefix, which bytes follow, and how many at least.
struct TokenShape {
    prefix: &'static str,
    more: fn(u8) -> bool,
    least: usize,
    /// The rest must contain a digit, because the prefix may also begin an ordinary word.
    digit: bool,
}

const fn token(prefix: &'static str, least: usize) -> TokenShape {
    TokenShape { prefix, more: is_url_safe, least, digit: false }
}

const fn doubtful(prefix: &'static str, least: usize) -> TokenShape {
    TokenShape { prefix, more: is_url_safe, least, digit: true }
}

const TOKENS: &[TokenShape] = &[
    // Models: Anthropic, OpenAI and the many compatible with it, Groq, xAI, Perplexity, Replicate, NVIDIA, Fireworks,
    // Hugging Face, Google.
    token("sk-ant-", 8),
    token("sk-proj-", 8),
    token("sk-or-", 8),
    doubtful("sk-", 16),
    token("gsk_", 20),
    token("xai-", 20),
    token("pplx-", 20),
    token("r8_", 20),
    token("nvapi-", 20),
    doubtful("fw_", 20),
    token("hf_", 16),
    token("AIza", 30),
    token("ya29.", 16),
    token("GOCSPX-", 16),
    token("1//0", 24),
    // Forges and registries of packages.
    token("ghp_", 16),
    token("gho_", 16),
    token("ghu_", 16),
    token("ghs_", 16),
    token("ghr_", 16),
    token("github_pat_", 16),
    token("glpat-", 16),
    token("gldt-", 16),
    token("glrt-", 16),
    token("glptt-", 16),
    token("glcbt-", 16),
    token("glft-", 16),
    token("glsoat-", 16),
    token("glagent-", 16),
    token("gloas-", 16),
    token("ATATT3", 16),
    token("ATCTT3", 16),
    token("ATBB", 24),
    token("npm_", 20),
    token("pypi-", 50),
    token("rubygems_", 20),
    doubtful("cio", 32),
    token("dckr_pat_", 16),
    token("dckr_oat_", 16),
    // Clouds.
    TokenShape { prefix: "AKIA", more: is_upper, least: 12, digit: false },
    TokenShape { prefix: "ASIA", more: is_upper, least: 12, digit: false },
    doubtful("LTAI", 12),
    token("dop_v1_", 20),
    token("doo_v1_", 20),
    token("dor_v1_", 20),
    doubtful("dapi", 32),
    token("tskey-", 12),
    // Everything else that leaks often.
    token("xoxb-", 10),
    token("xoxp-", 10),
    token("xoxa-", 10),
    token("xoxr-", 10),
    token("xoxs-", 10),
    token("xoxe-", 10),
    token("xoxe.xoxp-", 10),
    token("xapp-", 10),
    token("sk_live_", 10),
    token("sk_test_", 10),
    token("rk_live_", 10),
    token("rk_test_", 10),
    token("whsec_", 16),
    token("shpat_", 16),
    token("shpss_", 16),
    token("SG.", 30),
    token("hvs.", 20),
    token("hvb.", 20),
    token("hvr.", 20),
    token("glsa_", 20),
    token("glc_", 20),
    token("sntrys_", 20),
    token("sntryu_", 20),
    token("lin_api_", 16),
    token("ntn_", 30),
    token("figd_", 20),
    token("PMAK-", 20),
    token("CCIPAT_", 16),
    token("bkua_", 20),
    token("pat-na1-", 20),
    token("sq0atp-", 16),
    token("sq0csp-", 16),
    token("AGE-SECRET-KEY-1", 20),
    doubtful("key-", 32),
];

/// Headers whose value is a credential.
const HEADERS: [&str; 9] = [
    "authorization",
    "x-api-key",
    "x-goog-api-key",
    "api-key",
    "private-token",
    "x-auth-token",
    "x-amz-security-token",
    "set-cookie",
    "cookie",
];

/// Words before the credential in such a header, and in running text.
const SCHEMES: [&str; 6] = ["bearer", "basic", "token", "digest", "negotiate", "apikey"];

const PRIVATE: &str = "PRIVATE KEY";
/// How many bytes are examined to decide whether something is a token.
const SEEN: usize = 512;
/// No private key is longer.
const KEY_BYTES: usize = 16 << 10;

fn is_url_safe(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

fn is_upper(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit()
}

/// The characters of credentials in headers.
fn is_token68(byte: u8) -> bool {
    is_url_safe(byte) || matches!(byte, b'~' | b'+' | b'/' | b'=' | b'%' | b':')
}

/// The ranges of credentials in a text, in no order, and possibly overlapping. Takes time linear in the text.
pub(super) fn find(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let bytes = text.as_bytes();
    let mut done = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if at < done {
            continue;
        }
        let rest = bytes.get(at..).unwrap_or_default();
        let range = if matches!(byte, b'=' | b':') {
            assigned(bytes, at)
        } else if byte.is_ascii_alphanumeric() && begins(bytes, at) {
            let token = known_token(rest).or_else(|| web_token(rest)).map(|length| 0..length);
            let range = token.or_else(|| header(rest)).or_else(|| scheme(rest));
            range.map(|range| at + range.start..at + range.end)
        } else {
            None
        };
        done = range.as_ref().map_or(done, |range| range.end);
        found.extend(range);
    }
    found.extend(passwords_of_urls(text));
    found.extend(private_keys(text));
    found
}

/// Whether a word begins here. It may also follow an escape: `\n`, `%3D`, `\u003d`.
fn begins(bytes: &[u8], at: usize) -> bool {
    let before = bytes.get(at.saturating_sub(6)..at).unwrap_or_default();
    match before {
        [] | [.., b'\\', b'n' | b'r' | b't'] | [b'\\', b'u', ..] => true,
        [.., b'%', high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => true,
        [.., last] => !(last.is_ascii_alphanumeric() || *last == b'_'),
    }
}

fn run(bytes: &[u8], of: impl Fn(u8) -> bool) -> usize {
    bytes.iter().take_while(|byte| of(**byte)).count()
}

/// The length of a known token at the beginning.
fn known_token(bytes: &[u8]) -> Option<usize> {
    let longest = |token: &TokenShape| {
        let all = bytes.strip_prefix(token.prefix.as_bytes())?;
        // Examine only the beginning first, so that many beginnings without a token do not take quadratic time.
        let seen = all.get(..all.len().min(SEEN))?;
        let rest = seen.get(..run(seen, token.more))?;
        // A full stop ends the sentence, not the token.
        let end = rest.iter().rev().take_while(|byte| **byte == b'.').count();
        let rest = rest.get(..rest.len() - end)?;
        let digit = !token.digit || rest.iter().any(u8::is_ascii_digit);
        let length = |more: usize| if more + end == SEEN { run(all, token.more) } else { more };
        (rest.len() >= token.least && digit).then(|| token.prefix.len() + length(rest.len()))
    };
    TOKENS.iter().filter_map(longest).max()
}

/// The length of a JSON Web Token.
fn web_token(bytes: &[u8]) -> Option<usize> {
    let seen = bytes.strip_prefix(b"eyJ")?;
    let seen = seen.get(..seen.len().min(SEEN))?;
    let seen = seen.get(..run(seen, is_url_safe))?;
    if seen.len() < 20 || !seen.contains(&b'.') {
        return None;
    }
    let all = bytes.get(..run(bytes, is_url_safe))?;
    Some(all.len() - all.iter().rev().take_while(|byte| **byte == b'.').count())
}

fn starts_with_word(bytes: &[u8], word: &str) -> bool {
    bytes.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes()))
}

/// Skips blanks, quotes and backslashes before quotes. Also returns whether there was a quote.
fn skip(bytes: &[u8], mut at: usize) -> (usize, bool) {
    let mut quoted = false;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b' ' | b'\t' => {}
            b'"' | b'\'' => quoted = true,
            b'\\' if matches!(bytes.get(at + 1), Some(b'"' | b'\'' | b'\\')) => {}
            _ => break,
        }
        at += 1;
    }
    (at, quoted)
}

/// The credential in a header.
fn header(bytes: &[u8]) -> Option<Range<usize>> {
    let name = HEADERS.iter().find(|name| starts_with_word(bytes, name))?;
    let (at, _) = skip(bytes, name.len());
    let (b':' | b'=') = bytes.get(at)? else { return None };
    let (at, _) = skip(bytes, at + 1);
    let value = bytes.get(at..)?;
    if name.ends_with("cookie") {
        let length = run(value, |byte| !matches!(byte, b'\n' | b'\r' | b'"' | b'\'' | b'\\'));
        return (length > 0).then(|| at..at + length);
    }
    let word = run(value, is_token68);
    let first = value.get(..word)?;
    if SCHEMES.iter().any(|scheme| first.eq_ignore_ascii_case(scheme.as_bytes())) {
        let start = at + word + run(value.get(word..)?, |byte| byte == b' ');
        let length = run(bytes.get(start..)?, |byte| {
            !byte.is_ascii_whitespace() && !matches!(byte, b'"' | b'\'' | b'\\')
        });
        return (length > 0).then(|| start..start + length);
    }
    let digit = first.iter().any(u8::is_ascii_digit);
    (word >= 16 || (word >= 8 && digit)).then(|| at..at + word)
}

/// The credential after the name of a scheme in running text. Not every word there is a credential.
fn scheme(bytes: &[u8]) -> Option<Range<usize>> {
    let name = ["bearer", "basic"].iter().find(|name| starts_with_word(bytes, name))?;
    let blanks = run(bytes.get(name.len()..)?, |byte| byte == b' ');
    let at = name.len() + blanks;
    let length = run(bytes.get(at..)?, is_token68);
    let certain = bytes.get(at..at + length)?.iter().any(|byte| byte.is_ascii_digit() || *byte == b'=');
    (blanks > 0 && (length >= 24 || (length >= 10 && certain))).then(|| at..at + length)
}

/// The value in `password=value`, `"api_key": "value"` and similar text, given the position of `=` or `:`.
fn assigned(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let before = bytes.get(..at)?;
    let marks = before.iter().rev().take_while(|byte| matches!(byte, b'"' | b'\'' | b'\\')).count();
    let before = before.get(..at - marks)?;
    let name = before.iter().rev().take(64).take_while(|byte| is_url_safe(**byte)).count();
    let field = names::field(std::str::from_utf8(before.get(before.len() - name..)?).ok()?)?;
    let (start, quoted) = skip(bytes, at + 1);
    // In prose, blanks and words follow a colon.
    if !quoted && (bytes.get(at) == Some(&b':') || start != at + 1) {
        return None;
    }
    let value = bytes.get(start..)?;
    let ends = |byte: u8| {
        matches!(byte, b'"' | b'\'' | b'\\')
            || (!quoted && (byte.is_ascii_whitespace() || matches!(byte, b'&' | b',' | b';' | b')')))
    };
    let length = run(value, |byte| !ends(byte) && byte != b'\n');
    let digit = value.get(..length)?.iter().any(u8::is_ascii_digit);
    let certain = field == Field::Certain || digit || length >= 20;
    (length >= super::SHORTEST && certain).then(|| start..start + length)
}

/// The passwords in `scheme://user:password@host`, and tokens in the place of the user.
pub(super) fn passwords_of_urls(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("://") {
        let start = at + 3;
        let rest = text.get(start..).unwrap_or_default();
        let ends =
            |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'' | '<' | '>' | '\\');
        let authority = rest.split(ends).next().unwrap_or_default();
        let Some((user, _)) = authority.rsplit_once('@') else { continue };
        match user.split_once(':') {
            Some((name, password)) if !password.is_empty() => {
                let from = if name.len() >= 16 { start } else { start + name.len() + 1 };
                found.push(from..start + user.len());
            }
            Some((name, _)) if name.len() >= 16 => found.push(start..start + name.len()),
            None if user.len() >= 16 => found.push(start..start + user.len()),
            _ => {}
        }
    }
    found
}

/// PEM private keys, complete or with either end cut off.
fn private_keys(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let bytes = text.as_bytes();
    for (at, _) in text.match_indices(PRIVATE) {
        let (before, after) = bytes.split_at_checked(at + PRIVATE.len()).unwrap_or_default();
        let label = before
            .iter()
            .rev()
            .take(40)
            .take_while(|byte| byte.is_ascii_uppercase() || **byte == b' ')
            .count();
        let before = before.get(..before.len() - label).unwrap_or_default();
        let label = bytes.get(before.len()..).unwrap_or_default();
        if let Some(start) = before.strip_suffix(b"-----")
            && label.starts_with(b"BEGIN ")
        {
            let near = after.get(..after.len().min(KEY_BYTES)).unwrap_or_default();
            let end = near.windows(8).position(|window| window == b"-----END");
            // Up to its end, or as far as the lines look like those of a key.
            let head = if after.starts_with(b" BLOCK") { 6 } else { 0 };
            let body = head + armour(after.get(head..).unwrap_or_default().iter());
            found.push(start.len()..at + PRIVATE.len() + end.unwrap_or(body));
        } else if let Some(body) = before.strip_suffix(b"-----")
            && label.starts_with(b"END ")
        {
            found.push(body.len() - armour(body.iter().rev())..at + PRIVATE.len());
        }
    }
    found
}

/// How many bytes from here on may belong to a PEM key: its lines, or `\n` if the key is in a string.
fn armour<'a>(bytes: impl Iterator<Item = &'a u8>) -> usize {
    bytes
        .take_while(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'\n' | b'\r' | b'\\' | b'-')
        })
        .count()
}
