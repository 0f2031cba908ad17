//! Opaque values as base64 inside JSON, since an array of numbers takes four times the room.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Value;

pub(super) fn serialize<S: Serializer>(value: &Option<Value>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(|bytes| STANDARD.encode(bytes)).serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| STANDARD.decode(text).map(Value::from)).transpose().map_err(D::Error::custom)
}

/// Digests as base64 of their bytes, little endian: 11 characters each.
pub(super) mod digests {
    use super::*;
    use crate::replica::digest::Digest;

    pub(in crate::replica) fn serialize<S: Serializer>(
        digests: &Option<Vec<Digest>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let bytes =
            |digests: &Vec<Digest>| digests.iter().flat_map(|digest| digest.0.to_le_bytes()).collect();
        digests.as_ref().map(|digests| STANDARD.encode::<Vec<u8>>(bytes(digests))).serialize(serializer)
    }

    pub(in crate::replica) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<Digest>>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let bytes = STANDARD.decode(text).map_err(D::Error::custom)?;
        let (digests, []) = bytes.as_chunks::<8>() else {
            return Err(D::Error::custom("digests have 8 bytes each"));
        };
        Ok(Some(digests.iter().map(|bytes| Digest(u64::from_le_bytes(*bytes))).collect()))
    }
}
