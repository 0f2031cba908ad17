"""What a watch tells: events, and the changes in them, typed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Mapping, Union

from .decode import BadShape, decode
from .model import Migration, Node, Shard, ShardMap
from .sse import StreamEvent


@dataclass(frozen=True)
class ShardChanged:
    """A shard, as it was from this revision on. Soft fields are None."""

    shard: Shard


@dataclass(frozen=True)
class NodeChanged:
    """A data node registered, or changed. Soft fields are None."""

    node: Node


@dataclass(frozen=True)
class NodeRemoved:
    """A data node was deleted."""

    id: str


@dataclass(frozen=True)
class MigrationChanged:
    """A migration started, went on or ended. Soft fields are None."""

    migration: Migration


@dataclass(frozen=True)
class PolicyChanged:
    """The rebalance policy was set, or paused, or resumed."""

    revision: int


@dataclass(frozen=True)
class OtherChange:
    """From a newer control node; to be ignored."""

    type: str
    data: Mapping[str, Any]


Change = Union[ShardChanged, NodeChanged, NodeRemoved, MigrationChanged, PolicyChanged, OtherChange]


@dataclass(frozen=True)
class Snapshot:
    """The whole map: what is told next builds on it, whatever was told before."""

    map: ShardMap

    @property
    def revision(self) -> int:
        return self.map.revision


@dataclass(frozen=True)
class Changes:
    """All that one revision changed, in the order of its making."""

    revision: int
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Bookmark:
    """Nothing happened up to this revision that was not told; while idle, every 5 s."""

    revision: int


WatchEvent = Union[Snapshot, Changes, Bookmark]


@dataclass(frozen=True)
class _ChangesOnWire:
    revision: int
    changes: tuple[Any, ...]


@dataclass(frozen=True)
class _Removed:
    id: str


@dataclass(frozen=True)
class _AtRevision:
    revision: int


def read_event(event: StreamEvent) -> Union[WatchEvent, None]:
    """An event of the stream; None for one of a kind that is unknown. Raises BadShape."""
    if event.name not in ("snapshot", "change", "bookmark"):
        return None
    try:
        data = json.loads(event.data)
    except ValueError as error:
        raise BadShape(f"an event that is not JSON: {error}") from error
    if event.name == "snapshot":
        return Snapshot(decode(ShardMap, data))
    if event.name == "bookmark":
        return Bookmark(decode(_AtRevision, data).revision)
    told = decode(_ChangesOnWire, data)
    return Changes(told.revision, tuple(_change(change) for change in told.changes))


def _change(data: Any) -> Change:
    if not isinstance(data, dict) or not isinstance(data.get("type"), str):
        raise BadShape("a change without a `type`")
    fields = {name: value for name, value in data.items() if name != "type"}
    kind = data["type"]
    if kind == "shard":
        return ShardChanged(decode(Shard, fields))
    if kind == "node":
        return NodeChanged(decode(Node, fields))
    if kind == "node_removed":
        return NodeRemoved(decode(_Removed, fields).id)
    if kind == "migration":
        return MigrationChanged(decode(Migration, fields))
    if kind == "policy":
        return PolicyChanged(decode(_AtRevision, fields).revision)
    return OtherChange(kind, fields)
