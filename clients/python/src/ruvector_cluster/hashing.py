"""From a key to its shard: XXH64 with seed 0 over the key's UTF-8 bytes, then jump consistent hash.

docs/hashing.md of the repository is the specification. Everyone must compute the same shard for the same key, so nothing here
may ever change. Pure functions, without state.
"""

from __future__ import annotations

import struct

_MASK = 0xFFFF_FFFF_FFFF_FFFF
_P1 = 0x9E37_79B1_85EB_CA87
_P2 = 0xC2B2_AE3D_27D4_EB4F
_P3 = 0x1656_67B1_9E37_79F9
_P4 = 0x85EB_CA77_C2B2_AE63
_P5 = 0x27D4_EB2F_1656_67C5

_STRIPE = struct.Struct("<4Q")

#: What the map names where these functions are in use (`key_hash` and `shard_hash` of `GET /v1/map`).
KEY_HASH = "xxh64"
SHARD_HASH = "jump"


def xxh64(data: bytes, seed: int = 0) -> int:
    """XXH64 of `data`: an integer from 0 to 2^64 - 1."""
    length, at = len(data), 0
    if length >= 32:
        acc, at = _stripes(data, seed)
    else:
        acc = seed + _P5
    acc = (acc + length) & _MASK
    while at + 8 <= length:
        acc ^= _round(0, int.from_bytes(data[at : at + 8], "little"))
        acc = (_rotl(acc, 27) * _P1 + _P4) & _MASK
        at += 8
    if at + 4 <= length:
        acc ^= (int.from_bytes(data[at : at + 4], "little") * _P1) & _MASK
        acc = (_rotl(acc, 23) * _P2 + _P3) & _MASK
        at += 4
    for byte in data[at:]:
        acc ^= (byte * _P5) & _MASK
        acc = (_rotl(acc, 11) * _P1) & _MASK
    acc = ((acc ^ (acc >> 33)) * _P2) & _MASK
    acc = ((acc ^ (acc >> 29)) * _P3) & _MASK
    return acc ^ (acc >> 32)


def _stripes(data: bytes, seed: int) -> tuple[int, int]:
    """Takes in all whole stripes of 32 bytes; the accumulator and how far it came."""
    lanes = [(seed + _P1 + _P2) & _MASK, (seed + _P2) & _MASK, seed & _MASK, (seed - _P1) & _MASK]
    end = len(data) - len(data) % 32
    for words in _STRIPE.iter_unpack(memoryview(data)[:end]):
        lanes = [_round(lane, word) for lane, word in zip(lanes, words)]
    one, two, three, four = lanes
    acc = (_rotl(one, 1) + _rotl(two, 7) + _rotl(three, 12) + _rotl(four, 18)) & _MASK
    for lane in lanes:
        acc = ((acc ^ _round(0, lane)) * _P1 + _P4) & _MASK
    return acc, end


def _round(acc: int, word: int) -> int:
    return (_rotl((acc + word * _P2) & _MASK, 31) * _P1) & _MASK


def _rotl(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) & _MASK


def jump_hash(hash_: int, buckets: int) -> int:
    """Jump consistent hash (Lamping and Veach, 2014): a bucket from 0 to `buckets` - 1.

    The division and the multiplication are IEEE doubles, as in the published code; both operands of each convert exactly.

    Raises ValueError where there is no bucket.
    """
    if buckets < 1:
        raise ValueError(f"jump hash needs at least 1 bucket, not {buckets}")
    bucket, following = 0, 0
    while following < buckets:
        bucket = following
        hash_ = (hash_ * 2_862_933_555_777_941_757 + 1) & _MASK
        following = int((bucket + 1) * (2_147_483_648.0 / ((hash_ >> 33) + 1)))
    return bucket


def hash_of_key(key: str) -> int:
    """XXH64 of the key's UTF-8 bytes, as they are: no normalisation. The empty key is a key.

    Raises UnicodeEncodeError for a str that has no UTF-8 form (lone surrogates).
    """
    return xxh64(key.encode("utf-8"))


def shard_of_key(key: str, num_shards: int) -> int:
    """The shard of `key` among `num_shards`: an integer from 0.

    Raises UnicodeEncodeError as `hash_of_key`, and ValueError where `num_shards` is below 1.
    """
    return jump_hash(hash_of_key(key), num_shards)
