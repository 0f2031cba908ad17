//! Messages of one connection: in order, each after its own time on the way; a lost one breaks the connection.

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::Net;

/// Messages that may be on their way at once.
const ON_THE_WAY: usize = 1_024;

/// The sending end.
pub(super) struct Pipe<T> {
    send: mpsc::Sender<(Instant, Result<T, String>)>,
}

impl<T: Send + 'static> Pipe<T> {
    /// A pipe, and what comes out of it at the other end.
    pub(super) fn new() -> (Self, BoxStream<'static, Result<T, String>>) {
        let (send, receive) = mpsc::channel(ON_THE_WAY);
        let arriving = futures::stream::unfold(Some(receive), |receive| async move {
            let mut receive: mpsc::Receiver<(Instant, Result<T, String>)> = receive?;
            let (at, item) = receive.recv().await?;
            sleep_until(at).await;
            let goes_on = item.is_ok();
            Some((item, goes_on.then_some(receive)))
        });
        (Self { send }, arriving.boxed())
    }
}

/// Sends what `messages` yields until they end, the other end is gone, or one is lost.
pub(super) async fn pump<T: Send + 'static>(
    net: Net,
    (from, to): (String, String),
    mut messages: impl Stream<Item = Result<T, String>> + Unpin + Send,
    pipe: Pipe<T>,
) {
    let mut last = Instant::now();
    loop {
        let message = tokio::select! {
            biased;
            () = pipe.send.closed() => return,
            message = messages.next() => message,
        };
        let Some(message) = message else { return };
        let Some(at) = net.arrival(&from, &to) else {
            // Whoever waits for it finds out by its own bounds in time.
            pipe.send.closed().await;
            return;
        };
        last = last.max(at);
        let is_over = message.is_err();
        if pipe.send.send((last, message)).await.is_err() || is_over {
            return;
        }
    }
}
