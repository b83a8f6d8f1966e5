//! Arithmetic on times and delays that come from outside: nothing here panics.

use jiff::{SignedDuration, Timestamp};

/// `time` plus `by`, or the last representable time. The plain operators panic if the sum is out of range.
pub(crate) fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.saturating_add(by).unwrap_or(time)
}

/// `time` in whole seconds, as everywhere in Kubernetes, rounded up so that nothing begins early.
pub(crate) fn whole_second(time: Timestamp) -> Timestamp {
    let seconds = time.as_second().saturating_add(i64::from(time.subsec_nanosecond() > 0));
    Timestamp::from_second(seconds).unwrap_or(time)
}

/// `min` seconds doubled `times` times, at most `max` seconds.
pub(crate) fn backed_off(min: i64, max: i64, times: i32) -> SignedDuration {
    let doublings = u32::try_from(times.clamp(0, 30)).unwrap_or(0);
    SignedDuration::from_secs(
        min.saturating_mul(1_i64.checked_shl(doublings).unwrap_or(i64::MAX)).min(max).max(0),
    )
}
