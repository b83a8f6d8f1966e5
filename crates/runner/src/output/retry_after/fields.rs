//! Reads from fields when to try again: headers of a response, details of an error.

use jiff::{SignedDuration, Timestamp};

use super::{super::json::Json, date_and_time, duration, from_epoch};

/// How deep an error's fields are searched.
const DEPTH: usize = 8;

/// When a limit ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// At this time.
    At(Timestamp),
    /// After this duration.
    In(SignedDuration),
}

impl Reset {
    /// The time, if it is now `now`.
    pub fn at(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::At(at) => Some(at),
            Self::In(span) => now.checked_add(span).ok(),
        }
    }
}

/// The time that an error's fields name. A field about a retry takes precedence over the end of a rate-limit window. Of
/// several windows, the longest counts.
pub fn fields(error: Json) -> Option<Reset> {
    let mut found = ResetFields::default();
    found.search(error, DEPTH);
    found.retry.or(found.at).or(found.span)
}

#[derive(Default)]
struct ResetFields {
    retry: Option<Reset>,
    at: Option<Reset>,
    span: Option<Reset>,
}

impl ResetFields {
    fn search(&mut self, value: Json, depth: usize) {
        let Some(depth) = depth.checked_sub(1) else { return };
        value.entries(|key, value| {
            self.field(key, value);
            self.search(value, depth);
        });
        value.items(|value| self.search(value, depth));
    }

    fn field(&mut self, key: &str, value: Json) {
        if key.len() > 60 {
            return;
        }
        let key: String =
            key.chars().filter(|c| !matches!(c, '-' | '_')).map(|c| c.to_ascii_lowercase()).collect();
        let window = key.contains("ratelimit") && key.contains("reset");
        let (milliseconds, retry) = match key.as_str() {
            "retryafterms" | "retryaftermilliseconds" => (true, true),
            "retryafter" | "retryafterseconds" | "retrydelay" => (false, true),
            "resetsinms" => (true, false),
            "resetsat"
            | "resetat"
            | "resettime"
            | "resetsinseconds"
            | "resetinseconds"
            | "resetafterseconds"
            | "quotaresetdelay"
            | "quotaresettimestamp" => (false, false),
            _ if window => (false, false),
            _ => return,
        };
        let Some(reset) = read(value, milliseconds) else { return };
        let later = |one: Option<Reset>| match (one, reset) {
            (Some(Reset::At(one)), Reset::At(at)) => Some(Reset::At(one.max(at))),
            (Some(Reset::In(one)), Reset::In(span)) => Some(Reset::In(one.max(span))),
            _ => Some(reset),
        };
        match reset {
            _ if retry => self.retry = later(self.retry),
            Reset::At(_) => self.at = later(self.at),
            Reset::In(_) => self.span = later(self.span),
        }
    }
}

/// A number or a text: an epoch, seconds, `34s`, `6m0s`, a date.
fn read(value: Json, milliseconds: bool) -> Option<Reset> {
    let text = value.text().or_else(|| value.number().map(|number| number.to_string()))?;
    let text = text.trim().to_lowercase();
    let whole = text.split('.').next().and_then(|digits| digits.parse().ok());
    if let (Some(at), true) =
        (whole.and_then(from_epoch), text.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
    {
        return Some(Reset::At(at));
    }
    if milliseconds {
        let seconds = text.parse::<f64>().ok().filter(|ms| (0.0..1e11).contains(ms))? / 1000.0;
        return SignedDuration::try_from_secs_f64(seconds).ok().map(Reset::In);
    }
    // Seconds may amount to a week or more here; in prose, such a number would be no duration.
    if let Some(seconds) = text.parse::<f64>().ok().filter(|seconds| (0.0..1e8).contains(seconds)) {
        return SignedDuration::try_from_secs_f64(seconds).ok().map(Reset::In);
    }
    let date = || jiff::fmt::rfc2822::parse(&value.text()?).ok().map(|at| at.timestamp());
    let at = date_and_time(&text).or_else(date);
    at.map(Reset::At).or_else(|| duration(&text).map(Reset::In))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn named(error: &str, expected: &str) {
        let now = "2026-11-22T10:00:00Z".parse().expect("time");
        let reset = fields(Json::whole(error).expect("json")).and_then(|reset| reset.at(now));
        assert_eq!(reset.map(|at| at.to_string()).as_deref(), Some(expected), "{error}");
    }

    #[test]
    fn fields_of_errors_and_headers_name_a_time() {
        named(r#"{"resets_at":1795435200}"#, "2026-11-23T12:00:00Z");
        named(r#"{"error":{"resetsAt":1795435200000}}"#, "2026-11-23T12:00:00Z");
        named(r#"{"error":{"resets_in_seconds":"604800"}}"#, "2026-11-29T10:00:00Z");
        named(r#"{"error":{"details":[{"@type":"x","retryDelay":"34.5s"}]}}"#, "2026-11-22T10:00:34.5Z");
        named(r#"{"headers":{"retry-after":"90"}}"#, "2026-11-22T10:01:30Z");
        named(r#"{"headers":{"Retry-After":"Sun, 22 Nov 2026 12:00:00 GMT"}}"#, "2026-11-22T12:00:00Z");
        named(r#"{"headers":{"retry-after-ms":1500}}"#, "2026-11-22T10:00:01.5Z");
        named(
            r#"{"x-ratelimit-reset-requests":"1s","x-ratelimit-reset-tokens":"6m0s"}"#,
            "2026-11-22T10:06:00Z",
        );
        named(r#"{"anthropic-ratelimit-tokens-reset":"2026-11-22T11:00:00Z"}"#, "2026-11-22T11:00:00Z");
        named(r#"{"x-ratelimit-reset-tokens":"6m0s","retry-after":"5"}"#, "2026-11-22T10:00:05Z");
        assert_eq!(Json::whole(r#"{"retries":7,"reset":true,"resets_at":"soon"}"#).and_then(fields), None);
    }
}
