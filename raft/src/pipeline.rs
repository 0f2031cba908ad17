//! Entries to one follower as a stream: requests go out while earlier ones are still being answered.
//!
//! The loop that feeds requests to the transport is polled by whoever polls the answers, and owns openraft's request
//! stream. So when openraft drops the answers, because leadership or the follower's state changed, its request stream is
//! dropped at once with them, and the log reader inside it is free for the next session.
//!
//! Invariants: answers are given in the order of the requests; the first that is not a full success ends the stream; at most
//! [`IN_FLIGHT`] requests are unanswered. A follower that owes an answer for longer than [`ANSWER_TIMEOUT`] is given up.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError};
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::codec;
use crate::network::{failed, foreign};
use crate::transport::{Messages, RpcKind};
use crate::types::{LogId, TypeConfig};

/// Unanswered requests to one follower. With 300 entries a request it covers any round trip times bandwidth here.
const IN_FLIGHT: usize = 32;
/// A follower answers after its fsync. Slow disks take hundreds of milliseconds under load; more than this is a dead one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

type Answer = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// The way of requests into a transport's conversation.
pub(crate) fn channel() -> (mpsc::Sender<Bytes>, BoxStream<'static, Bytes>) {
    let (send, receive) = mpsc::channel(IN_FLIGHT);
    (send, ReceiverStream::new(receive).boxed())
}

struct Pipeline<S> {
    requests: S,
    send: Option<mpsc::Sender<Bytes>>,
    answers: Messages,
    /// The last log id of each unanswered request.
    unanswered: VecDeque<Option<LogId>>,
    /// When the oldest of them is given up.
    give_up_at: Instant,
    ended: bool,
}

/// Feeds `requests` into the conversation and gives its answers.
pub(crate) fn run<S>(requests: S, send: mpsc::Sender<Bytes>, answers: Messages) -> BoxStream<'static, Answer>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    let pipeline = Pipeline {
        requests,
        send: Some(send),
        answers,
        unanswered: VecDeque::new(),
        give_up_at: Instant::now(),
        ended: false,
    };
    futures::stream::unfold(pipeline, |mut pipeline| async {
        let answer = pipeline.next().await?;
        Some((answer, pipeline))
    })
    .boxed()
}

enum Step {
    Request(Option<AppendEntriesRequest<TypeConfig>>),
    Answer(Option<Result<Bytes, crate::transport::TransportError>>),
    GiveUp,
}

