//! Digests of what travels and of what two copies have, so that equal data isn't sent and damaged data isn't stored.
//!
//! XXH64 with seed 0 over fields in a fixed order: numbers as 8 bytes, little endian; keys and values after their length,
//! one that isn't there as the length 2^64 - 1. docs/protocol.md (section 6) has it for other languages.
//!
//! The digest of an entry covers key, stamp and value. The stamp already says which write it is, since a position is given
//! once; the value is in it so that a copy whose disk has changed it is noticed. A range is the digests of its entries.
//!
//! Caveats: 64 bits tell accidents, not forgers. Two different entries of a range of 4,096 are taken for the same with a
//! probability of 2^-52 or less. Whoever crafts a collision has to guess positions, and harms but the keys that he writes.

use std::hash::Hasher;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use twox_hash::XxHash64;

use super::Key;
use super::wire::{Alignment, Chunk, SameRun, Write};
use crate::ids::Position;

/// A digest; as 16 hexadecimal digits in JSON, where many languages keep no 64 bits in a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub u64);

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let parsed = u64::from_str_radix(&text, 16).ok().filter(|_| digits);
        parsed.map(Self).ok_or_else(|| D::Error::custom("a digest has 16 hexadecimal digits"))
    }
}

impl Digest {
    /// Of an entry, or of a write in a stream.
    pub fn of_write(write: &Write) -> Self {
        let mut fields = Fields::default();
        fields.bytes(Some(write.key.as_bytes()));
        fields.position(write.position);
        fields.bytes(write.value.as_deref());
        fields.end()
    }

    /// Of a range whose entries have these digests.
    pub fn of_entries(entries: impl IntoIterator<Item = Self>) -> Self {
        let mut fields = Fields::default();
        entries.into_iter().for_each(|entry| fields.number(entry.0));
        fields.end()
    }

    /// Of a chunk, with the runs that are not sent.
    pub fn of_chunk(chunk: &Chunk, same: &[SameRun]) -> Self {
        let mut fields = Fields::default();
        fields.key(chunk.after.as_ref());
        fields.key(chunk.upto.as_ref());
        fields.position(chunk.at);
        fields.writes(&chunk.writes);
        for run in same {
            fields.number(u64::from(run.first));
            fields.number(u64::from(run.count));
        }
        fields.end()
    }

    /// Of a `forward`.
    pub fn of_forward(prev: Position, writes: &[Write]) -> Self {
        let mut fields = Fields::default();
        fields.position(prev);
        fields.writes(writes);
        fields.end()
    }

    /// Of an `align`.
    pub fn of_alignment(alignment: &Alignment) -> Self {
        let mut fields = Fields::default();
        for position in [alignment.expect, alignment.common, alignment.last] {
            fields.position(position);
        }
        fields.number(alignment.tail.len() as u64);
        for entry in &alignment.tail {
            fields.position(entry.position);
            fields.key(Some(&entry.key));
        }
        fields.writes(&alignment.writes);
        fields.end()
    }
}

#[derive(Default)]
struct Fields(XxHash64);

impl Fields {
    fn number(&mut self, number: u64) {
        self.0.write(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: Option<&[u8]>) {
        self.number(bytes.map_or(u64::MAX, |bytes| bytes.len() as u64));
        self.0.write(bytes.unwrap_or_default());
    }

    fn key(&mut self, key: Option<&Key>) {
        self.bytes(key.map(|key| key.as_bytes()));
    }

    fn position(&mut self, position: Position) {
        self.number(position.epoch.0);
        self.number(position.n);
    }

    fn writes(&mut self, writes: &[Write]) {
        self.number(writes.len() as u64);
        writes.iter().for_each(|write| self.number(Digest::of_write(write).0));
    }

    fn end(self) -> Digest {
        Digest(self.0.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;
    use crate::replica::Value;

    fn write(epoch: u64, n: u64, key: &str, value: Option<&str>) -> Write {
        let value = value.map(|value| Value::from(value.to_owned()));
        Write { position: Position { epoch: Epoch(epoch), n }, key: key.into(), value }
    }

    #[test]
    fn every_field_of_an_entry_counts() {
        let entries = [
            write(1, 2, "k", Some("v")),
            write(2, 2, "k", Some("v")),
            write(1, 3, "k", Some("v")),
            write(1, 2, "kv", Some("")),
            write(1, 2, "k", Some("")),
            write(1, 2, "k", None),
            write(1, 2, "l", Some("v")),
        ];
        let digests: std::collections::BTreeSet<Digest> = entries.iter().map(Digest::of_write).collect();
        assert_eq!(digests.len(), entries.len());
    }

    /// What another language has to compute.
    #[test]
    fn a_digest_is_xxh64_of_the_fields_in_their_order() {
        let mut bytes = Vec::new();
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend(b"k");
        bytes.extend(3_u64.to_le_bytes());
        bytes.extend(17_u64.to_le_bytes());
        bytes.extend(2_u64.to_le_bytes());
        bytes.extend(b"vw");
        assert_eq!(Digest::of_write(&write(3, 17, "k", Some("vw"))).0, XxHash64::oneshot(0, &bytes));
        assert_eq!(Digest::of_entries([]).0, 0xef46_db37_51d8_e999, "of nothing, as published");
    }

    #[test]
    fn a_digest_is_16_digits_in_json() {
        let digest = Digest(0xAB);
        let text = serde_json::to_string(&digest).unwrap();
        assert_eq!(text, "\"00000000000000ab\"");
        assert_eq!(serde_json::from_str::<Digest>(&text).unwrap(), digest);
        for wrong in ["\"ab\"", "\"+0000000000000ab\"", "\"0000000000000000ab\"", "171"] {
            assert!(serde_json::from_str::<Digest>(wrong).is_err(), "{wrong}");
        }
    }
}
