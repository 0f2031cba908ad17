"""Client of ruvector-cluster, the coordinator of a sharded vector database.

`Client` routes keys by a cached map, follows what changes, and administers the cluster. Everything it raises on purpose is a
`ClusterError`. `hashing` has the functions from a key to its shard.
"""

from . import hashing
from .changes import (
    Bookmark,
    Change,
    Changes,
    MigrationChanged,
    NodeChanged,
    NodeRemoved,
    OtherChange,
    PolicyChanged,
    ShardChanged,
    Snapshot,
    WatchEvent,
)
from .client import Client
from .errors import (
    BadAnswer,
    ClientClosed,
    ClusterError,
    Compacted,
    ConfigError,
    Conflict,
    Invalid,
    Malformed,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    Refused,
    TooLarge,
    Unavailable,
    UnknownHash,
)
from .held import Freshness
from .model import *  # noqa: F403
from .model import __all__ as _model_names
from .paths import Consistency
from .watch import Watch

__all__ = [
    "BadAnswer",
    "Bookmark",
    "Change",
    "Changes",
    "Client",
    "ClientClosed",
    "ClusterError",
    "Compacted",
    "ConfigError",
    "Conflict",
    "Consistency",
    "Freshness",
    "Invalid",
    "Malformed",
    "MigrationChanged",
    "NodeChanged",
    "NodeRemoved",
    "NotFound",
    "OtherChange",
    "OutcomeUnknown",
    "PolicyChanged",
    "PreconditionFailed",
    "Refused",
    "ShardChanged",
    "Snapshot",
    "TooLarge",
    "Unavailable",
    "UnknownHash",
    "Watch",
    "WatchEvent",
    "hashing",
    *_model_names,
]
