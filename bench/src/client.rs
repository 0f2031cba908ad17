//! JSON over HTTP, for what is done around a load.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::Method;
use serde_json::Value;
use tokio::time::Instant;

/// How long something may take to come about.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A client of whatever speaks JSON.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
}

impl Client {
    /// One with connections of its own.
    ///
    /// # Errors
    /// When it can't be made.
    pub(crate) fn new() -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build();
        Ok(Self { http: http.context("no HTTP client")? })
    }

    /// Asks; an answer that is no success is an error.
    ///
    /// # Errors
    /// As said, and when there is no answer.
    pub(crate) async fn ask(&self, method: Method, url: &str, body: Option<&Value>) -> Result<Value> {
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.with_context(|| format!("{url} does not answer"))?;
        let status = response.status();
        let text = response.text().await.unwrap_or_default();
        if !status.is_success() {
            bail!("{url} answers {status}: {text}");
        }
        serde_json::from_str(&text).with_context(|| format!("{url} answers no JSON: {text}"))
    }

    /// Opens an endless answer.
    ///
    /// # Errors
    /// When there is no answer.
    pub(crate) async fn stream(&self, url: &str) -> Result<reqwest::Response> {
        let request = self.http.get(url).header("accept", "text/event-stream").timeout(PATIENCE * 10);
        Ok(request.send().await?.error_for_status()?)
    }

    /// A page's text.
    ///
    /// # Errors
    /// When there is no answer.
    pub(crate) async fn text(&self, url: &str) -> Result<String> {
        Ok(self.http.get(url).send().await?.error_for_status()?.text().await?)
    }
}

/// Asks again until there is an answer.
///
/// # Errors
/// The last one's, when the time is over.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if began.elapsed() > PATIENCE => {
                return Err(error.context(format!("waiting for {what}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
