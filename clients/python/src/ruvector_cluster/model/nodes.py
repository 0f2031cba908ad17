"""Data nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Mapping, Optional

from ..decode import Extra, extra_field


@dataclass(frozen=True)
class Node:
    """`GET /v1/nodes/{id}`. `status`: alive, suspect or down; `intent`: schedulable, draining, drained or maintenance."""

    id: str
    #: `host:port`.
    addr: str
    store_id: str
    zone: Optional[str]
    rack: Optional[str]
    labels: Mapping[str, str] = field(hash=False)
    #: Share of copies relative to other nodes; at most three decimal places.
    capacity: float
    capacity_bytes: Optional[int]
    status: str
    intent: str
    incarnation: int
    #: Shards of which it holds a copy, or is to hold one.
    shards: tuple[int, ...]
    #: How many of them it leads.
    primaries: int
    #: Soft: bytes of all its copies.
    size_bytes: Optional[int]
    #: Soft: when the leader last heard of it.
    last_heartbeat: Optional[datetime]
    revision: int
    extra: Extra = extra_field()
