//! From signals to a graceful end.
//!
//! The first SIGTERM or SIGINT asks: nothing new is begun, what runs may finish. The second one is not waited for: the
//! process exits at once, which the protocol survives at any point.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// A token that the first signal cancels.
///
/// # Errors
/// Where the handlers cannot be installed.
pub fn on_signal() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let asked = token.clone();
    tokio::spawn(async move {
        let (name, _) = either(&mut terminate, &mut interrupt).await;
        info!(signal = name, "stopping: what runs may finish");
        asked.cancel();
        let (name, code) = either(&mut terminate, &mut interrupt).await;
        warn!(signal = name, "stopping at once");
        std::process::exit(code);
    });
    Ok(token)
}

/// The next signal: its name, and the exit code of a process that dies of it.
async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> (&'static str, i32) {
    tokio::select! {
        _ = terminate.recv() => ("SIGTERM", 143),
        _ = interrupt.recv() => ("SIGINT", 130),
    }
}
