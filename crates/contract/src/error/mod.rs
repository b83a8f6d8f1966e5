//! Whether two errors are the same error.
//!
//! An agent that is stuck prints the same error with a different time, id or path each time. The signature leaves such
//! volatile parts out, so that errors that a person would call the same count as the same. It leaves out as little as
//! possible: two different errors must stay different.

mod volatile;

use sha2::{Digest, Sha256};

use crate::{hex, text::cut};

/// The signature covers this many characters of a text.
const SIGNATURE_CHARS: usize = 2000;
/// Maximum characters of a summary.
const SUMMARY_CHARS: usize = 200;

/// Sixteen hex digits that are equal for texts that differ only in times, addresses, URLs, ids, durations, line numbers
/// and paths below a temporary folder.
pub fn signature(text: &str) -> String {
    sign(&normalise(text))
}

/// The signature of several errors together, in any order. For a single error it equals that of [`signature`].
pub fn signature_of_all<'a>(errors: impl IntoIterator<Item = &'a str>) -> String {
    let mut all: Vec<String> = errors.into_iter().map(normalise).collect();
    all.sort();
    all.dedup();
    sign(&all.join("\n"))
}

fn sign(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()).get(..8).unwrap_or_default())
}

/// The text without its volatile parts.
pub fn normalise(text: &str) -> String {
    volatile::replace(cut(text, SIGNATURE_CHARS)).trim().to_lowercase()
}

/// The first line that is not blank, without control characters, at most 200 characters.
pub fn summary(text: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    cut(line, SUMMARY_CHARS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn same(a: &str, b: &str) {
        assert_eq!(normalise(a), normalise(b));
        assert_eq!(signature(a), signature(b));
    }

    #[track_caller]
    fn different(a: &str, b: &str) {
        assert_ne!(signature(a), signature(b), "both read as {:?}", normalise(a));
    }

    #[test]
    fn every_pattern_compiles() {
        assert_eq!(volatile::patterns(), 17);
    }

    #[test]
    fn the_same_error_at_another_time_is_the_same_error() {
        same("2026-11-22T10:00:00Z timeout", "2026-11-23 11:01:02.123 UTC timeout");
        same("failed after 3.2s", "failed after 41 seconds");
        same("at 10:15:03 the build broke", "at 23:59 the build broke");
    }

    #[test]
    fn ids_urls_addresses_and_temporary_paths_do_not_make_a_different_error() {
        same(
            "401 Unauthorized, url: https://api.example/v1/responses, request id: req_011CaB3",
            "401 Unauthorized, url: http://127.0.0.1:8080/v1/x, request id: req_77Zb9",
        );
        same("connect 10.0.0.1:443 refused", "connect 10.200.7.9:6443 refused");
        same("cannot open /tmp/build-8fa2/out.o", "cannot open /tmp/xyz/other.o");
        same("commit 1a2b3c4 not found", "commit 9f8e7d6c5 not found");
        same(
            "pod 7c9e6679-7425-40de-944b-e07fc1f90ae7 gone",
            "pod 16fd2706-8baf-433b-82eb-8c7fada847da gone",
        );
        same("src/lib.rs:10:5: expected `;`", "src/lib.rs:214:17: expected `;`");
        same("panicked at line 3", "panicked at line 99");
        same("segfault at 0xdeadbeef", "segfault at 0x10");
    }

    #[test]
    fn a_different_test_file_or_count_is_a_different_error() {
        different("tests::resume fails", "tests::suspend fails");
        different("src/lib.rs:1: expected `;`", "src/main.rs:1: expected `;`");
        different("2 tests fail", "3 tests fail");
        different("exit code 1", "exit code 2");
        different("HTTP 401", "HTTP 429");
    }

    #[test]
    fn a_summary_is_one_clean_line() {
        assert_eq!(summary("\n\n  first\u{7} line \nsecond"), "first  line");
        assert_eq!(summary(&"x".repeat(300)).chars().count(), 200);
    }
}
