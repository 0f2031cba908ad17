"""Hashing against the vectors that other implementations computed: the repository's one file of them."""

from __future__ import annotations

import json
import unittest
from pathlib import Path

from ruvector_cluster import hashing

VECTORS = Path(__file__).resolve().parents[3] / "client" / "tests" / "data" / "hash_vectors.json"


class Hashing(unittest.TestCase):
    def test_all_published_vectors_hash_to_their_shards(self) -> None:
        vectors = json.loads(VECTORS.read_text("utf-8"))["vectors"]
        self.assertEqual(len(vectors), 131)
        for vector in vectors:
            key = vector["key"]
            self.assertEqual(str(hashing.hash_of_key(key)), vector["xxh64"], repr(key))
            self.assertEqual(len(vector["shard"]), 8)
            for count, shard in vector["shard"].items():
                self.assertEqual(hashing.shard_of_key(key, int(count)), shard, f"{key!r} of {count}")

    def test_xxhash_s_own_sanity_check(self) -> None:
        self.assertEqual(hashing.xxh64(b""), 0xEF46DB3751D8E999)
        self.assertEqual(hashing.xxh64(b"", 2654435761), 0xAC75FDA2929B17EF)
        # The bytes as its reference implementation generates them.
        data, generator = bytearray(), 2654435761
        for _ in range(222):
            data.append((generator >> 56) & 0xFF)
            generator = generator * 11400714785074694797 & 0xFFFFFFFFFFFFFFFF
        self.assertEqual(hashing.xxh64(bytes(data[:1])), 0xE934A84ADB052768)
        self.assertEqual(hashing.xxh64(bytes(data[:1]), 2654435761), 0x5014607643A9B4C3)
        self.assertEqual(hashing.xxh64(bytes(data[:14])), 0x8282DCC4994E35C8)
        self.assertEqual(hashing.xxh64(bytes(data[:222])), 0xB641AE8CB691C174)
        self.assertEqual(hashing.xxh64(bytes(data[:222]), 2654435761), 0x20CB8AB7AE10C14A)

    def test_jump_hash_rounds_as_doubles_do(self) -> None:
        # 49 * (2^31 / (49 * 2^25)) is below 64; whole numbers would end at 48 (docs/hashing.md).
        self.assertEqual(hashing.jump_hash(1673232497983283878, 64), 63)

    def test_a_shard_more_moves_keys_only_into_it(self) -> None:
        for n in range(500):
            hash_ = n * 0x9E3779B97F4A7C15 % 2**64
            for buckets in range(1, 40):
                before, after = hashing.jump_hash(hash_, buckets), hashing.jump_hash(hash_, buckets + 1)
                self.assertIn(after, (before, buckets))

    def test_unicode_is_not_normalised(self) -> None:
        self.assertNotEqual(hashing.hash_of_key("\u00e9"), hashing.hash_of_key("e\u0301"))

    def test_what_has_no_shard_is_refused(self) -> None:
        with self.assertRaises(ValueError):
            hashing.shard_of_key("k", 0)
        with self.assertRaises(UnicodeEncodeError):
            hashing.shard_of_key("\ud800", 16)
