"""Why a shard is where it is. Codes are stable; details are for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from ..decode import Extra, extra_field
from .plans import Move


@dataclass(frozen=True)
class Reason:
    """Why something is so."""

    code: str
    detail: str


@dataclass(frozen=True)
class Origin:
    """How a copy came to its node."""

    migration: Optional[int]
    detail: str


@dataclass(frozen=True)
class CopyExplained:
    """Why a copy is there, and whether it stays. `role`: primary, replica, learner or retiring."""

    node: str
    role: str
    in_sync: bool
    origin: Origin
    code: str
    detail: str
    extra: Extra = extra_field()


@dataclass(frozen=True)
class NodeExplained:
    """Why a node may or may not take a copy."""

    node: str
    may_take: bool
    in_place_of: tuple[str, ...]
    code: str
    detail: str
    extra: Extra = extra_field()


@dataclass(frozen=True)
class PendingMigration:
    """The shard's migration, which has not ended."""

    id: int
    phase: str
    kind: str
    from_: Optional[str]
    to: Optional[str]
    reason: str
    error: Optional[str]
    extra: Extra = extra_field()


@dataclass(frozen=True)
class Explanation:
    """`GET /v1/shards/{id}/explain`."""

    shard: int
    epoch: int
    revision: int
    #: Whether what data nodes told of sizes went into it.
    from_leader: bool
    summary: str
    copies: tuple[CopyExplained, ...]
    nodes: tuple[NodeExplained, ...]
    pending: Optional[PendingMigration]
    #: What the coordinator's own plan does with this shard now.
    next: tuple[Move, ...]
    #: Why it does not move (further).
    waits: tuple[Reason, ...]
    extra: Extra = extra_field()
