"""What a replica needs around it: somebody who sends, waits and wakes (`Shell`), the durable log (`LogPort`), and somebody who is told what
happened (`Listener`). The server and the simulator each bring their own; tests bring less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from raftkv.kv.machine import GroupReplies
from raftkv.raft.ready import RoleChange
from raftkv.raft.types import Entry, Index, NodeId, SnapshotMeta
from raftkv.storage.plan import LogWrite

_Result = TypeVar("_Result")


class Shell(Protocol):
    """What surrounds a replica: a network, threads, and somebody who calls `pump`."""

    def send(self, node: NodeId, value: object) -> bool:
        """Send `value` to `node`; False when it surely was not sent. Messages may be lost."""

    def background(self, work: Callable[[], _Result], done: Callable[[_Result | BaseException], None]) -> None:
        """Run `work` off the event loop, and `done` with its result or error on it."""

    def background_read(self, work: Callable[[], _Result], done: Callable[[_Result | BaseException], None]) -> None:
        """The same for long reads, which must not keep anything else waiting."""

    def wake(self) -> None:
        """Call `Replica.pump` soon."""


class LogPort(Protocol):
    """The durable log. Reports through `Replica.persisted`, in order."""

    def submit(self, write: LogWrite) -> None:
        """Queue `write`; it will be durable when `Replica.persisted(write.number)` is called."""

    def compact(self, meta: SnapshotMeta) -> None:
        """Queue forgetting the entries up to `meta.index`, after everything queued before."""

    def clear_suspect(self) -> None:
        """Queue recording that the node counts again."""

    def read(self, first: Index, last: Index, max_bytes: int) -> Sequence[Entry]:
        """Durable entries from `first`, at most `max_bytes` but at least one; none when `first` is forgotten. Blocks."""

    @property
    def size_bytes(self) -> int:
        """What the log takes on disk."""


class Listener(Protocol):
    """Who is told what happened: the router."""

    def role_changed(self, change: RoleChange, now_ms: int) -> None:
        """The node's role, term or leader has changed."""

    def applied(self, index: Index, groups: list[GroupReplies], now_ms: int, pushed: Sequence[bytes] = ()) -> None:
        """The entry at `index` has been applied and answered `groups`; the keys `pushed` may have elements now that somebody waits for."""

    def read_point(self, context: int, index: Index) -> None:
        """The read `context` is linearizable once `index` is applied."""

    def appended(self, now_ms: int) -> None:
        """Everything proposed here is durable here."""

    def snapshot_installed(self, now_ms: int) -> None:
        """The state has jumped; entries were skipped. Told before later ones are applied."""
