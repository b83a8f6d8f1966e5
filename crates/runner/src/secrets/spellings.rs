//! The ways in which a credential may be written.

use std::{collections::BTreeSet, fmt::Write as _};

use base64::{
    Engine, alphabet,
    engine::{GeneralPurpose, general_purpose::NO_PAD},
};
use serde_json::Value;

use super::{SHORTEST, names, shapes};

/// How many levels of JSON in JSON are examined.
const DEPTH: usize = 8;

/// Adds all spellings of a variable's value and of its parts.
pub(super) fn add(value: &str, all: &mut BTreeSet<String>) {
    spell(value.trim(), all);
    for password in shapes::passwords_of_urls(value) {
        spell(value.get(password).unwrap_or_default(), all);
    }
    if let Ok(json) = serde_json::from_str::<Value>(value) {
        fields(&json, false, DEPTH, all);
    }
    lines(value, all);
}

/// Adds the strings of a document whose names indicate a credential.
fn fields(json: &Value, named: bool, depth: usize, all: &mut BTreeSet<String>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    match json {
        Value::String(text) if named => {
            spell(text.trim(), all);
            lines(text, all);
        }
        Value::Array(items) => items.iter().for_each(|item| fields(item, named, depth, all)),
        Value::Object(map) => {
            for (name, item) in map {
                fields(item, names::indicates_a_credential(name), depth, all);
            }
        }
        _ => {}
    }
}

/// Adds the lines of a value that has several lines: tools print them one by one, and some are assignments themselves.
fn lines(value: &str, all: &mut BTreeSet<String>) {
    if value.trim().lines().nth(1).is_none() {
        return;
    }
    for line in value.lines() {
        spell(line.trim(), all);
        let field = line.split_once('=').or_else(|| line.split_once(": "));
        if let Some((_, text)) = field.filter(|(name, _)| names::indicates_a_credential(name)) {
            spell(text.trim().trim_matches(['"', '\'', ',']), all);
        }
    }
}

/// Adds the spellings of one text.
fn spell(text: &str, all: &mut BTreeSet<String>) {
    if text.chars().count() < SHORTEST {
        return;
    }
    let json = |text: &str, ascii: bool| escaped(text, ascii);
    let mut add = |text: String| {
        if text.len() >= SHORTEST {
            all.insert(text);
        }
    };
    for ascii in [false, true] {
        let once = json(text, ascii);
        add(json(&once, ascii));
        add(once.replace('/', "\\/"));
        add(once);
    }
    // As Python and Rust print a text within single quotes.
    add(text.replace('\\', "\\\\"));
    for kept in ["-._~", "-._~!'()*", "-._~/", "-._~:/?#[]@!$&'()*+,;="] {
        for upper in [true, false] {
            let encoded = percent(text, kept, upper);
            add(encoded.replace("%20", "+"));
            add(encoded);
        }
    }
    for alphabet in [&alphabet::STANDARD, &alphabet::URL_SAFE] {
        base64(text, &GeneralPurpose::new(alphabet, NO_PAD), &mut add);
    }
    add(text.to_owned());
}

/// The text between the quotes of a JSON string.
fn escaped(text: &str, ascii: bool) -> String {
    let quoted = serde_json::to_string(text).unwrap_or_default();
    let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default();
    if !ascii {
        return inner.to_owned();
    }
    let mut out = String::new();
    for c in inner.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

/// The text as part of a URL. Letters, digits and `kept` stay as they are.
fn percent(text: &str, kept: &str, upper: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || (c.is_ascii() && kept.contains(c)) {
            out.push(c);
        } else if upper {
            let _ = write!(out, "%{byte:02X}");
        } else {
            let _ = write!(out, "%{byte:02x}");
        }
    }
    out
}

/// The text in base64 at each of the three possible offsets, without the characters that depend on its neighbours.
fn base64(text: &str, engine: &GeneralPurpose, add: &mut impl FnMut(String)) {
    for (before, foreign) in [(&[][..], 0), (&[0], 2), (&[0, 0], 3)] {
        let bytes = [before, text.as_bytes()].concat();
        let encoded = engine.encode(&bytes);
        let known = bytes.len() / 3 * 4 + bytes.len() % 3;
        add(encoded.get(foreign..known).unwrap_or_default().to_owned());
    }
}
