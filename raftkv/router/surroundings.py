"""What the commands of connections and of the node need of the rest of the node, in one value that the router makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

from raftkv.router.channels import Channels
from raftkv.router.connection import Connection
from raftkv.router.info import Counts
from raftkv.router.ports import NodeFacts, OperationsPort, ReplicaPort, SocketFacts
from raftkv.router.postponed import Postponed


class Surroundings(Struct, frozen=True, kw_only=True):
    """What the desk has of the router and of what is around it.

    `facts` and `sockets` tell what the server knows of the node and of a connection, `counts` what the router counts; `operations` does
    what an operator asks; `connections` are those of this node, `disconnect` ends one, and `unblock` ends the waiting of one, with an
    error or as if its time were over: False when it does not wait.
    """

    replica: ReplicaPort
    facts: Callable[[], NodeFacts]
    sockets: Callable[[int], SocketFacts]
    counts: Callable[[], Counts]
    operations: OperationsPort
    connections: Mapping[int, Connection]
    disconnect: Callable[[Connection], None]
    unblock: Callable[[int, bool], bool]
    postponed: Postponed
    channels: Channels
