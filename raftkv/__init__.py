"""raftkv: a replicated, durable key-value store on a Raft engine of its own. These are its public names."""

from __future__ import annotations

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
    StorageError,
    Unavailable,
    Uncertain,
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
    "StorageError",
    "Unavailable",
    "Uncertain",
    "__version__",
]
