//! What this process remembers of each task from one reconcile to the next.

use std::collections::HashMap;
use std::time::Duration;

use agentloop_core::sync::Memory;
use parking_lot::Mutex;

use super::live::Live;

/// A cache that is older than this is no reason to trust an answer: the object may long be gone.
const LONGEST_LAG: Duration = Duration::from_mins(1);

/// By the task's uid.
#[derive(Default)]
pub(super) struct Memories(Mutex<HashMap<String, Memory<Live>>>);

/// The memory of one task, for one reconcile; given back when it is dropped.
pub(super) struct Borrowed<'a> {
    memories: &'a Memories,
    uid: String,
    pub(super) memory: Memory<Live>,
}

impl Memories {
    /// Takes the memory of a task. A task has one reconcile at a time, so nobody else asks for it meanwhile.
    pub(super) fn borrow(&self, uid: String) -> Borrowed<'_> {
        let mut memory = self.0.lock().remove(&uid).unwrap_or_default();
        memory.forget_answers(|time| time.elapsed() >= LONGEST_LAG);
        Borrowed { memories: self, uid, memory }
    }

    /// Forgets the tasks that are not there any more.
    pub(super) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.0.lock().retain(|uid, _| is_there(uid));
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        if !memory.is_empty() {
            self.memories.0.lock().insert(std::mem::take(&mut self.uid), memory);
        }
    }
}
