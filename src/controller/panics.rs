//! A panic while one object is reconciled affects only that object: it is reported, and retried like any other error.
//!
//! No input should make the rules panic; an input that does has found a bug. It must not stop all other tasks: without
//! this, a panic would end the process, and the same object would end it again after every restart.

use std::any::Any;
use std::future::Future;
use std::panic::{self, AssertUnwindSafe};

use agentloop_contract::text::cut_bytes;
use futures::FutureExt;

/// Most bytes of a panic's message: it goes into logs and Events.
const MAX_BYTES: usize = 400;

/// Why an object could not be reconciled.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WorkError<E> {
    /// It failed.
    #[error(transparent)]
    Failed(#[from] E),
    /// It panicked, with this message.
    #[error("agentloop panicked: {0}")]
    Panicked(String),
}

/// Does the work, and turns a panic into an error.
///
/// What the work had half done is dropped with it. What outlives it (caches, counters, maps behind a mutex) changes in
/// single steps, and the mutexes (of parking_lot) are not poisoned by a panic.
pub(super) async fn caught<T, E>(work: impl Future<Output = Result<T, E>>) -> Result<T, WorkError<E>> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(result) => result.map_err(WorkError::Failed),
        Err(panic) => Err(WorkError::Panicked(message(panic.as_ref()))),
    }
}

/// The same for work that does not wait.
pub(super) fn caught_now<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    panic::catch_unwind(AssertUnwindSafe(work)).map_err(|panic| message(panic.as_ref()))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    cut_bytes(text.unwrap_or("no message"), MAX_BYTES)
}

#[cfg(test)]
#[allow(clippy::panic, reason = "this is about panics")]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq, thiserror::Error)]
    #[error("failed")]
    struct Failure;

    async fn panics_after_a_wait(message: String) -> Result<(), Failure> {
        tokio::task::yield_now().await;
        panic!("{message}")
    }

    #[tokio::test]
    async fn a_panic_becomes_an_error_with_its_message() {
        let error = caught(panics_after_a_wait("overflow at 9".to_owned())).await.unwrap_err();
        assert_eq!(error.to_string(), "agentloop panicked: overflow at 9");
        let error = caught::<(), Failure>(async { panic::panic_any(7) }).await.unwrap_err();
        assert_eq!(error, WorkError::Panicked("no message".to_owned()));
        let error = caught(panics_after_a_wait("x".repeat(10_000))).await.unwrap_err();
        assert!(error.to_string().len() < 500, "{error}");
    }

    #[tokio::test]
    async fn work_that_does_not_panic_ends_as_it_would_have() {
        assert_eq!(caught::<_, Failure>(async { Ok(3) }).await, Ok(3));
        assert_eq!(caught::<(), _>(async { Err(Failure) }).await, Err(WorkError::Failed(Failure)));
        assert_eq!(caught_now(|| 3), Ok(3));
        assert_eq!(caught_now(|| -> i32 { panic!("now") }), Err("now".to_owned()));
    }
}
