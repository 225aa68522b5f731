"""The router: which request waits for what. Start at `router.router`.

::

    router.py       the order on a connection, forwarding, deadlines, outcomes; the one class that others use
    connection.py   one client: what it asked, what was answered, in which order replies leave
    writes.py       this node's session: sequence numbers, groups in flight, sending again
    proposals.py    at the leader: groups of all nodes become batches
    reads.py        linearizable reads, at the leader and at other nodes
    desk.py         commands that concern a connection or a node: who executes which; PING, HELLO, SELECT, …
    clients.py      CLIENT
    configuration.py  CONFIG
    cluster_view.py  CLUSTER: this cluster as Redis's clients of clusters understand it
    info.py         the text of INFO, and ROLE
    catalogue.py    COMMAND and HELP: the table of commands as Redis shows its own
    diagnostics.py  TIME, DEBUG, SLOWLOG, LATENCY, ACL, and what is refused
    postponed.py    WAIT and DEBUG SLEEP: requests that are answered later
    ports.py        what all this needs of its surroundings, and its settings
"""

from __future__ import annotations

from raftkv.router.ports import ClockPort, MachinePort, NodeFacts, PeerFacts, ReplicaPort, RouterSettings, SocketFacts
from raftkv.router.router import Router

__all__ = ["ClockPort", "MachinePort", "NodeFacts", "PeerFacts", "ReplicaPort", "Router", "RouterSettings", "SocketFacts"]
