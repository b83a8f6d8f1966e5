//! Whether two errors are the same: bounded, and independent of what is volatile.
#![no_main]

use agentloop_contract::{
    error::{normalise, signature, summary},
    text::cut,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let own = signature(&text);
    assert!(own.len() == 16 && own.bytes().all(|byte| byte.is_ascii_hexdigit()), "{own}");
    // Placeholders are at most five times as long as what they replace.
    let normal = normalise(&text);
    assert!(normal.len() <= 5 * text.len().min(8000) + 16, "{} bytes: {normal:?}", normal.len());
    assert_eq!(normal, normal.trim());
    let line = summary(&text);
    assert!(line.chars().count() <= 200 && !line.contains(char::is_control), "{line:?}");
    assert_eq!(summary(&line), line.trim(), "the summary of a summary is the same");
    for chars in [1, 7, 200] {
        let short = cut(&text, chars);
        assert!(short.chars().count() <= chars);
        assert_eq!(cut(&short, chars), short);
    }
    // A short text with something volatile after it is always the same error.
    let text: String = text.chars().take(60).collect();
    let with = |end: &str| signature(&format!("{text}\n {end}"));
    assert_eq!(with("2026-11-22T10:00:00Z x"), with("1999-01-02 03:04:05.678 UTC x"));
    assert_eq!(with("https://a.example/1 x"), with("http://127.0.0.1:8080/v1/b?c=2 x"));
    assert_eq!(with("/tmp/a1/b x"), with("/tmp/z x"));
    assert_ne!(with("two apples"), with("three pears"));
});
