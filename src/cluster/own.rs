//! The way to control nodes: to this process's own without a network, to the others over HTTP.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use axum::Router;
use bytes::Bytes;
use futures::StreamExt;
use ruvector_cluster_client::control::{Body, Exchange, ExchangeError, Http};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::server::Running;

/// Puts requests for `own` to the router itself.
pub(super) struct OwnFirst {
    /// `host:port`.
    pub(super) own: String,
    pub(super) router: OwnRouter,
    pub(super) others: Http,
}

/// The API of this process's control node while it answers. Whoever still holds a client afterwards keeps none of its files.
#[derive(Clone)]
pub(super) struct OwnRouter {
    router: Arc<Mutex<Option<Router>>>,
    /// Cancelled once it answers no more.
    ending: CancellationToken,
}

impl OwnRouter {
    pub(super) fn of(running: &Running) -> Self {
        let router = Arc::new(Mutex::new(Some(running.router.clone())));
        Self { router, ending: running.ending() }
    }

    fn get(&self) -> Option<Router> {
        let router = self.router.lock().unwrap_or_else(PoisonError::into_inner).clone();
        router.filter(|_| !self.ending.is_cancelled())
    }

    /// Lets go of it, when this is dropped.
    pub(super) fn until_dropped(&self) -> Held {
        Held(self.clone())
    }
}

/// Keeps the router in its place.
pub(super) struct Held(OwnRouter);

impl Drop for Held {
    fn drop(&mut self) {
        *self.0.router.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[async_trait]
impl Exchange for OwnFirst {
    async fn exchange(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, ExchangeError> {
        if request.uri().authority().is_none_or(|authority| authority.as_str() != self.own) {
            return self.others.exchange(request).await;
        }
        let ended = || ExchangeError("this process's control node does not run any more".to_owned());
        let router = self.router.get().ok_or_else(ended)?;
        let answered = router.oneshot(request.map(axum::body::Body::from)).await;
        let (parts, body) = match answered {
            Ok(response) => response.into_parts(),
            Err(never) => match never {},
        };
        let pieces = body.into_data_stream();
        let body: Body = pieces.map(|piece| piece.map_err(|error| ExchangeError(error.to_string()))).boxed();
        Ok(http::Response::from_parts(parts, body))
    }
}
