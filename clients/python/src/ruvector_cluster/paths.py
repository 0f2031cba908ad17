"""Paths and parameters of requests, from arguments."""

from __future__ import annotations

from typing import Literal
from urllib.parse import quote

from .errors import ConfigError

#: How fresh an answer must be: `linearizable` has every change that was acknowledged before the call; `stale` is what the
#: control node that answers has, also without a quorum.
Consistency = Literal["linearizable", "stale"]


def node_path(node: str) -> str:
    return f"/v1/nodes/{_part('node', node)}"


def member_path(member: str) -> str:
    return f"/v1/members/{_part('id', member)}"


def shard_path(shard: int) -> str:
    return f"/v1/shards/{number('shard', shard)}"


def migration_path(migration: int) -> str:
    return f"/v1/migrations/{number('migration', migration)}"


def number(name: str, value: int) -> int:
    """A whole number from 0. Raises ConfigError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError(f"{name} is {value!r}: give an integer from 0")
    return value


def consistency_of(value: str) -> str:
    """Raises ConfigError."""
    if value not in ("linearizable", "stale"):
        raise ConfigError(f"consistency is {value!r}: give 'linearizable' or 'stale'")
    return value


def _part(name: str, value: str) -> str:
    """One part of a path. Whether it is an id is the control node's to say; an empty one would be another path."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{name} is {value!r}: give a name such as 'd1'")
    return encoded(name, value)


def encoded(name: str, value: str) -> str:
    """Percent-encoded, all but unreserved characters. Raises ConfigError for what has no UTF-8 form."""
    try:
        return quote(value, safe="")
    except UnicodeEncodeError as error:
        raise ConfigError(f"{name} is {value!r}: give text that has a UTF-8 form") from error
