//! Messages in a byte stream: each behind its length, four bytes little-endian.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;

use super::MESSAGE_LIMIT_BYTES;
use crate::transport::{Messages, TransportError};

/// A message behind its length.
pub(super) fn frame(message: Bytes) -> Bytes {
    let mut out = BytesMut::with_capacity(4 + message.len());
    let len = u32::try_from(message.len()).expect("no message comes near 4 GiB");
    out.put_u32_le(len);
    out.put_slice(&message);
    out.freeze()
}

struct Reader {
    peer: String,
    bytes: BoxStream<'static, Result<Bytes, TransportError>>,
    buffer: BytesMut,
    done: bool,
}

impl Reader {
    fn broken(&mut self, why: &str) -> TransportError {
        self.done = true;
        TransportError::NoAnswer { peer: self.peer.clone(), why: why.to_owned() }
    }

    async fn next(&mut self) -> Option<Result<Bytes, TransportError>> {
        while !self.done {
            if let Some(len) = self.buffer.get(..4) {
                let len = u32::from_le_bytes(len.try_into().expect("it has four bytes")) as usize;
                if len > MESSAGE_LIMIT_BYTES {
                    return Some(Err(self.broken("a message over the limit")));
                }
                if self.buffer.len() >= 4 + len {
                    self.buffer.advance(4);
                    return Some(Ok(self.buffer.split_to(len).freeze()));
                }
            }
            match self.bytes.next().await {
                Some(Ok(bytes)) => self.buffer.extend_from_slice(&bytes),
                Some(Err(error)) => {
                    self.done = true;
                    return Some(Err(error));
                }
                None if self.buffer.is_empty() => self.done = true,
                None => return Some(Err(self.broken("the stream ends inside a message"))),
            }
        }
        None
    }
}

/// The messages in `bytes`, which come from `peer`.
pub(super) fn messages(peer: String, bytes: BoxStream<'static, Result<Bytes, TransportError>>) -> Messages {
    let reader = Reader { peer, bytes, buffer: BytesMut::new(), done: false };
    futures::stream::unfold(reader, |mut reader| async {
        let message = reader.next().await?;
        Some((message, reader))
    })
    .boxed()
}
