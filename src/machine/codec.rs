//! Commands, outcomes and settings as bytes at raft's edge.

use bytes::Bytes;

/// First byte of an encoded command or outcome: JSON follows.
const FORMAT_JSON: u8 = 1;

/// Why bytes are no command or outcome.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Of a format that this build does not know.
    #[error("format {0} is not known; a newer control node may have written it")]
    Format(u8),
    /// There is nothing.
    #[error("there is nothing")]
    Empty,
    /// Not the JSON expected.
    #[error("not understood")]
    Json(#[from] serde_json::Error),
}

/// A value as it stands in the log.
///
/// # Errors
/// [`CodecError::Json`] where it has no JSON form.
pub fn encode(value: &impl serde::Serialize) -> Result<Bytes, CodecError> {
    let mut bytes = vec![FORMAT_JSON];
    serde_json::to_writer(&mut bytes, value)?;
    Ok(bytes.into())
}

/// The value that [`encode`] wrote.
///
/// # Errors
/// [`CodecError`] for anything else.
pub fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match bytes.split_first() {
        Some((&FORMAT_JSON, json)) => Ok(serde_json::from_slice(json)?),
        Some((&other, _)) => Err(CodecError::Format(other)),
        None => Err(CodecError::Empty),
    }
}
