//! Reads the zone after a time.

use jiff::tz::{Offset, TimeZone};

/// Abbreviations in lower case, and their offsets from UTC in minutes. Ambiguous ones have the meaning that is usual in
/// English texts.
const ABBREVIATIONS: &[(&str, i32)] = &[
    ("z", 0),
    ("utc", 0),
    ("gmt", 0),
    ("wet", 0),
    ("west", 60),
    ("bst", 60),
    ("cet", 60),
    ("mez", 60),
    ("cest", 120),
    ("mesz", 120),
    ("sast", 120),
    ("cat", 120),
    ("wat", 60),
    ("eat", 180),
    ("eet", 120),
    ("eest", 180),
    ("trt", 180),
    ("msk", 180),
    ("gst", 240),
    ("pkt", 300),
    ("ist", 330),
    ("ict", 420),
    ("wib", 420),
    ("sgt", 480),
    ("hkt", 480),
    ("myt", 480),
    ("awst", 480),
    ("jst", 540),
    ("kst", 540),
    ("acst", 570),
    ("acdt", 630),
    ("aest", 600),
    ("aedt", 660),
    ("nzst", 720),
    ("nzdt", 780),
    ("nst", -210),
    ("ndt", -150),
    ("ast", -240),
    ("adt", -180),
    ("brt", -180),
    ("art", -180),
    ("clt", -240),
    ("clst", -180),
    ("est", -300),
    ("edt", -240),
    ("cst", -360),
    ("cdt", -300),
    ("mst", -420),
    ("mdt", -360),
    ("pst", -480),
    ("pdt", -420),
    ("akst", -540),
    ("akdt", -480),
    ("hst", -600),
];

/// Names of zones that have daylight saving time, in lower case.
const NAMES: &[(&str, &str)] = &[
    ("pt", "America/Los_Angeles"),
    ("pacific", "America/Los_Angeles"),
    ("mt", "America/Denver"),
    ("mountain", "America/Denver"),
    ("ct", "America/Chicago"),
    ("central", "America/Chicago"),
    ("et", "America/New_York"),
    ("eastern", "America/New_York"),
];

/// The zone at the beginning of a text: `(Asia/Tokyo)`, `CET`, `UTC+9`, `+02:00`.
pub(super) fn find(text: &str) -> Option<TimeZone> {
    let text = text.trim_start_matches([' ', ',', '(', '[']);
    if text.starts_with(['+', '-', '−']) {
        return offset(text);
    }
    let end = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '+'));
    let name = text.get(..text.find(end).unwrap_or(text.len()))?.trim_end_matches(['-', '+', '/']);
    let letters = name.bytes().take_while(u8::is_ascii_alphabetic).count();
    let (word, rest) = name.split_at_checked(letters)?;
    if matches!(word, "utc" | "gmt") && rest.starts_with(['+', '-']) {
        return offset(text.get(letters..)?);
    }
    if let Some((_, minutes)) = ABBREVIATIONS.iter().find(|(known, _)| *known == name) {
        return fixed(*minutes);
    }
    let name = NAMES.iter().find(|(known, _)| *known == name).map_or(name, |(_, name)| name);
    // The database accepts names in any case, and two letters are more likely an ordinary word.
    (name.len() > 2).then(|| jiff::tz::db().get(name).ok()).flatten()
}

/// `+02:00`, `+0200`, `+2`.
fn offset(text: &str) -> Option<TimeZone> {
    let sign = if text.starts_with('+') { 1 } else { -1 };
    let rest = text.trim_start_matches(['+', '-', '−']);
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = rest.split_at_checked(digits)?;
    let (hours, minutes) = match (digits, rest.strip_prefix(':').and_then(|rest| rest.get(..2))) {
        (1 | 2, Some(minutes)) => (number, minutes),
        (1 | 2, None) => (number, "0"),
        (3 | 4, _) => number.split_at_checked(digits - 2)?,
        _ => return None,
    };
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours <= 14 && minutes < 60).then(|| fixed(sign * (60 * hours + minutes))).flatten()
}

fn fixed(minutes: i32) -> Option<TimeZone> {
    Offset::from_seconds(60 * minutes).ok().map(TimeZone::fixed)
}
