//! Any pods and any task can be read and decided on. The count never falls, and grows by one at most.
#![no_main]

use agentloop_core::{
    api::AgentTask,
    decide::{Decision, Observed, PreviousPod, decide},
    facts::PodFacts,
    settings::Configuration,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

// A task as JSON in the first line, the time in seconds in the second, a pod in each other line.
fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.lines();
    let task = lines.next().and_then(|line| serde_json::from_str::<AgentTask>(line).ok());
    let seconds = lines.next().and_then(|line| line.trim().parse().ok()).unwrap_or(1_800_000_000);
    let now = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
    let pods: Vec<PodFacts> = lines
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|value| serde_json::from_value::<Pod>(value).ok())
        .map(|pod| PodFacts::of(&pod))
        .collect();
    let Some(mut task) = task else { return };
    for _ in 0..4 {
        let Some(status) = decided(&task, &pods, now).status else { return };
        let before = task.status.as_ref().map_or(0, |status| status.iterations);
        if before >= 0 && task.status.as_ref().is_none_or(|status| is_sound(before, status.active.as_ref())) {
            let grown = status.iterations.checked_sub(before);
            assert!(matches!(grown, Some(0 | 1)), "{before} became {}", status.iterations);
        }
        task.status = Some(status);
    }
});

/// Whether the CRD's own rules allow this active iteration.
fn is_sound(iterations: i32, active: Option<&agentloop_core::api::ActiveIteration>) -> bool {
    active.is_none_or(|active| iterations.checked_add(1) == Some(active.iteration))
}

fn decided(task: &AgentTask, pods: &[PodFacts], now: Timestamp) -> Decision {
    decide(&Observed {
        task,
        pods,
        configuration: &Configuration { consistent: true, ..Configuration::absent() },
        injection: &agentloop_core::pod::Injection::default(),
        obstacle: None,
        previous_pod: PreviousPod::None,
        refused: None,
        was_started: false,
        pvc_is_checked: true,
        is_gone: true,
        now,
    })
}
