//! Slots for connections. A new connection always gets one: the connection that has been silent for longest is closed.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// When something was last read from a connection.
#[derive(Clone)]
struct LastRead(Arc<Mutex<Instant>>);

impl LastRead {
    fn get(&self) -> Instant {
        *self.0.lock()
    }

    fn update(&self) {
        *self.0.lock() = Instant::now();
    }
}

/// The connections that are served.
pub(super) struct ConnectionSlots {
    most: usize,
    taken: Vec<(LastRead, AbortHandle)>,
}

impl ConnectionSlots {
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: Vec::new() }
    }

    /// Serves a connection in its own task.
    pub(super) fn take<S, F>(&mut self, stream: S, serve: impl FnOnce(TrackedStream<S>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.taken.retain(|(_, serving)| !serving.is_finished());
        if self.taken.len() >= self.most
            && let Some((place, _)) = self.taken.iter().enumerate().min_by_key(|(_, (last, _))| last.get())
        {
            let (_, serving) = self.taken.swap_remove(place);
            serving.abort();
        }
        let last = LastRead(Arc::new(Mutex::new(Instant::now())));
        let serving = tokio::spawn(serve(TrackedStream { stream, last: last.clone() })).abort_handle();
        self.taken.push((last, serving));
    }
}

/// A stream that remembers when something was last read from it.
pub(super) struct TrackedStream<S> {
    stream: S,
    last: LastRead,
}

impl<S: AsyncRead + Unpin> AsyncRead for TrackedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.last.update();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TrackedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn the_connection_that_has_been_silent_for_longest_is_closed() {
        let mut slots = ConnectionSlots::new(2);
        let mut clients = Vec::new();
        let mut connect = || {
            let (client, server) = tokio::io::duplex(64);
            slots.take(server, |mut stream| async move {
                let mut byte = [0];
                while let Ok(1) = stream.read(&mut byte).await {
                    if stream.write_all(&byte).await.is_err() {
                        return;
                    }
                }
            });
            client
        };
        clients.push(connect());
        clients.push(connect());
        let mut byte = [0];
        clients[0].write_all(b"x").await.unwrap();
        clients[0].read_exact(&mut byte).await.unwrap();
        clients.push(connect());
        assert_eq!(clients[1].read(&mut byte).await.unwrap(), 0, "the second sent nothing, and is closed");
        for place in [0, 2] {
            clients[place].write_all(b"y").await.unwrap();
            clients[place].read_exact(&mut byte).await.unwrap();
        }
    }
}
