//! What other data nodes ask of this one, whatever HTTP server brings it: paths under `/peer/v1/`, bodies in JSON.

use bytes::Bytes;
use http::{Response, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::directory;
use super::peers::{Message, ReadCall, SearchCall, WriteCall};
use super::store::ShardStore;
use super::{Inner, PEER_PATH};
use crate::ids::ShardId;

/// Why a request was not understood.
struct Misunderstood {
    status: StatusCode,
    why: String,
}

impl<S: ShardStore> Inner<S> {
    /// Answers `POST path` with `body`.
    pub(super) async fn answer(&self, path: &str, body: &[u8]) -> Response<Bytes> {
        match self.ask(path, body).await {
            Ok(json) => respond(StatusCode::OK, "application/json", json),
            Err(Misunderstood { status, why }) => {
                tracing::debug!(path, why, "another node's request was not understood");
                respond(status, "text/plain; charset=utf-8", why.into_bytes())
            }
        }
    }

    async fn ask(&self, path: &str, body: &[u8]) -> Result<Vec<u8>, Misunderstood> {
        let unknown = || Misunderstood { status: StatusCode::NOT_FOUND, why: format!("no {path} here") };
        let rest = path.trim_start_matches('/');
        let rest = rest.strip_prefix(PEER_PATH.trim_start_matches('/')).unwrap_or(rest);
        let words: Vec<&str> = rest.split('/').filter(|word| !word.is_empty()).collect();
        match words[..] {
            ["shards", shard, what] => {
                let shard = ShardId(shard.parse().map_err(|_| unknown())?);
                match what {
                    "messages" => {
                        let Message { from, request } = read(body)?;
                        told(&self.copies.message(shard, from, request).await)
                    }
                    "writes" => {
                        let WriteCall { epoch, writes } = read(body)?;
                        told(&self.copies.write(shard, epoch, writes).await)
                    }
                    "reads" => {
                        let ReadCall { epoch, key } = read(body)?;
                        told(&directory::read(&self.copies, shard, epoch, key).await)
                    }
                    _ => Err(unknown()),
                }
            }
            ["search"] => {
                let SearchCall { query, shards } = read::<SearchCall<S::Query>>(body)?;
                told(&self.gateway.search_here(shards, query.into()).await)
            }
            _ => Err(unknown()),
        }
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Misunderstood> {
    serde_json::from_slice(body)
        .map_err(|error| Misunderstood { status: StatusCode::BAD_REQUEST, why: error.to_string() })
}

fn told(answer: &impl Serialize) -> Result<Vec<u8>, Misunderstood> {
    serde_json::to_vec(answer)
        .map_err(|error| Misunderstood { status: StatusCode::INTERNAL_SERVER_ERROR, why: error.to_string() })
}

fn respond(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
