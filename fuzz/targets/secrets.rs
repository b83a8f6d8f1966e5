//! Masking: a credential is always masked, whatever surrounds it, and the output stays bounded.
#![no_main]

use agentloop_runner::secrets::{MASK, Secrets};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    // The value of a variable, then the output.
    let (secret, text) = text.split_once('\0').unwrap_or(("swordfish", &text));
    let all = Secrets::of([("A_TOKEN".into(), secret.into())]);
    let masked = agentloop_fuzz::within(text.len(), 64, 8192, || all.mask(text));
    assert!(masked.len() <= MASK.len() * text.len(), "{} bytes from {}", masked.len(), text.len());
    let value = secret.trim();
    // The path of an existing file is not masked.
    if value.chars().count() >= 8 && !value.starts_with('/') && !value.contains('*') {
        for text in
            [masked, all.mask(&format!("{text}{value}{text}")), all.mask_tail(&format!("{value}{text}"))]
        {
            assert!(!text.contains(value), "{value:?} in {text:?}");
        }
        // Also if a tail begins within it.
        let half: String = value.chars().skip(1).collect();
        assert!(half.len() < 8 || !all.mask_tail(&format!("{half} {text}")).starts_with(&half), "{half:?}");
    }
});
