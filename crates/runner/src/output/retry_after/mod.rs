//! Reads from a provider's error when to try again.
//!
//! Wordings change with every release of an agent, so the parser is tolerant: it reads a time or a duration after a
//! word such as `resets` or `try again`. If it does not understand the text, there is no time, and the operator decides
//! how long to wait.

mod fields;
mod zone;

use jiff::{SignedDuration, Timestamp, civil, tz::TimeZone};

pub use self::fields::{Reset, fields};
use super::first_chars;

/// Words that precede a time, in lower case.
const WORDS: &[&str] = &[
    "resets_at",
    "resetsat",
    "resets_in_seconds",
    "retry-after",
    "retry after",
    "retry_after",
    "retryafter",
    "retrydelay",
    "retry in",
    "try again",
    "resets",
    "reset",
    "wait",
    "available",
    "limit reached|",
];

/// How long ago a time of day may be and still mean today.
const JUST_GONE: SignedDuration = SignedDuration::from_mins(15);

const DAYS: &[&str] = &["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// How many characters after such a word are read.
const WINDOW: usize = 100;

/// The time that an error names. A time of day means the next such time, in the zone that follows it, or else in UTC.
pub fn find(text: &str, now: Timestamp) -> Option<Timestamp> {
    let lower = text.to_lowercase();
    WORDS.iter().find_map(|word| {
        lower.match_indices(word).find_map(|(at, _)| {
            let rest = lower.get(at + word.len()..)?;
            after_word(first_chars(rest, WINDOW), now)
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
    let noise =
        |c: char| c.is_whitespace() || matches!(c, ':' | '=' | '"' | '\'' | '|' | '(' | '∙' | '·' | ',');
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
        .or_else(|| if relative { None } else { wall_clock(rest, now) })
}

/// `3pm (Asia/Tokyo)`, `nov 25, 3pm`, `tomorrow at 15:05 cet`, `thursday 9am`.
fn wall_clock(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Some(at) = month_day(text, now) {
        return Some(at);
    }
    let word = text.get(..text.bytes().take_while(u8::is_ascii_alphabetic).count())?;
    let weekday = DAYS.iter().position(|day| word.starts_with(day));
    let tomorrow = word == "tomorrow";
    let rest = match word {
        "today" | "tomorrow" => text.get(word.len()..)?,
        _ if weekday.is_some() => text.get(word.len()..)?,
        _ => text,
    };
    let rest = rest.trim_start_matches([' ', ',', '.']);
    let (time, rest) = clock(rest.strip_prefix("at ").unwrap_or(rest))?;
    let zone = zone::find(rest).unwrap_or(TimeZone::UTC);
    if weekday.is_none() && !tomorrow {
        return next(time, &zone, now);
    }
    let today = zone.to_datetime(now).date();
    (0..=7)
        .filter_map(|days| today.checked_add(jiff::Span::new().days(days)).ok().map(|date| (days, date)))
        .filter(|(days, date)| {
            let of_week = usize::try_from(date.weekday().to_monday_zero_offset()).ok();
            if tomorrow { *days == 1 } else { of_week == weekday }
        })
        .find_map(|(_, date)| at(date, time, &zone).filter(|at| *at > now))
}

/// The moment at which clocks in a zone show this date and time.
fn at(date: civil::Date, time: civil::Time, zone: &TimeZone) -> Option<Timestamp> {
    zone.to_timestamp(date.to_datetime(time)).ok()
}

/// `2026-11-22T15:00:00Z`, with a blank in place of the `T`, with or without a zone.
fn date_and_time(text: &str) -> Option<Timestamp> {
    let digit = |c: char| c.is_ascii_digit();
    let day = text.get(..10).filter(|day| day.starts_with(digit) && day.ends_with(digit))?;
    let date: civil::Date = day.parse().ok()?;
    let rest = text.get(10..)?;
    let rest = rest.strip_prefix(['t', ' ']).map(|rest| rest.strip_prefix("at ").unwrap_or(rest))?;
    let (time, rest) = clock(rest)?;
    at(date, time, &zone::find(rest).unwrap_or(TimeZone::UTC))
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

/// `3:05 pm`, `15:05:30.5`, `3pm`, `3 p.m.`, and the text after it.
fn clock(text: &str) -> Option<(civil::Time, &str)> {
    let (hour, rest) = number(text)?;
    let alone = !rest.starts_with(':');
    let (minute, rest) = match rest.strip_prefix(':') {
        Some(rest) => number(rest)?,
        None => (0, rest),
    };
    let (second, rest) = match rest.strip_prefix(':').filter(|_| !alone) {
        Some(rest) => number(rest)?,
        None => (0, rest),
    };
    let fraction =
        rest.strip_prefix('.').map_or("", |rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    let rest = if rest.starts_with('.') && fraction.len() + 1 < rest.len() { fraction } else { rest };
    let after = rest.trim_start_matches([' ', '\u{202f}', '\u{a0}']);
    let half = [("p.m.", true), ("a.m.", false), ("pm", true), ("am", false)]
        .into_iter()
        .find_map(|(word, pm)| Some((after.strip_prefix(word)?, pm)))
        .filter(|(rest, _)| !rest.starts_with(|c: char| c.is_alphanumeric()));
    let (hour, rest) = match half {
        Some((rest, true)) if (1..12).contains(&hour) => (hour + 12, rest),
        Some((rest, false)) if hour == 12 => (0, rest),
        Some((rest, _)) => (hour, rest),
        // A single number is no time of day.
        None if alone => return None,
        None => (hour, rest),
    };
    Some((civil::Time::new(hour, minute, second, 0).ok()?, rest))
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
    let today = TimeZone::UTC.to_datetime(now).date();
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (year, rest) = if digits == 4 {
        let (year, rest) = rest.split_at_checked(4)?;
        (year.parse().ok()?, rest.trim_start_matches([',', ' ']))
    } else {
        (today.year(), rest)
    };
    let (time, rest) = clock(rest.strip_prefix("at ").unwrap_or(rest))?;
    let zone = zone::find(rest).unwrap_or(TimeZone::UTC);
    let date = |year| civil::Date::new(year, i8::try_from(month + 1).ok()?, day).ok();
    let named = at(date(year)?, time, &zone)?;
    if named <= now && digits != 4 && now.duration_since(named) >= JUST_GONE {
        return at(date(year.checked_add(1)?)?, time, &zone);
    }
    Some(named)
}

/// The next moment at which clocks in a zone show this time. Providers omit seconds, and clocks differ: a time that has
/// just passed gives no result, and does not mean tomorrow.
fn next(time: civil::Time, zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
    let today = zone.to_datetime(now).date();
    [today.yesterday().ok()?, today, today.tomorrow().ok()?]
        .into_iter()
        .filter_map(|date| at(date, time, zone))
        .find(|at| *at > now || now.duration_since(*at) < JUST_GONE)
        .filter(|at| *at > now)
}

/// A number of one or two digits, and the text after it.
fn number(text: &str) -> Option<(i8, &str)> {
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at_checked(length)?;
    (length <= 2).then(|| digits.parse().ok()).flatten().map(|number| (number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn names(text: &str, expected: &str) {
        let now = "2026-11-22T10:00:00Z".parse().expect("time");
        assert_eq!(find(text, now).map(|at| at.to_string()).as_deref(), Some(expected), "{text}");
    }

    #[test]
    fn durations_count_from_now() {
        names("Please try again in 20s.", "2026-11-22T10:00:20Z");
        names("try again in 1.5 seconds", "2026-11-22T10:00:01.5Z");
        names("Try again in 32 minutes.", "2026-11-22T10:32:00Z");
        names("try again in 3 days 4 hours 5 minutes.", "2026-11-25T14:05:00Z");
        names("try again in 1 hour and 2 minutes", "2026-11-22T11:02:00Z");
        names("429, retry-after: 30", "2026-11-22T10:00:30Z");
        names("Retry after 90 seconds", "2026-11-22T10:01:30Z");
        names("{\"resets_in_seconds\": 3600}", "2026-11-22T11:00:00Z");
        names("resets in 2h15m", "2026-11-22T12:15:00Z");
        names("please wait for 5 minutes", "2026-11-22T10:05:00Z");
    }

    #[test]
    fn absolute_times_are_taken_as_they_are() {
        names("{\"resets_at\": 1795435200}", "2026-11-23T12:00:00Z");
        names("Claude AI usage limit reached|1795435200", "2026-11-23T12:00:00Z");
        names("resetsAt: 1795435200000", "2026-11-23T12:00:00Z");
        names("resets_at=2026-11-22T15:00:00Z.", "2026-11-22T15:00:00Z");
        names("try again at 2026-11-22 15:00:00", "2026-11-22T15:00:00Z");
        names("try again at Nov 25th, 2026 3:05 PM.", "2026-11-25T15:05:00Z");
        names("resets Jan 3, 9am (UTC)", "2027-01-03T09:00:00Z");
    }

    #[test]
    fn a_time_of_day_is_the_next_one_in_utc() {
        names("You've hit your usage limit. Try again at 3:05 PM.", "2026-11-22T15:05:00Z");
        names("5-hour limit reached ∙ resets 3am", "2026-11-23T03:00:00Z");
        names("You've hit your limit · resets 12pm (UTC)", "2026-11-22T12:00:00Z");
        names("resets 09:30", "2026-11-23T09:30:00Z");
    }

    /// Codex omits the seconds, so an agent that tries again at that time gets the same minute again.
    #[test]
    fn a_time_of_day_that_has_just_passed_does_not_mean_tomorrow() {
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
    fn a_zone_after_a_time_applies_to_that_time() {
        names("You have hit your limit · resets 8pm (Asia/Tokyo)", "2026-11-22T11:00:00Z");
        names("resets 7am (America/New_York)", "2026-11-22T12:00:00Z");
        names("resets 4:30pm (Asia/Kolkata)", "2026-11-22T11:00:00Z");
        names("try again at 3:05 PM PST", "2026-11-22T23:05:00Z");
        names("try again at 3:05 p.m. PT.", "2026-11-22T23:05:00Z");
        names("resets 14:00 CET", "2026-11-22T13:00:00Z");
        names("resets 14:00:30 UTC+9", "2026-11-23T05:00:30Z");
        names("resets 14:00 (GMT-05:30)", "2026-11-22T19:30:00Z");
        names("resets at 14:00+02:00", "2026-11-22T12:00:00Z");
        names("resets Nov 25, 3am (Europe/Berlin)", "2026-11-25T02:00:00Z");
        names("try again at Nov 25th, 2026 3:05 PM EST", "2026-11-25T20:05:00Z");
        names("try again at 2026-11-22 21:00:00 Asia/Tokyo", "2026-11-22T12:00:00Z");
        names("resets_at: 2026-11-22T21:00:00+09:00", "2026-11-22T12:00:00Z");
        names("resets tomorrow at 9am (Europe/London)", "2026-11-23T09:00:00Z");
        names("resets Thursday 9am (Asia/Tokyo)", "2026-11-26T00:00:00Z");
        names("resets 11am and then again", "2026-11-22T11:00:00Z");
        names("resets 3pm (somewhere/else)", "2026-11-22T15:00:00Z");
    }

    #[test]
    fn daylight_saving_time_is_that_of_the_day() {
        let at = |text: &str, now: &str| find(text, now.parse().expect("time")).map(|at| at.to_string());
        let berlin = "resets 3pm (Europe/Berlin)";
        assert_eq!(at(berlin, "2026-07-01T10:00:00Z").as_deref(), Some("2026-07-01T13:00:00Z"));
        assert_eq!(at(berlin, "2026-12-01T10:00:00Z").as_deref(), Some("2026-12-01T14:00:00Z"));
        // The clocks go back in the night between now and then.
        assert_eq!(
            at("resets 7am (America/New_York)", "2026-11-01T02:00:00Z").as_deref(),
            Some("2026-11-01T12:00:00Z")
        );
    }

    #[test]
    fn text_that_is_not_understood_gives_no_time() {
        let now = "2026-11-22T10:00:00Z".parse().expect("time");
        for text in
            ["try again later", "resets soon", "the limit of 5", "reset to 7 by you", "wait at the 3rd", ""]
        {
            assert_eq!(find(text, now), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(try again|resets|retry-after) ?(in|at|:)? ?\\PC{0,40}") {
            let _ = find(&text, Timestamp::UNIX_EPOCH);
            let _ = find(&text, Timestamp::MAX);
        }
    }
}
