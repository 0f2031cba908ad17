"""The shard map as a client holds it, changed by what it is told, never by what is older.

Invariant: (generation, revision) never falls. Whoever looks something up sees one revision.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Iterable, Optional

from .changes import Bookmark, Changes, NodeChanged, NodeRemoved, ShardChanged, Snapshot, WatchEvent
from .errors import BadAnswer, UnknownHash
from .hashing import KEY_HASH, SHARD_HASH, hash_of_key, jump_hash
from .model import MapNode, MapShard, NodeAddr, Route, ShardMap


@dataclass(frozen=True)
class Freshness:
    """How old the held map may be."""

    #: None before a map was read, as `revision`.
    generation: Optional[int]
    revision: Optional[int]
    #: Seconds since a control node last said that this is its map; it may itself have been behind. None before one did.
    age_s: Optional[float]
    #: What went wrong last, unless a control node has said since that the map is current.
    last_error: Optional[str]


class HeldMap:
    """For any number of threads; a lock is held for as long as it takes to look up a few rows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._version: Optional[tuple[int, int]] = None
        self._cluster_id = ""
        self._num_shards = 0
        self._nodes: dict[str, MapNode] = {}
        self._rows: list[MapShard] = []
        self._current_at: Optional[float] = None
        self._last_error: Optional[str] = None

    def version(self) -> Optional[tuple[int, int]]:
        """(generation, revision); None before a map was read."""
        with self._lock:
            return self._version

    def age_s(self) -> Optional[float]:
        """As `Freshness.age_s`."""
        with self._lock:
            return self._age_s()

    def _age_s(self) -> Optional[float]:
        return None if self._current_at is None else time.monotonic() - self._current_at

    def freshness(self) -> Freshness:
        with self._lock:
            generation, revision = self._version or (None, None)
            return Freshness(generation, revision, self._age_s(), self._last_error)

    def note_current(self) -> None:
        """A control node just said that the held map is its own."""
        with self._lock:
            self._note_current()

    def _note_current(self) -> None:
        self._current_at, self._last_error = time.monotonic(), None

    def note_error(self, error: str) -> None:
        with self._lock:
            self._last_error = error

    def install(self, whole: ShardMap, said_by: str) -> None:
        """Takes `whole` unless it is older than what is held. Raises UnknownHash and BadAnswer."""
        if (whole.key_hash, whole.shard_hash) != (KEY_HASH, SHARD_HASH):
            raise UnknownHash(
                f"{said_by} routes by {whole.key_hash} and {whole.shard_hash}, this client only by {KEY_HASH} and {SHARD_HASH}"
            )
        if whole.num_shards < 1 or len(whole.shards) != whole.num_shards:
            raise BadAnswer(said_by, f"a map of {whole.num_shards} shards with {len(whole.shards)} rows")
        version = (whole.generation, whole.revision)
        with self._lock:
            if self._version is not None and whole.cluster_id != self._cluster_id:
                raise BadAnswer(said_by, f"the map of cluster {whole.cluster_id}, where {self._cluster_id} was held")
            if self._version is not None and version < self._version:
                return
            self._version, self._cluster_id, self._num_shards = version, whole.cluster_id, whole.num_shards
            self._nodes, self._rows = dict(whole.nodes), list(whole.shards)
            self._note_current()

    def take(self, event: WatchEvent, said_by: str) -> None:
        """Takes in what a watch tells. Raises as `install`."""
        if isinstance(event, Snapshot):
            self.install(event.map, said_by)
            return
        with self._lock:
            if self._version is None or event.revision < self._version[1]:
                return
            if isinstance(event, Changes) and event.revision > self._version[1]:
                self._apply(event)
            if isinstance(event, (Bookmark, Changes)):
                self._version = (self._version[0], event.revision)
            self._note_current()

    def _apply(self, event: Changes) -> None:
        for change in event.changes:
            if isinstance(change, ShardChanged):
                shard = change.shard
                if 0 <= shard.id < len(self._rows):
                    self._rows[shard.id] = MapShard(shard.epoch, shard.primary, shard.replicas, shard.in_sync)
            elif isinstance(change, NodeChanged):
                node = change.node
                # The map knows committed verdicts only.
                status = "down" if node.status == "down" else "alive"
                self._nodes[node.id] = MapNode(node.addr, node.zone, node.rack, status)
            elif isinstance(change, NodeRemoved):
                self._nodes.pop(change.id, None)

    def shard_of(self, key: str) -> Optional[int]:
        """The shard of `key`; None before a map was read."""
        with self._lock:
            num_shards = self._num_shards
        return jump_hash(hash_of_key(key), num_shards) if num_shards else None

    def routes(self, keys: Iterable[str]) -> Optional[list[Route]]:
        """Where the keys belong, all by one revision; None before a map was read."""
        shards = [(key, self.shard_of(key)) for key in keys]
        with self._lock:
            if self._version is None:
                return None
            return [self._route(key, shard) for key, shard in shards if shard is not None]

    def _route(self, key: str, shard: int) -> Route:
        row = self._rows[shard]
        generation, revision = self._version or (0, 0)
        replicas = tuple(found for found in map(self._addr, row.replicas) if found is not None)
        primary = None if row.primary is None else self._addr(row.primary)
        return Route(key, shard, row.epoch, primary, replicas, generation, revision)

    def _addr(self, id_: str) -> Optional[NodeAddr]:
        node = self._nodes.get(id_)
        return None if node is None else NodeAddr(id_, node.addr)
