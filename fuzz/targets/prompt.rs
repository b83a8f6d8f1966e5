//! The prompt: the user's text unchanged, a bounded section after it, and no gate that could be echoed.
#![no_main]

use agentloop_contract::context::{LoopContext, Policy};
use agentloop_runner::{completion_gate, inputs, prompt};
use libfuzzer_sys::fuzz_target;

// The first line is the context; the rest is the user's prompt.
fuzz_target!(|data: &[u8]| {
    let (context, user) = match data.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &b""[..]),
    };
    let Ok(context) = inputs::decode(context) else { return };
    let uid = &context.task.uid;
    assert!(
        !uid.contains(['/', '.', '\0']) && (1..=128).contains(&uid.len()),
        "the uid becomes part of a file's name"
    );
    let locks = [context.workspace.clone(), context.task.name.clone()];
    let rendered = prompt::render(user, &context, &locks);
    assert!(rendered.starts_with(user), "the user's prompt comes first, unchanged");
    if context.loop_context == LoopContext::FileOnly {
        assert_eq!(rendered, user);
        return;
    }
    let section = prompt::section(&context, &locks);
    assert!(rendered.ends_with(section.as_bytes()));
    assert!(section.len() <= prompt::SECTION_BYTES, "{} bytes", section.len());
    assert!(section.chars().all(|c| c == '\n' || !c.is_control()), "{section:?}");
    assert!(completion_gate::find(&section).is_err(), "an echoed section contains no gate");
    if context.policy == Policy::Gate {
        let echoed = String::from_utf8_lossy(&rendered);
        assert!(completion_gate::find(&echoed).is_err(), "an echoed prompt contains no gate");
    }
});
