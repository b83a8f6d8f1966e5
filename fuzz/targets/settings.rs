//! The operator's configuration: accepted as a whole with every value in its range, or refused by the key's name.
#![no_main]

use std::collections::BTreeMap;

use agentloop_core::settings::{Configuration, Settings};
use libfuzzer_sys::fuzz_target;

const WEEK: i64 = 604_800;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let data: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let before = Settings::default();
    let read = agentloop_fuzz::within(text.len(), 64, 64 << 10, || Configuration::read(&data, None, &before));
    match &read.newest {
        Ok(settings) => {
            in_range(settings);
            assert_eq!(*settings, read.last_valid);
            let again = Configuration::read(&data, None, settings);
            assert_eq!(again.newest.as_ref(), Ok(settings), "the previous settings do not matter");
        }
        Err(refused) => {
            assert_eq!(read.last_valid, before, "a refused change changes nothing");
            assert!(!refused.0.is_empty());
            for problem in &refused.0 {
                let names = |key: &String| canonical(problem).contains(&canonical(&start_of(key)));
                assert!(data.keys().any(names), "{problem:?} names no key of {data:?}");
            }
        }
    }
    let (paused, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
        data.into_iter().partition(|(key, _)| key.replace('_', "").eq_ignore_ascii_case("paused"));
    let plainly_false = |word: &String| word.trim().eq_ignore_ascii_case("false");
    assert_eq!(read.paused, !paused.values().all(plainly_false), "one bad key never lifts a pause");
    assert!(!Configuration::read(&others, None, &before).paused, "nothing else pauses");
});

/// The part of a key that a problem must show: up to the first control character, and at most 39 characters.
fn start_of(key: &str) -> String {
    key.chars().take_while(|c| !c.is_control()).take(39).collect()
}

/// Case and underscores do not matter in a key.
fn canonical(text: &str) -> String {
    text.to_lowercase().replace('_', "")
}

fn in_range(settings: &Settings) {
    let Settings { default_max_iterations, hard_limit, no_change_threshold, same_error_threshold, .. } =
        settings;
    for count in [default_max_iterations, hard_limit, no_change_threshold, same_error_threshold] {
        assert!((1..=10_000).contains(&count.value), "{settings:?}");
    }
    assert!(default_max_iterations.value <= hard_limit.value, "{settings:?}");
    let seconds = [
        (1, settings.iteration_timeout_seconds.value.into()),
        (1, settings.start_retry_min_seconds),
        (settings.start_retry_min_seconds, settings.start_retry_max_seconds),
        (1, settings.rate_limit_min_seconds),
        (settings.rate_limit_min_seconds, settings.rate_limit_max_seconds),
        (0, settings.sidecar_grace_seconds),
    ];
    assert!((0..=10_000).contains(&settings.free_attempts), "{settings:?}");
    for (min, value) in seconds {
        assert!((min..=WEEK).contains(&value), "{settings:?}");
    }
}
