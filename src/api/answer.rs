//! How answers are written: JSON, the revision they were made from, the row's ETag, pages.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use ruvector_cluster_client::ids::Revision;
use serde::Serialize;

use super::error::{ApiError, Code};
use super::extract::Params;

/// The published revision that an answer was made from.
pub(super) const CLUSTER_REVISION: HeaderName = HeaderName::from_static("x-cluster-revision");

/// Most items of a page, and as many as there are when `limit` is absent.
pub(super) const MAX_LIMIT: usize = 1_000;

/// What a handler returns.
pub(super) type Answer = Result<Response, ApiError>;

/// A JSON answer with status 200.
///
/// # Errors
/// 500 where `body` has no JSON form: a bug.
pub(super) fn ok(revision: Revision, body: &impl Serialize) -> Answer {
    json(StatusCode::OK, revision, body)
}

/// A JSON answer.
///
/// # Errors
/// 500 where `body` has no JSON form: a bug.
pub(super) fn json(status: StatusCode, revision: Revision, body: &impl Serialize) -> Answer {
    let bytes = serde_json::to_vec(body)
        .map_err(|e| ApiError::new(Code::Internal, format!("the answer has no JSON form: {e}")))?;
    Ok(json_bytes(status, revision, bytes.into()))
}

/// An answer of JSON that is already written.
pub(super) fn json_bytes(status: StatusCode, revision: Revision, bytes: Bytes) -> Response {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CLUSTER_REVISION, HeaderValue::from(revision.0));
    response
}

/// Adds the ETag of a row at `revision`.
///
/// # Errors
/// Passes on those of `answer`.
pub(super) fn tagged(revision: Revision, answer: Answer) -> Answer {
    let mut response = answer?;
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{revision}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

/// `limit` and `cursor` of a list.
#[derive(Clone, Debug)]
pub(super) struct Page {
    limit: usize,
    /// The last item's cursor of the page before; None at the start.
    pub(super) after: Option<String>,
}

impl Page {
    /// Reads both.
    ///
    /// # Errors
    /// 400 naming the parameter.
    pub(super) fn of(params: &Params) -> Result<Self, ApiError> {
        let limit = params.integer("limit")?.unwrap_or(MAX_LIMIT as u64);
        let legal = (1..=MAX_LIMIT as u64).contains(&limit);
        let limit = usize::try_from(limit).ok().filter(|_| legal).ok_or_else(|| {
            ApiError::malformed(format!("query parameter `limit` is 1 to {MAX_LIMIT}, not {limit}"))
        })?;
        Ok(Self { limit, after: params.text("cursor").filter(|c| !c.is_empty()).map(str::to_owned) })
    }

    /// The cursor as what the list is ordered by.
    ///
    /// # Errors
    /// 400 where it is not one that this list gave.
    pub(super) fn after_parsed<T: std::str::FromStr>(&self) -> Result<Option<T>, ApiError> {
        let refuse =
            |_| ApiError::malformed("query parameter `cursor` is not one that this list gave".to_owned());
        self.after.as_deref().map(|text| text.parse().map_err(refuse)).transpose()
    }

    /// The page of `items` that begins here, as `{name: [...], next_cursor}`. `items` start after the cursor.
    ///
    /// # Errors
    /// 500 where an item has no JSON form: a bug.
    pub(super) fn list<T: Serialize>(
        &self,
        revision: Revision,
        name: &str,
        items: impl Iterator<Item = T>,
        cursor_of: impl Fn(&T) -> String,
    ) -> Answer {
        let mut items: Vec<T> = items.take(self.limit.saturating_add(1)).collect();
        let more = items.len() > self.limit;
        items.truncate(self.limit);
        let next_cursor = items.last().filter(|_| more).map(cursor_of);
        ok(revision, &List { name, items: &items, next_cursor })
    }
}

struct List<'a, T> {
    name: &'a str,
    items: &'a [T],
    next_cursor: Option<String>,
}

impl<T: Serialize> Serialize for List<'_, T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry(self.name, self.items)?;
        map.serialize_entry("next_cursor", &self.next_cursor)?;
        map.end()
    }
}
