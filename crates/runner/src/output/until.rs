//! When a provider says to come back, from the words of its refusal.
//!
//! Wordings change with every release of an agent, so this is tolerant: a time or a duration after a word such as
//! `resets` or `try again`. What is not understood is no time, and the operator waits by its own rule.

use jiff::{SignedDuration, Timestamp, civil, tz::TimeZone};

/// Words that a time follows, in lower case.
const WORDS: &[&str] = &[
    "resets_at",
    "resetsat",
    "resets_in_seconds",
    "retry-after",
    "retry after",
    "retry_after",
    "retryafter",
    "try again",
    "resets",
    "reset",
    "wait",
    "available",
    "limit reached|",
];

/// How long a time of day is still meant that has passed.
const JUST_GONE: SignedDuration = SignedDuration::from_mins(15);

/// The time that a refusal names. Times of day without a zone are taken as UTC, the next one to come.
pub fn find(words: &str, now: Timestamp) -> Option<Timestamp> {
    let lower = words.to_lowercase();
    WORDS.iter().find_map(|word| {
        lower.match_indices(word).find_map(|(at, _)| {
            let rest = lower.get(at + word.len()..)?;
            after_word(rest.get(..rest.char_indices().nth(60).map_or(rest.len(), |(i, _)| i))?, now)
        })
    })
}

/// Seconds or milliseconds since 1970.
pub fn from_epoch(number: i64) -> Option<Timestamp> {
    match number {
        1_000_000_000..100_000_000_000 => Timestamp::from_second(number).ok(),
        1_000_000_000_000..100_000_000_000_000 => Timestamp::from_millisecond(number).ok(),
        _ => None,
    }
}

/// What follows such a word: `in 5 minutes`, `at 3:05 pm`, `: 30`, `1763830800`, `2026-11-22T15:00:00Z`.
fn after_word(rest: &str, now: Timestamp) -> Option<Timestamp> {
    let noise = |c: char| c.is_whitespace() || matches!(c, ':' | '=' | '"' | '\'' | '|' | '(' | '∙' | '·');
    let mut rest = rest.trim_start_matches(noise);
    let mut relative = false;
    for filler in ["after", "for", "in", "at", "on"] {
        if let Some(after) = rest.strip_prefix(filler).filter(|after| after.starts_with([' ', ':', '_'])) {
            relative = matches!(filler, "in" | "for" | "after");
            rest = after.trim_start_matches(noise);
            break;
        }
    }
    let rest = rest.strip_prefix("about ").unwrap_or(rest);
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    if let Some(at) = rest.get(..digits).and_then(|d| d.parse().ok()).and_then(from_epoch) {
        return Some(at);
    }
    date_and_time(rest)
        .or_else(|| duration(rest).and_then(|span| now.checked_add(span).ok()))
        .or_else(|| if relative { None } else { month_day(rest, now).or_else(|| next(clock(rest)?, now)) })
}

/// `2026-11-22T15:00:00Z`, with a blank in place of the `T`, with or without a zone.
fn date_and_time(text: &str) -> Option<Timestamp> {
    let end = |c: char| !(c.is_ascii_digit() || matches!(c, '-' | ':' | '.' | 't' | 'z' | '+' | ' '));
    let text = text.get(..text.find(end).unwrap_or(text.len()))?.trim_end_matches(['.', ' ', '-']);
    let text = text.trim().to_uppercase().replacen(' ', "T", 1).replace(' ', "");
    if let Ok(at) = text.parse() {
        return Some(at);
    }
    let at: civil::DateTime = text.trim_end_matches('Z').parse().ok()?;
    text.contains('T').then(|| at.to_zoned(TimeZone::UTC).ok()).flatten().map(|at| at.timestamp())
}

