"""Who this node is: written once, in two copies, before the node first speaks to anybody.

What always holds:

- The identity is the last thing that is created in a new data directory, after the log. A directory with an identity is a node, and
  whatever it then lacks is lost, not new: nothing is created in its place, and no promise is forgotten by starting from zero.
- Both copies hold the same bytes. If one is missing or damaged it is made again from the other; if both are, the node does not
  start.
- It never changes. A node whose directory is wiped gets another incarnation, and so is another node to its cluster.

It does not hold the current members of the cluster, only the initial ones; the log knows the current ones.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from raftkv.codec.envelope import Damaged, UnknownVersion, unwrap, wrap
from raftkv.errors import Corrupt, InvariantBroken, StorageError
from raftkv.raft.types import Incarnation, Member, NodeId
from raftkv.storage.disk import Disk, read_file, replace_file
from raftkv.storage.recovery import WAY_BACK, CopiesAction, Copy, decide_copies

IDENTITY_PATHS = ("identity.1", "identity.2")
IDENTITY_MAGIC = b"raftkvID"
IDENTITY_VERSION = 1
MAX_IDENTITY_BYTES = 1 << 20


class Identity(Struct, frozen=True, array_like=True):
    """What a node is for as long as its data directory lives.

    `members` are the initial members of the cluster as the node was told them, with incarnation 0.
    """

    cluster_id: bytes
    cluster_name: str
    node: NodeId
    incarnation: Incarnation
    group: int
    members: tuple[Member, ...]
    format: int = IDENTITY_VERSION


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Identity)


def cluster_id(name: str, members: Iterable[Member]) -> bytes:
    """The 16 bytes that name a cluster: a hash of its name and its initial members' ids and addresses, in whatever order they come.

    Two clusters that were configured differently never take each other for the same.
    """
    digest = hashlib.sha256()
    texts = [name]
    for member in sorted(members, key=lambda member: member.id):
        texts += (member.id, member.peer_address)
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(4, "little"))
        digest.update(encoded)
    return digest.digest()[:16]


def draw_incarnation() -> Incarnation:
    """A number in [1, 2**63) that no other data directory has."""
    return secrets.randbelow((1 << 63) - 1) + 1


def identity_exists(disk: Disk) -> bool:
    """Whether the directory belongs to a node: there is a copy of an identity, sound or not."""
    return any(disk.exists(path) for path in IDENTITY_PATHS)


def load_identity(disk: Disk) -> Identity | None:
    """The identity, or None in a directory that has none yet. A copy that is missing or damaged is written again.

    Raises:
        Corrupt: no copy is sound, or they differ.
        StorageError: a newer program wrote it, or the disk failed.
    """
    copies = [_read_copy(disk, path) for path in IDENTITY_PATHS]
    found = [Copy.MISSING if copy is None else Copy.BAD if isinstance(copy, str) else Copy.GOOD for copy in copies]
    payloads = [copy for copy in copies if isinstance(copy, bytes)]
    action = decide_copies(found[0], found[1], differ=len(set(payloads)) > 1)
    if action is CopiesAction.NONE:
        return None
    if action is CopiesAction.CORRUPT:
        reasons = "; ".join(
            f"{path}: {copy if isinstance(copy, str) else 'missing' if copy is None else 'differs from the other'}"
            for path, copy in zip(IDENTITY_PATHS, copies, strict=True)
        )
        raise Corrupt(f"the identity of this node cannot be read ({reasons}). {WAY_BACK}")
    try:
        identity = _decoder.decode(payloads[0])
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{IDENTITY_PATHS[0]} has a sound checksum and is not an identity: {error}. {WAY_BACK}") from error
    if action is CopiesAction.REPAIR:
        _write(disk, payloads[0], [path for path, copy in zip(IDENTITY_PATHS, found, strict=True) if copy is not Copy.GOOD])
    return identity


def create_identity(disk: Disk, identity: Identity) -> Identity:
    """Make `identity` durable in a directory that has none. From the moment that this returns the directory is a node's.

    The log must have been created (`Wal.open`) before.

    Raises:
        InvariantBroken: there is an identity already, or no log yet.
    """
    if identity_exists(disk):
        raise InvariantBroken("this directory has an identity; a node's identity never changes")
    if not (disk.exists("wal/manifest") and disk.exists("hard_state")):
        raise InvariantBroken("the log must be created (Wal.open) before the identity: with an identity and no log a node would not start")
    _write(disk, _encoder.encode(identity), IDENTITY_PATHS)
    return identity


def _write(disk: Disk, payload: bytes, paths: Iterable[str]) -> None:
    for path in paths:
        replace_file(disk, path, wrap(IDENTITY_MAGIC, IDENTITY_VERSION, payload))


def _read_copy(disk: Disk, path: str) -> bytes | str | None:
    """The payload, or why it cannot be had, or None where there is no file."""
    if not disk.exists(path):
        return None
    try:
        return unwrap(IDENTITY_MAGIC, IDENTITY_VERSION, read_file(disk, path, MAX_IDENTITY_BYTES))
    except (Damaged, Corrupt) as error:
        return str(error)
    except UnknownVersion as error:
        raise StorageError(f"{path}: {error}. Start the version of raftkv that wrote it, or a newer one") from error
