//! Gitignore patterns: read in bounded memory, matched with bounded work, and with the same result as in git.
#![no_main]

use std::cell::Cell;

use agentloop_fuzz::{gitignore, within};
use agentloop_runner::workspace::ignore::{Effort, IgnoreRules};
use libfuzzer_sys::fuzz_target;

// Patterns, then paths, one per line. The path of a folder ends with a slash.
fuzz_target!(|data: &[u8]| {
    let at = data.windows(2).position(|two| two == b"\0\n").unwrap_or(data.len());
    let (text, paths) = (&data[..at], data.get(at + 2..).unwrap_or(b"a\na/b\nb/a/"));
    let rules = within(text.len(), 512, 8192, || IgnoreRules::parse(b"", text));
    assert!(rules.bytes() <= 512 * text.len(), "{} bytes of {}", rules.bytes(), text.len());
    for path in paths.split(|byte| *byte == b'\n').take(8) {
        let folder = path.ends_with(b"/");
        let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        let path = names.join(&b'/');
        if path.is_empty() || path.contains(&0) {
            continue;
        }
        // A million steps each.
        let calls = Cell::new(0);
        let allow = || {
            calls.set(calls.get() + 1);
            true
        };
        let effort = Effort::while_allowed(&allow);
        let verdict = rules.verdict(&path, folder, &effort);
        assert!(calls.get() <= ((text.len() * path.len()) >> 20) + 4, "{} million steps", calls.get());
        if let Some(slow) = gitignore::verdict(text, &path, folder) {
            assert_eq!(verdict, slow, "{:?} for {:?}", text.escape_ascii(), path.escape_ascii());
        }
        // If it may not continue, nothing is ignored by accident.
        let refuse = || false;
        let never = Effort::while_allowed(&refuse);
        assert!([None, verdict].contains(&rules.verdict(&path, folder, &never)));
        let below = [b"x/", path.as_slice()].concat();
        let effort = Effort::while_allowed(&allow);
        assert_eq!(rules.verdict_below(b"x", &below, folder, &effort), verdict, "the same in another folder");
        assert_eq!(rules.verdict_below(b"y", &below, folder, &effort), None);
    }
});
