//! What a key's value is: a vector and its metadata, as the opaque bytes that the replica carries.
//!
//! Layout, little endian: a format byte, the number of dimensions (u32), the components (f32 each), then the metadata as
//! JSON, empty for none. The same point always has the same bytes, so that copies can be compared.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

/// The one layout there is so far.
const FORMAT: u8 = 1;
/// The format and the number of dimensions.
const HEAD_BYTES: usize = 5;

/// A point without its id.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The components; as many as the node's `--dimensions`.
    pub vector: Vec<f32>,
    /// What the writer put beside it.
    pub metadata: Option<BTreeMap<String, serde_json::Value>>,
}

/// Why bytes are no point.
#[derive(Debug, thiserror::Error)]
pub enum PointError {
    /// Written by something else, or damaged.
    #[error("a value of {0} bytes is no point")]
    Layout(usize),
    /// The metadata are damaged.
    #[error("a value's metadata are no JSON")]
    Metadata(#[from] serde_json::Error),
}

impl Point {
    /// The point as bytes.
    ///
    /// # Errors
    /// [`PointError::Metadata`] when the metadata have no JSON form.
    pub fn encode(&self) -> Result<Bytes, PointError> {
        let dimensions =
            u32::try_from(self.vector.len()).map_err(|_| PointError::Layout(self.vector.len()))?;
        let mut out = BytesMut::with_capacity(HEAD_BYTES + self.vector.len() * 4);
        out.put_u8(FORMAT);
        out.put_u32_le(dimensions);
        for component in &self.vector {
            out.put_f32_le(*component);
        }
        if let Some(metadata) = &self.metadata {
            out.extend_from_slice(&serde_json::to_vec(metadata)?);
        }
        Ok(out.freeze())
    }

    /// How many bytes a point has as bytes: so many components, and metadata as JSON text.
    #[must_use]
    pub fn encoded_bytes(components: usize, metadata: &str) -> u64 {
        (HEAD_BYTES + components * 4 + metadata.len()) as u64
    }

    /// The point that `bytes` encode.
    ///
    /// # Errors
    /// [`PointError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, PointError> {
        let layout = || PointError::Layout(bytes.len());
        let (head, rest) = bytes.split_at_checked(HEAD_BYTES).ok_or_else(layout)?;
        let [FORMAT, a, b, c, d] = *head else { return Err(layout()) };
        let dimensions = usize::try_from(u32::from_le_bytes([a, b, c, d])).map_err(|_| layout())?;
        let length = dimensions.checked_mul(4).ok_or_else(layout)?;
        let (components, json) = rest.split_at_checked(length).ok_or_else(layout)?;
        let vector =
            components.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
        let metadata = if json.is_empty() { None } else { Some(serde_json::from_slice(json)?) };
        Ok(Self { vector, metadata })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_round_trips_and_cut_bytes_are_refused() {
        let metadata = BTreeMap::from([("colour".to_owned(), serde_json::json!("red"))]);
        for metadata in [None, Some(metadata)] {
            let point = Point { vector: vec![1.5, -0.25, f32::MIN_POSITIVE], metadata };
            let bytes = point.encode().unwrap();
            assert_eq!(Point::decode(&bytes).unwrap(), point);
            assert!(Point::decode(&bytes[..10]).is_err());
        }
        assert!(Point::decode(b"").is_err());
        assert!(Point::decode(&[9, 0, 0, 0, 0]).is_err());
    }
}
