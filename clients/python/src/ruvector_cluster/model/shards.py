"""Shards, routes, the map, migrations."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Mapping, Optional

from ..decode import Extra, extra_field


@dataclass(frozen=True)
class Shard:
    """`GET /v1/shards/{id}`. `status`: unassigned, active, degraded, migrating or unavailable."""

    id: int
    epoch: int
    primary: Optional[str]
    #: Full copies other than the primary.
    replicas: tuple[str, ...]
    #: Copies that are being filled.
    learners: tuple[str, ...]
    #: Whoever has every acknowledged write, the primary included.
    in_sync: tuple[str, ...]
    in_sync_version: int
    status: str
    #: Soft: bytes of the primary's copy.
    size_bytes: Optional[int]
    #: Soft: vectors of the primary's copy.
    vectors: Optional[int]
    revision: int
    extra: Extra = extra_field()


@dataclass(frozen=True)
class NodeAddr:
    """A data node and its `host:port`."""

    id: str
    addr: str


@dataclass(frozen=True)
class Route:
    """Where a key belongs. A data request carries `epoch`; data nodes refuse lower ones than they know."""

    key: str
    shard: int
    epoch: int
    primary: Optional[NodeAddr]
    replicas: tuple[NodeAddr, ...]
    #: Of the map that this was read from: ordered by generation, then revision.
    generation: int
    revision: int


@dataclass(frozen=True)
class MapNode:
    """A data node in the map. `status`: alive or down."""

    addr: str
    zone: Optional[str]
    rack: Optional[str]
    status: str
    extra: Extra = extra_field()


@dataclass(frozen=True)
class MapShard:
    """A shard in the map; its id is its place."""

    epoch: int
    primary: Optional[str]
    replicas: tuple[str, ...]
    in_sync: tuple[str, ...]


@dataclass(frozen=True)
class ShardMap:
    """`GET /v1/map`: the whole map, as of one (generation, revision)."""

    generation: int
    revision: int
    cluster_id: str
    key_hash: str
    shard_hash: str
    num_shards: int
    replication_factor: int
    nodes: Mapping[str, MapNode] = field(hash=False)
    shards: tuple[MapShard, ...]
    extra: Extra = extra_field()


@dataclass(frozen=True)
class Migration:
    """A migration. `kind`: move, promote, add or remove; `phase`: queued, preparing, copying, admitting, handing_over, done
    or aborted."""

    id: int
    shard: int
    kind: str
    from_: Optional[str]
    to: Optional[str]
    epoch: int
    phase: str
    reason: str
    #: Soft, in bytes.
    bytes_done: Optional[int]
    bytes_total: Optional[int]
    #: Soft: milliseconds until copying ends.
    eta_ms: Optional[int]
    #: Why it was aborted, or put back last.
    error: Optional[str]
    created_at: datetime
    updated_at: datetime
    revision: int
    extra: Extra = extra_field()

    @property
    def is_ended(self) -> bool:
        """Whether it is done or aborted."""
        return self.phase in ("done", "aborted")