/// `1h 30m`, `32 minutes`, `1.5s`, `3 days 4 hours`, or bare seconds up to a day.
fn duration(text: &str) -> Option<SignedDuration> {
    let mut rest = text;
    let mut total = 0.0;
    let mut any = false;
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        rest = rest.strip_prefix("and ").unwrap_or(rest);
        let length = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, after) = rest.split_at_checked(length)?;
        let Ok(number) = number.trim_end_matches('.').parse::<f64>() else { break };
        let unit_text = after.trim_start();
        let unit_length = unit_text.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after_unit) = unit_text.split_at_checked(unit_length)?;
        let seconds = match unit {
            "ms" | "milliseconds" => 0.001,
            "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
            "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3600.0,
            "d" | "day" | "days" => 86_400.0,
            "" if !any && number <= 86_400.0 && !after.starts_with([':', '-', '/']) => 1.0,
            _ => break,
        };
        any = true;
        total += number * seconds;
        rest = after_unit;
    }
    (any && total.is_finite() && total < 1e8).then(|| SignedDuration::try_from_secs_f64(total).ok()).flatten()
}

/// `3:05 pm`, `15:05`, `3pm`.
fn clock(text: &str) -> Option<civil::Time> {
    let (hour, rest) = number(text)?;
    let (minute, rest) = match rest.strip_prefix(':') {
        Some(rest) => number(rest)?,
        None => (0, rest),
    };
    let rest = rest.trim_start();
    let hour = match rest.get(..2) {
        Some("pm") if (1..12).contains(&hour) => hour + 12,
        Some("am") if hour == 12 => 0,
        Some("am" | "pm") => hour,
        // A lone number is no time of day.
        _ if text.len() > rest.len() && text.contains(':') => hour,
        _ => return None,
    };
    civil::Time::new(hour, minute, 0, 0).ok()
}

/// `nov 25th, 2026 3:05 pm`, `nov 25, 3pm`.
fn month_day(text: &str, now: Timestamp) -> Option<Timestamp> {
    const MONTHS: &[&str] =
        &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let month = MONTHS.iter().position(|month| text.starts_with(month))?;
    let rest = text.trim_start_matches(|c: char| c.is_ascii_alphabetic()).trim_start_matches(['.', ' ']);
    let (day, rest) = number(rest)?;
    let rest = ["st", "nd", "rd", "th"].iter().find_map(|suffix| rest.strip_prefix(suffix)).unwrap_or(rest);
    let rest = rest.trim_start_matches([',', ' ']);
    let today = now.to_zoned(TimeZone::UTC).date();
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (year, rest) = if digits == 4 {
        let (year, rest) = rest.split_at_checked(4)?;
        (year.parse().ok()?, rest.trim_start_matches([',', ' ']))
    } else {
        (today.year(), rest)
    };
    let time = clock(rest.strip_prefix("at ").unwrap_or(rest))?;
    let date = civil::Date::new(year, i8::try_from(month + 1).ok()?, day).ok()?;
    let at = date.to_datetime(time).to_zoned(TimeZone::UTC).ok()?.timestamp();
    if at <= now && digits != 4 {
        let next = civil::Date::new(year + 1, date.month(), date.day()).ok()?;
        return Some(next.to_datetime(time).to_zoned(TimeZone::UTC).ok()?.timestamp());
    }
    Some(at)
}

/// The next time that a clock in UTC shows this. Seconds are not told, and clocks differ: a time that is only just gone
/// is none, and not tomorrow's.
fn next(time: civil::Time, now: Timestamp) -> Option<Timestamp> {
    let today = now.to_zoned(TimeZone::UTC).date();
    [today.yesterday().ok()?, today, today.tomorrow().ok()?]
        .into_iter()
        .filter_map(|date| Some(date.to_datetime(time).to_zoned(TimeZone::UTC).ok()?.timestamp()))
        .find(|at| *at > now || now.duration_since(*at) < JUST_GONE)
        .filter(|at| *at > now)
}

