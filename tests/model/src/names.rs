//! The names of real objects, made from small numbers and read back.

use agentloop_core::decide::served::Release;
use agentloop_core::pod;

use crate::api::Attempt;

/// The task's name.
pub const TASK: &str = "x";

/// A task's uid.
pub fn task_uid(number: u8) -> String {
    format!("11111111-2222-3333-4444-{number:012}")
}

/// A pod's uid.
pub fn pod_uid(number: u8) -> String {
    format!("pod-{number}")
}

/// The number in a pod's uid.
pub fn pod_number(uid: &str) -> u8 {
    uid.strip_prefix("pod-").and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// A release.
pub fn release(number: u8) -> Release {
    Release::new("agentloop-system", &number.to_string())
}

/// The number in a release's name.
pub fn release_number(name: &str) -> Option<u8> {
    name.rsplit('/').next()?.parse().ok()
}

/// The name of an attempt's pod.
pub fn pod_name(of: Attempt) -> String {
    pod::pod_name(TASK, &task_uid(of.task), i32::from(of.iteration), i32::from(of.attempt))
}
