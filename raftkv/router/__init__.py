"""The router: which request waits for what. Start at `router.router`.

::

    router.py       the order on a connection, forwarding, deadlines, outcomes; the one class that others use
    connection.py   one client: what it asked, what was answered, in which order replies leave
    writes.py       this node's session: sequence numbers, groups in flight, sending again
    proposals.py    at the leader: groups of all nodes become batches
    reads.py        linearizable reads, at the leader and at other nodes
    desk.py         commands that concern a connection or a node: PING, HELLO, CLIENT, INFO, …
    info.py         the text of INFO, and ROLE
    catalogue.py    COMMAND: the table of commands as Redis shows its own
    ports.py        what all this needs of its surroundings, and its settings
"""

from __future__ import annotations

from raftkv.router.ports import ClockPort, MachinePort, NodeFacts, PeerFacts, ReplicaPort, RouterSettings
from raftkv.router.router import Router

__all__ = ["ClockPort", "MachinePort", "NodeFacts", "PeerFacts", "ReplicaPort", "Router", "RouterSettings"]