impl<S> Pipeline<S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    async fn next(&mut self) -> Option<Answer> {
        while !self.ended {
            let may_send = self.send.is_some() && self.unanswered.len() < IN_FLIGHT;
            let waiting = !self.unanswered.is_empty();
            let step = tokio::select! {
                biased;
                answer = self.answers.next() => Step::Answer(answer),
                request = self.requests.next(), if may_send => Step::Request(request),
                () = tokio::time::sleep_until(self.give_up_at), if waiting => Step::GiveUp,
            };
            match step {
                Step::Request(Some(request)) => {
                    if let Some(error) = self.feed(request).await {
                        return Some(Err(self.end(error)));
                    }
                }
                Step::Request(None) => {
                    self.send = None;
                    self.ended = self.unanswered.is_empty();
                }
                Step::Answer(answer) => return self.take(answer),
                Step::GiveUp => {
                    return Some(Err(
                        self.end(NetworkError::from_string("no answer to entries in time").into())
                    ));
                }
            }
        }
        None
    }

    async fn feed(&mut self, request: AppendEntriesRequest<TypeConfig>) -> Option<RPCError<TypeConfig>> {
        let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        let message = match codec::encode_append(&request) {
            Ok(message) => message,
            Err(error) => return Some(foreign(error)),
        };
        // There is room for as many messages as may be unanswered, unless the transport is slower than the follower.
        let sent = match &self.send {
            Some(send) => tokio::time::timeout(ANSWER_TIMEOUT, send.send(message)).await,
            None => return None,
        };
        if !matches!(sent, Ok(Ok(()))) {
            return Some(NetworkError::from_string("the stream of entries broke").into());
        }
        if self.unanswered.is_empty() {
            self.give_up_at = Instant::now() + ANSWER_TIMEOUT;
        }
        self.unanswered.push_back(last);
        None
    }

    fn take(&mut self, answer: Option<Result<Bytes, crate::transport::TransportError>>) -> Option<Answer> {
        let answer = match answer {
            Some(Ok(answer)) => answer,
            Some(Err(error)) => return Some(Err(self.end(failed(error)))),
            None if self.unanswered.is_empty() => {
                self.ended = true;
                return None;
            }
            None => {
                return Some(Err(
                    self.end(NetworkError::from_string("the stream of entries was closed").into())
                ));
            }
        };
        let result: StreamAppendResult<TypeConfig> =
            match codec::decode(RpcKind::AppendStream.name(), &answer) {
                Ok(result) => result,
                Err(error) => return Some(Err(self.end(foreign(error)))),
            };
        let last = self.unanswered.pop_front();
        self.give_up_at = Instant::now() + ANSWER_TIMEOUT;
        let whole = matches!((&result, &last), (Ok(matched), Some(last)) if matched == last);
        let drained = self.send.is_none() && self.unanswered.is_empty();
        self.ended = !whole || drained;
        Some(Ok(result))
    }

    fn end(&mut self, error: RPCError<TypeConfig>) -> RPCError<TypeConfig> {
        self.ended = true;
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Entry, Payload, Vote};

    fn request(index: u64) -> AppendEntriesRequest<TypeConfig> {
        let entry = Entry { log_id: LogId::new(1.into(), index), payload: Payload::Blank };
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(LogId::new(1.into(), index - 1)),
            entries: vec![entry],
            leader_commit: None,
        }
    }

    fn matched(index: u64) -> Bytes {
        let result: StreamAppendResult<TypeConfig> = Ok(Some(LogId::new(1.into(), index)));
        codec::encode("answer", &result).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn requests_go_out_before_earlier_ones_are_answered() {
        let (send, mut messages) = channel();
        let (answer, answers) = mpsc::channel(8);
        let requests = futures::stream::iter([request(5), request(6)]).chain(futures::stream::pending());
        let mut results = run(requests, send, ReceiverStream::new(answers).map(Ok).boxed());
        let follower = async {
            for _ in 0..2 {
                messages.next().await.unwrap();
            }
            for index in [5, 6] {
                answer.send(matched(index)).await.unwrap();
            }
        };
        let leader =
            async { [results.next().await.unwrap().unwrap(), results.next().await.unwrap().unwrap()] };
        let ((), results) = tokio::join!(follower, leader);
        assert_eq!(results.map(|result| result.unwrap().unwrap().index()), [5, 6]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_partial_success_ends_the_stream() {
        let (send, _messages) = channel();
        let requests = futures::stream::iter([request(5), request(6)]).chain(futures::stream::pending());
        let answers = futures::stream::once(async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(matched(4))
        });
        let results: Vec<_> =
            run(requests, send, answers.chain(futures::stream::pending()).boxed()).collect().await;
        assert_eq!(results.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_that_never_answers_is_given_up() {
        let (send, _messages) = channel();
        let requests = futures::stream::iter([request(5)]).chain(futures::stream::pending());
        let mut results = run(requests, send, futures::stream::pending().boxed());
        results.next().await.unwrap().unwrap_err();
        assert!(results.next().await.is_none());
    }

    #[tokio::test]
    async fn dropping_the_answers_drops_the_request_stream_at_once() {
        let (held, dropped) = tokio::sync::oneshot::channel::<()>();
        let requests = futures::stream::unfold(held, |held| async move {
            std::future::pending::<()>().await;
            Some((request(5), held))
        });
        let (send, _messages) = channel();
        let mut results = run(Box::pin(requests), send, futures::stream::pending().boxed());
        assert!(futures::poll!(results.next()).is_pending());
        drop(results);
        dropped.await.unwrap_err();
    }
}
