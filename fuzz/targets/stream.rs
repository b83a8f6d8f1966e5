//! An agent's output: read in the same way however it is cut, in bounded memory, and with no result that is not in it.
#![no_main]

use agentloop_contract::report::ProviderErrorKind;
use agentloop_runner::{
    completion_gate,
    output::{OutputCollector, OutputSummary, TAIL_BYTES},
};
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (length, data) =
        data.split_first().map_or((1, data), |(first, rest)| (usize::from(*first).max(1), rest));
    let now = Timestamp::from_second(1_795_341_600).expect("a time");
    let whole = agentloop_fuzz::within(data.len(), 256, 64 << 10, || read([data].into_iter(), now));
    assert_eq!(read(data.chunks(length), now), whole, "however the pipe cuts it");
    // Invalid UTF-8 becomes a character of three bytes.
    assert!(whole.text.len() <= 3 * TAIL_BYTES);
    if let Some(refused) = &whole.provider_error {
        assert!(whole.failed.is_some(), "only a failed turn is a refusal");
        assert!(refused.until.is_none_or(|at| at > now && refused.kind == ProviderErrorKind::RateLimited));
    }
    if let Some(usage) = &whole.usage {
        let counts = [usage.input_tokens, usage.cached_input_tokens, usage.output_tokens];
        assert!(counts.into_iter().flatten().all(|count| count >= 0), "{usage:?}");
        let cost = usage.cost_usd.as_deref().map(str::parse::<f64>);
        assert!(cost.is_none_or(|cost| cost.is_ok_and(|cost| cost >= 0.0)), "{usage:?}");
    }
    // Unless something is escaped, a gate in the output contains its tag literally.
    let text = String::from_utf8_lossy(data);
    if !text.contains(['\\', '\u{1b}']) && !text.contains("COMPLETION_GATE") {
        assert!(completion_gate::find(&whole.text).is_err(), "a gate was found without its tag");
    }
});

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>, now: Timestamp) -> OutputSummary {
    let mut output = OutputCollector::default();
    pieces.for_each(|piece| output.stdout(piece));
    output.summary(now)
}
