//! `GET /v1/snapshot`: a backup of the whole state, checked, as a stream.
//!
//! A task of its own writes the pieces, at most [`MOST_AHEAD`] ahead of the reader, and ends in time however slowly they are
//! read. So a state is held that long at most, which a stream that is only asked when there is room on the wire could not see to.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures::Stream;
use http::{HeaderValue, header};
use tokio::sync::mpsc;

use super::answer::{Answer, CLUSTER_REVISION};
use super::app::{App, Permit, founded};
use super::error::{ApiError, Code};
use super::extract::Params;
use crate::backup;
use crate::coordinator::aside;
use crate::metadata::check::check;
use crate::metadata::{Metadata, view};

/// One backup at most: some 600 MB, of a million shards with their names and copies, at 1 MB/s.
const MAX_TIME: Duration = Duration::from_secs(600);

/// Pieces that wait to be read.
const MOST_AHEAD: usize = 2;

/// The state as of one revision, whatever is applied while it is sent. A stream that ends early lacks its end, and whoever
/// reads the file finds that.
pub(super) async fn snapshot(State(app): State<Arc<App>>, params: Params) -> Answer {
    params.only(&["consistency"])?;
    let permit = app.limits.backup()?;
    let state = app.read(&params).await?;
    check_state(&state).await?;
    let founded = founded(&state)?;
    let name = format!("{}-{}-{}.snapshot", founded.cluster_id, founded.generation, state.revision());
    let made_at = view::time(app.clock.wall_ms());
    let pieces = backup::pieces(&state, made_at).ok_or_else(|| ApiError::unexpected("a backup"))?;
    let mut response = Response::new(Body::from_stream(sent(pieces, permit, MAX_TIME)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CLUSTER_REVISION, HeaderValue::from(state.revision().0));
    if let Ok(disposition) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, disposition);
    }
    Ok(response)
}

/// Refuses a state that a restore would refuse: better told while the cluster still runs than once it is gone.
async fn check_state(state: &Arc<Metadata>) -> Result<(), ApiError> {
    let state = Arc::clone(state);
    // It walks everything, and others are to be answered meanwhile.
    let violations = aside(move || check(&state))
        .await
        .map_err(|e| ApiError::new(Code::Internal, format!("the state was not checked: {e}")))?;
    let Some(first) = violations.first() else { return Ok(()) };
    let detail = format!(
        "no backup was made: the state breaks {} of its own rules, first: {first}. This is a bug: keep the data directories",
        violations.len()
    );
    Err(ApiError::new(Code::Internal, detail))
}

/// The pieces, then the end; or an error where that took too long.
fn sent(
    pieces: impl Iterator<Item = Bytes> + Send + 'static,
    permit: Permit,
    most: Duration,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    // None says that all pieces were sent.
    let (sender, receiver) = mpsc::channel::<Option<Bytes>>(MOST_AHEAD);
    tokio::spawn(async move {
        let _held = permit;
        let all = async move {
            for piece in pieces.map(Some).chain([None]) {
                if sender.send(piece).await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(most, all).await.is_err() {
            tracing::warn!("a backup was broken off: it was read too slowly");
        }
    });
    futures::stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Some(piece)) => Some((Ok(piece), Some(receiver))),
            Some(None) => None,
            None => Some((Err(io::Error::other("the backup took too long, or was given up")), None)),
        }
    })
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use futures::StreamExt;
    use http::StatusCode;
    use ruvector_cluster_client::ids::ShardId;

    use super::super::app::Limits;
    use super::*;
    use crate::metadata::{COMMAND_VERSION, Command, Envelope, Settings, ShardRow, apply};

    fn pieces(count: usize) -> impl Iterator<Item = Bytes> + Send + 'static {
        std::iter::repeat_n(Bytes::from_static(b"piece"), count)
    }

    /// All places but those that are returned.
    fn places(limits: &Limits) -> Vec<Permit> {
        std::iter::from_fn(|| limits.backup().ok()).collect()
    }

    /// Waits until so many backups may begin.
    async fn wait_for_places(limits: &Limits, count: usize) {
        let free = async {
            while places(limits).len() < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), free).await.expect("a place is given back");
    }

    #[tokio::test]
    async fn a_backup_that_nobody_reads_gives_its_place_back_and_ends_in_an_error() {
        let limits = Limits::default();
        let mut all = places(&limits);
        assert_eq!(all.len(), 4);
        let refused = limits.backup().unwrap_err();
        assert_eq!(refused.into_response().status(), StatusCode::TOO_MANY_REQUESTS);
        let permit = all.pop().unwrap();
        let mut slow = Box::pin(sent(pieces(100), permit, Duration::from_millis(50)));
        slow.next().await.unwrap().unwrap();
        assert!(limits.backup().is_err(), "it is still being read");
        wait_for_places(&limits, 1).await;
        let rest: Vec<_> = slow.collect().await;
        assert!(rest.len() <= MOST_AHEAD + 2 && rest.last().unwrap().is_err(), "{rest:?}");
    }

    #[tokio::test]
    async fn a_backup_that_is_read_is_whole_and_ends_without_an_error() {
        let limits = Limits::default();
        let stream = sent(pieces(100), limits.backup().unwrap(), MAX_TIME);
        let whole: Vec<Bytes> = stream.map(Result::unwrap).collect().await;
        assert_eq!(whole, pieces(100).collect::<Vec<_>>());
        wait_for_places(&limits, 4).await;
        // Who goes away in the midst of it does not keep his place either.
        let mut gone = Box::pin(sent(pieces(100), limits.backup().unwrap(), MAX_TIME));
        gone.next().await.unwrap().unwrap();
        drop(gone);
        wait_for_places(&limits, 4).await;
    }

    fn founded() -> Metadata {
        let settings = Settings {
            num_shards: 2,
            replication_factor: 1,
            failure_timeout_ms: 5_000,
            lease_ms: 4_000,
            heartbeat_interval_ms: 1_000,
        };
        let command = Command::Found { cluster_id: "c1".to_owned(), settings };
        let envelope = Envelope { version: COMMAND_VERSION, actor: "client".to_owned(), key: None, command };
        let mut state = Metadata::new();
        apply(&mut state, 1, 1, &envelope).outcome.result.unwrap();
        state
    }

    async fn a_broken_state_is_refused() {
        check_state(&Arc::new(founded())).await.unwrap();
        // A shard that is lost and was never assigned.
        let lost = ShardRow { lost: true, ..ShardRow::unassigned(ShardId(0)) };
        let value = [&[1], &serde_json::to_vec(&lost).unwrap()[..]].concat();
        let broken = founded().to_rows().chain([(b"s/\0\0\0\0".to_vec(), value)]);
        let broken = Metadata::from_rows(broken).unwrap();
        let refused = check_state(&Arc::new(broken)).await.unwrap_err();
        assert_eq!(refused.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(refused.detail.contains("no backup was made: the state breaks"), "{refused}");
    }

    #[tokio::test]
    async fn a_state_that_breaks_its_rules_is_not_backed_up() {
        a_broken_state_is_refused().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_state_that_breaks_its_rules_is_not_backed_up_by_many_threads_either() {
        a_broken_state_is_refused().await;
    }
}
