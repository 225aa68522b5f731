"""Every error that raftkv raises.

::

    RaftkvError
    ├── Refused                 the request surely did not happen; it is safe to try again
    │   ├── NotLeader           this node does not lead; `leader` names who does, if known
    │   ├── Busy                too much is in flight; wait and try again
    │   ├── WatchFailed         a key that a transaction watched has changed; begin the transaction again
    │   └── Unavailable         no leader, no quorum, or this node cannot serve now
    ├── Uncertain               the request may or may not have happened
    ├── InvalidRequest          the request is wrong and did not happen; trying again will not help
    │   └── ReplyError          a node answered with an error of the command; `code` is its first word
    ├── InvalidSettings         a setting is out of range or contradicts another
    ├── ProtocolError           bytes from a connection that are not the protocol; the connection is closed
    ├── StorageError            the disk did not do what it must; the node stops
    │   ├── DiskFull            no space left; writes are refused, reads go on
    │   ├── Corrupt             a file does not hold what was written
    │   │   ├── StateDamaged    it is the state store, which is set aside and fetched from another node
    │   │   └── Rotten          it is entries in the middle of the log, which another node may still have
    │   └── DirectoryInUse      another process holds the data directory
    └── InvariantBroken         a bug: the node stops with a dump rather than go on

`definite` tells whether the outcome of what was asked for is known when the error is raised: true says that it did not happen.
"""

from __future__ import annotations


class RaftkvError(Exception):
    """The root of the tree."""

    definite = True


class Refused(RaftkvError):
    """The request surely did not happen."""


class NotLeader(Refused):
    """Only the leader does this. `leader` is the node that leads, as far as this one knows."""

    def __init__(self, leader: str | None) -> None:
        super().__init__(f"this node is not the leader; the leader is {leader or 'not known'}")
        self.leader = leader


class Busy(Refused):
    """A bound on what may be in flight is reached, or leadership is being handed over."""


class WatchFailed(Refused):
    """Somebody changed a key that the transaction watched, so nothing of it happened."""


class Unavailable(Refused):
    """There is no leader or no quorum, or this node is rebuilding its state."""


class Uncertain(RaftkvError):
    """The request may have happened, may happen later, or may never happen."""

    definite = False


class InvalidRequest(RaftkvError):
    """The request can never succeed as it is."""


class ReplyError(InvalidRequest):
    """A node refused the command in words of its own, such as ``WRONGTYPE …``. `code` is the first of them."""

    @property
    def code(self) -> str:
        """The first word of the reply."""
        return str(self).partition(" ")[0]


class InvalidSettings(RaftkvError, ValueError):
    """A setting cannot be used. The message names it, its value and the rule."""


class ProtocolError(RaftkvError):
    """A peer or client sent bytes that are not the protocol."""


class StorageError(RaftkvError):
    """A disk operation failed. What was being written may or may not be durable, so the node stops."""

    definite = False


class DiskFull(StorageError):
    """No space is left. Raised before anything was written, so the request did not happen."""

    definite = True


class Corrupt(StorageError):
    """A file does not hold what was written to it. The message names the file, the offset and the way back."""


class UnknownFormat(StorageError):
    """Data is in a format, or an entry names rules, that this program does not know: a newer one wrote it. The node stops."""


class StateDamaged(Corrupt):
    """The state store does not hold what was written. It can be had again: from the log, or from another node."""


class Rotten(Corrupt):
    """Entries that the log needs are not as they were written, all around them is. They can be had again from a node that has them."""


class DirectoryInUse(StorageError):
    """Another process holds the data directory."""

    definite = True


class InvariantBroken(RaftkvError):
    """Something that always holds does not: a bug. The node stops rather than go on with a state that cannot be trusted."""

    definite = False
