"""The control cluster: members, health, events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Optional

from ..decode import Extra, extra_field


@dataclass(frozen=True)
class Member:
    """A control node. `role`: voter or learner."""

    id: str
    raft_id: int
    role: str
    client_url: str
    peer_url: str
    #: Soft: the last log index known to be on it.
    matched: Optional[int]
    #: Soft: milliseconds since the leader last heard of it.
    last_contact_ms: Optional[int]
    extra: Extra = extra_field()


@dataclass(frozen=True)
class Leader:
    """The control node that leads."""

    id: str
    url: str


@dataclass(frozen=True)
class Cluster:
    """`GET /v1/cluster`."""

    cluster_id: str
    #: Raised by a restore.
    generation: int
    #: Of the control node that answered.
    version: str
    leader: Optional[Leader]
    term: int
    revision: int
    members: tuple[Member, ...]
    num_shards: int
    replication_factor: int
    lease_ms: int
    #: It was restored from a backup, and serves nothing until `resume_cluster`.
    suspended: bool = False
    extra: Extra = extra_field()


@dataclass(frozen=True)
class HealthReason:
    """Why the cluster is not healthy."""

    code: str
    detail: str


@dataclass(frozen=True)
class ShardCounts:
    """Shards by status; each counts once, under the worst that holds."""

    total: int
    active: int
    degraded: int
    migrating: int
    unavailable: int
    unassigned: int


@dataclass(frozen=True)
class Health:
    """`GET /v1/health`. `status`: healthy, degraded or unavailable."""

    status: str
    reasons: tuple[HealthReason, ...]
    healthy_nodes: int
    total_nodes: int
    shards: ShardCounts
    #: The control node that leads.
    leader: Optional[str]
    #: How many more control nodes may fail before writes stop.
    failures_tolerated: int
    extra: Extra = extra_field()


@dataclass(frozen=True)
class Event:
    """Something that happened; `kind` is stable, such as `node_down`. Ordered by `revision`, then `seq`."""

    revision: int
    seq: int
    at: datetime
    kind: str
    node: Optional[str]
    shard: Optional[int]
    migration: Optional[int]
    detail: str
    #: Who asked: `coordinator`, `node:<id>` or `client`.
    actor: str
    extra: Extra = extra_field()


@dataclass(frozen=True)
class ResumeReport:
    """`POST /v1/cluster/resume`: what came of it, or with `dry_run` would."""

    suspended: bool
    generation: int
    revision: int
    #: Data nodes that told what they hold.
    heard: tuple[str, ...]
    #: Those that did not.
    missing: tuple[str, ...]
    #: How many shards get a primary.
    led: int
    #: Shards that nobody holds in full: the first 100, and how many there are.
    unheld: tuple[int, ...]
    unheld_total: int
    extra: Extra = extra_field()
