"""raftkv: a replicated, durable key-value store on a Raft engine of its own. These are its public names."""

from __future__ import annotations

from raftkv.connecting import connect, connect_async
from raftkv.errors import (
    Busy,
    Corrupt,
    DirectoryInUse,
    DiskFull,
    InvalidRequest,
    InvalidSettings,
    InvariantBroken,
    NotLeader,
    ProtocolError,
    RaftkvError,
    Refused,
    ReplyError,
    StorageError,
    Unavailable,
    Uncertain,
    WatchFailed,
)

__version__ = "0.1.0"

__all__ = [
    "Busy",
    "Corrupt",
    "DirectoryInUse",
    "DiskFull",
    "InvalidRequest",
    "InvalidSettings",
    "InvariantBroken",
    "NotLeader",
    "ProtocolError",
    "RaftkvError",
    "Refused",
    "ReplyError",
    "StorageError",
    "Unavailable",
    "Uncertain",
    "WatchFailed",
    "__version__",
    "connect",
    "connect_async",
]