/// A number of one or two digits, and what follows it.
fn number(text: &str) -> Option<(i8, &str)> {
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at_checked(length)?;
    (length <= 2).then(|| digits.parse().ok()).flatten().map(|number| (number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn told(words: &str, expected: &str) {
        let now = "2026-11-22T10:00:00Z".parse().expect("time");
        assert_eq!(find(words, now).map(|at| at.to_string()).as_deref(), Some(expected), "{words}");
    }

    #[test]
    fn durations_count_from_now() {
        told("Please try again in 20s.", "2026-11-22T10:00:20Z");
        told("try again in 1.5 seconds", "2026-11-22T10:00:01.5Z");
        told("Try again in 32 minutes.", "2026-11-22T10:32:00Z");
        told("try again in 3 days 4 hours 5 minutes.", "2026-11-25T14:05:00Z");
        told("try again in 1 hour and 2 minutes", "2026-11-22T11:02:00Z");
        told("429, retry-after: 30", "2026-11-22T10:00:30Z");
        told("Retry after 90 seconds", "2026-11-22T10:01:30Z");
        told("{\"resets_in_seconds\": 3600}", "2026-11-22T11:00:00Z");
        told("resets in 2h15m", "2026-11-22T12:15:00Z");
        told("please wait for 5 minutes", "2026-11-22T10:05:00Z");
    }

    #[test]
    fn times_are_taken_as_they_stand() {
        told("{\"resets_at\": 1795435200}", "2026-11-23T12:00:00Z");
        told("Claude AI usage limit reached|1795435200", "2026-11-23T12:00:00Z");
        told("resetsAt: 1795435200000", "2026-11-23T12:00:00Z");
        told("resets_at=2026-11-22T15:00:00Z.", "2026-11-22T15:00:00Z");
        told("try again at 2026-11-22 15:00:00", "2026-11-22T15:00:00Z");
        told("try again at Nov 25th, 2026 3:05 PM.", "2026-11-25T15:05:00Z");
        told("resets Jan 3, 9am (UTC)", "2027-01-03T09:00:00Z");
    }

    #[test]
    fn a_time_of_day_is_the_next_one_in_utc() {
        told("You've hit your usage limit. Try again at 3:05 PM.", "2026-11-22T15:05:00Z");
        told("5-hour limit reached ∙ resets 3am", "2026-11-23T03:00:00Z");
        told("You've hit your limit · resets 12pm (UTC)", "2026-11-22T12:00:00Z");
        told("resets 09:30", "2026-11-23T09:30:00Z");
    }

    /// Codex cuts the seconds off, so that who comes back then hears the same minute again.
    #[test]
    fn a_time_of_day_that_is_only_just_gone_is_not_tomorrows() {
        let at = |now: &str| {
            let now = now.parse().expect("time");
            find("You’ve hit your usage limit. Try again at 8:31 PM.", now).map(|at| at.to_string())
        };
        assert_eq!(at("2026-11-22T20:30:59Z").as_deref(), Some("2026-11-22T20:31:00Z"));
        assert_eq!(at("2026-11-22T20:31:00Z"), None);
        assert_eq!(at("2026-11-22T20:45:59Z"), None);
        assert_eq!(at("2026-11-22T20:46:00Z").as_deref(), Some("2026-11-23T20:31:00Z"));
        let midnight = find("resets 23:59", "2026-11-23T00:00:30Z".parse().expect("time"));
        assert_eq!(midnight, None);
    }

    #[test]
    fn what_is_not_understood_is_no_time() {
        let now = "2026-11-22T10:00:00Z".parse().expect("time");
        for words in
            ["try again later", "resets soon", "the limit of 5", "reset to 7 by you", "wait at the 3rd", ""]
        {
            assert_eq!(find(words, now), None, "{words}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_words_make_it_panic(words in "(try again|resets|retry-after) ?(in|at|:)? ?\\PC{0,40}") {
            let _ = find(&words, Timestamp::UNIX_EPOCH);
            let _ = find(&words, Timestamp::MAX);
        }
    }
}
