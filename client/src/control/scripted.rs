//! A control node for tests: HTTP/1.1 over a real socket, answers from a closure.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) key: Option<String>,
    pub(crate) accept: Option<String>,
    pub(crate) if_none_match: Option<String>,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    pub(crate) fn wants_stream(&self) -> bool {
        self.accept.as_deref() == Some("text/event-stream")
    }
}

/// What the closure says.
pub(crate) enum Say {
    Json(u16, String),
    /// With `Retry-After`, in seconds.
    Later(u16, u64),
    /// With an `ETag`.
    Tagged(u16, &'static str, String),
    /// Once the value is true.
    When(watch::Receiver<bool>, Box<Say>),
    /// An event stream: the pieces as they come, until there are no more to come.
    Stream(mpsc::UnboundedReceiver<String>),
    /// Keeps the connection open and never answers.
    Silence,
}

pub(crate) struct Scripted {
    pub(crate) addr: SocketAddr,
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
    _server: AbortOnDropHandle<()>,
}

pub(crate) fn problem(status: u16, code: &str) -> Say {
    let body = format!(
        r#"{{"type":"urn:x","title":"t","status":{status},"detail":"d","code":"{code}","retryable":false,"request_id":"r"}}"#
    );
    Say::Json(status, body)
}

impl Scripted {
    pub(crate) async fn start(script: impl Fn(&Asked) -> Say + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (script, log) = (Arc::new(script), asked.clone());
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, script.clone(), log.clone()));
            }
        });
        Self { addr, asked, _server: AbortOnDropHandle::new(server) }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The requests for one path, whatever their query.
    pub(crate) fn asked_for(&self, path: &str) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.path() == path).collect()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

async fn serve<F: Fn(&Asked) -> Say>(mut stream: TcpStream, script: Arc<F>, log: Arc<Mutex<Vec<Asked>>>) {
    let mut buffer = Vec::new();
    while let Some(asked) = read_request(&mut stream, &mut buffer).await {
        log.lock().unwrap().push(asked.clone());
        let mut say = script(&asked);
        if let Say::When(mut until, then) = say {
            until.wait_for(|now| *now).await.ok();
            say = *then;
        }
        let (status, extra, body) = match say {
            Say::Json(status, body) => (status, String::new(), body),
            Say::Later(status, seconds) => (status, format!("Retry-After: {seconds}\r\n"), "{}".to_owned()),
            Say::Tagged(status, tag, body) => (status, format!("ETag: {tag}\r\n"), body),
            Say::Stream(pieces) => return stream_out(stream, pieces).await,
            Say::Silence | Say::When(..) => std::future::pending().await,
        };
        let length = body.len();
        let answer = format!("HTTP/1.1 {status} X\r\n{extra}Content-Length: {length}\r\n\r\n{body}");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Ends the connection with the pieces, which ends the body.
async fn stream_out(mut stream: TcpStream, mut pieces: mpsc::UnboundedReceiver<String>) {
    let head = "HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    let mut piece = Some(head.to_owned());
    while let Some(text) = piece {
        if stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
        piece = pieces.recv().await;
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Asked> {
    loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let field = |name: &str| {
                let mut lines = head.lines().filter_map(|line| line.split_once(": "));
                lines.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
            };
            let length: usize = field("content-length").map_or(0, |value| value.parse().unwrap());
            if buffer.len() >= end + 4 + length {
                let body = String::from_utf8_lossy(&buffer[end + 4..end + 4 + length]).into_owned();
                let mut words = head.split(' ').map(str::to_owned);
                let (method, target) = (words.next()?, words.next()?);
                let key = field("idempotency-key");
                let (accept, if_none_match) = (field("accept"), field("if-none-match"));
                buffer.drain(..end + 4 + length);
                return Some(Asked { method, target, key, accept, if_none_match, body });
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}
