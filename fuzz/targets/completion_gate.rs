//! The completion gate: an agent's text is never ready unless a block says so.
#![no_main]

use agentloop_contract::completion_gate::{CLOSE, OPEN};
use agentloop_runner::completion_gate::find;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let found = agentloop_fuzz::within(text.len(), 64, 8192, || find(&text));
    if let Ok(gate) = &found {
        assert!(a_block_says(&text, if gate.ready { "true" } else { "false" }), "{gate:?} from {text:?}");
        let length: usize =
            gate.blockers.iter().chain(&gate.reason).chain(&gate.progress).map(String::len).sum();
        assert!(length <= 2 * text.len(), "{length} bytes from {}", text.len());
    }
    // The last block that begins decides, whatever precedes it.
    assert!(find(&format!("{text}\n{OPEN}\nready: true\n")).is_err(), "an unclosed block is no gate");
    let revoked = find(&format!("{text}\n{OPEN}\nready: false\n{CLOSE}\n"));
    assert!(!revoked.is_ok_and(|gate| gate.ready), "the last block says false");
    // A fence around the text makes it a quotation, unless the text can close the fence.
    if !text.contains(['`', '~']) {
        assert!(find(&format!("~~~\n{text}\n~~~\nThat is the format.\n")).is_err(), "a quotation is no gate");
    }
});

/// Whether a line begins a block that contains this word after `ready`. This is less strict than any grammar of a gate.
fn a_block_says(text: &str, word: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let (open, close) = (OPEN.to_ascii_lowercase(), CLOSE.to_ascii_lowercase());
    let mut at = 0;
    lower.split_inclusive('\n').any(|line| {
        let begin = at;
        at += line.len();
        if !line.trim_start().starts_with(&open) {
            return false;
        }
        let rest = &lower[begin..];
        let block = rest.find(&close).map_or("", |end| &rest[..end]);
        // A closing tag in the middle of a line ends nothing, so the block may extend to the last one.
        let block = rest.rfind(&close).map_or(block, |end| &rest[..end]);
        block.find("ready").is_some_and(|ready| block[ready..].contains(word))
    })
}
