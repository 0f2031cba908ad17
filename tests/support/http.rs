//! Asking one node over HTTP.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Longest that any test waits for one answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// One node's API.
#[derive(Clone, Debug)]
pub struct Api {
    http: reqwest::Client,
    base: String,
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP's.
    pub status: u16,
    /// All headers.
    pub headers: reqwest::header::HeaderMap,
    /// Null when empty; a string when it is no JSON.
    pub body: Value,
}

impl Answer {
    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// A header's number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.header(name).and_then(|text| text.parse().ok())
    }

    /// The body as `T`, where the status is a success.
    ///
    /// # Errors
    /// The status and the body, for people.
    pub fn ok<T: DeserializeOwned>(self) -> Result<T, String> {
        if !(200..300).contains(&self.status) {
            return Err(format!("{} {}", self.status, self.body));
        }
        serde_json::from_value(self.body.clone()).map_err(|e| format!("{e}: {}", self.body))
    }
}

impl Api {
    /// The API behind `addr` (`host:port`).
    pub fn new(addr: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build().unwrap();
        Self { http, base: format!("http://{addr}") }
    }

    /// Where it is.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The client beneath, for streams.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// One request, any method, with headers.
    ///
    /// # Errors
    /// When no answer came; for people.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, String> {
        let method = reqwest::Method::from_bytes(method.as_bytes()).map_err(|e| e.to_string())?;
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|e| format!("{e:?}"))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.map_err(|e| format!("{e:?}"))?;
        let body = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).unwrap_or(Value::String(text))
        };
        Ok(Answer { status, headers, body })
    }

    /// GET.
    ///
    /// # Errors
    /// As [`Api::send`].
    pub async fn get(&self, path: &str) -> Result<Answer, String> {
        self.send("GET", path, &[], None).await
    }

    /// GET of a success's body.
    ///
    /// # Errors
    /// When there is no answer, no success, or it is no `T`.
    pub async fn get_as<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        self.get(path).await?.ok()
    }

    /// POST.
    ///
    /// # Errors
    /// As [`Api::send`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer, String> {
        self.send("POST", path, &[], Some(body)).await
    }

    /// POST for a success's body.
    ///
    /// # Errors
    /// As [`Api::get_as`].
    pub async fn post_as<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, String> {
        self.post(path, body).await?.ok()
    }

    /// PUT for a success's body.
    ///
    /// # Errors
    /// As [`Api::get_as`].
    pub async fn put_as<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, String> {
        self.send("PUT", path, &[], Some(body)).await?.ok()
    }
}
