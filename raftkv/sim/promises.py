"""What the nodes of a simulated cluster have promised one another, compared with what is on their disks.

Only somebody who sees all disks at once can say whether a vote that was counted was given, whether an entry that was acknowledged is
there, and whether a majority holds what is committed. A rule that is broken here has usually done no harm yet; to see the harm, the
next crash would have to fall on the right node at the right moment.

A node that has lost its directory, or that doubts itself, is excused from what it can no longer know. Nothing here changes anything.
"""

from __future__ import annotations

from typing import Protocol

from raftkv.raft.messages import AppendResponse, HeartbeatResponse, Message, PreVoteResponse, Vote, VoteResponse
from raftkv.raft.node import Raft
from raftkv.raft.ready import PeerProgress, PeerState, Role
from raftkv.raft.types import HardState, Incarnation, Index, NodeId, Term
from raftkv.replica import Replica
from raftkv.sim.trace import Violation
from raftkv.storage.wal import Wal

FASTEST = 1.6
"""How much faster one node's clock may run than another's."""

CLOCK_SLACK_MS = 120_000
"""The clocks of a majority jump, but stay within a minute of each other."""


class Promising(Protocol):
    """A node, as far as its promises are concerned."""

    @property
    def name(self) -> NodeId: ...
    @property
    def replica(self) -> Replica: ...
    @property
    def wal(self) -> Wal: ...
    @property
    def wiped(self) -> bool: ...
    @property
    def torn(self) -> bool: ...
    @property
    def now_ms(self) -> int: ...
    @property
    def wall_ms(self) -> int: ...


class Promises:
    """The promises of one cluster."""

    def __init__(self) -> None:
        self._nodes: dict[NodeId, Promising] = {}
        self._votes: dict[tuple[NodeId, Incarnation, Term], NodeId] = {}
        self._acknowledged: dict[tuple[NodeId, Incarnation], tuple[Term, Index]] = {}
        self._leading: dict[NodeId, tuple[Term, Index, dict[NodeId, Index]]] = {}
        """Of each leader: its term, what it had committed when it was seen last, and how far it believed each peer to be."""

        self._first_clock_ms = 0

    def started(self, node: Promising) -> None:
        """A process of `node` has opened its directory: what an earlier one acknowledged must be there."""
        self._nodes[node.name] = node
        self._leading.pop(node.name, None)
        self._check_kept(node)

    def sends(self, node: Promising, message: Message) -> None:
        """`message` leaves `node` now."""
        name, doubts = node.name, node.replica.raft.suspect is not None
        if isinstance(message, Vote) or (isinstance(message, VoteResponse | PreVoteResponse) and message.granted):
            if doubts:
                raise Violation("doubt", f"{name} may have forgotten what it acknowledged, and says {message}")
            if isinstance(message, VoteResponse):
                self._votes[name, message.incarnation, message.term] = message.to
        elif isinstance(message, AppendResponse | HeartbeatResponse):
            if doubts and message.counts:
                raise Violation("doubt", f"{name} may have forgotten what it acknowledged, and says that it counts: {message}")
            if isinstance(message, AppendResponse):
                self._acknowledges(node, message)

    def _acknowledges(self, node: Promising, message: AppendResponse) -> None:
        leader = self._nodes.get(message.to)
        raft = None if leader is None else leader.replica.raft
        if raft is not None and raft.role is Role.LEADER and raft.term == message.term:
            held, meant = node.wal.term_at(message.match), raft.log.term_at(message.match)
            if held is not None and meant is not None and held != meant:
                raise Violation("verified", f"{node.name} acknowledges {message.match}@{held}, {message.to} has {meant} there")
        key = (node.name, message.incarnation)
        term, match = self._acknowledged.get(key, (0, 0))
        if message.term > term or (message.term == term and message.match > match):
            self._acknowledged[key] = (message.term, message.match)

    def looked_at(self, node: Promising) -> None:
        """An event of `node` is over."""
        self._check_kept(node)
        raft = node.replica.raft
        if raft.role is not Role.LEADER:
            self._leading.pop(node.name, None)
            return
        peers = raft.progress()
        known = self._leading.get(node.name)
        if known is None or known[0] != raft.term:
            self._check_elected(node)
        else:
            if raft.committed > known[1]:
                self._check_committed(node, raft)
            for peer, progress in peers.items():
                before = known[2].get(peer, 0)
                _check_progress(node.name, peer, before, progress)
                if progress.match > before and progress.counts and peer in self._nodes:
                    self._check_match(raft, self._nodes[peer], progress.match)
        self._leading[node.name] = (raft.term, raft.committed, {peer: progress.match for peer, progress in peers.items()})

    @staticmethod
    def _check_match(raft: Raft, peer: Promising, match: Index) -> None:
        """What a leader believes of a peer's log is so."""
        held, meant = peer.wal.term_at(match), raft.log.term_at(match)
        lost = peer.wal.last_index < match or (held is not None and meant is not None and held != meant)
        if lost and not (peer.wiped or peer.torn):
            raise Violation("match", f"{raft.node} believes that {peer.name} holds {match}@{meant}; there is {held}")

    def _check_kept(self, node: Promising) -> None:
        """In the term in which it was acknowledged nothing can take an entry away."""
        raft = node.replica.raft
        term, match = self._acknowledged.get((node.name, raft.incarnation), (0, 0))
        if node.wal.last_index < match and node.wal.hard_state.term == term and raft.suspect is None:
            raise Violation("kept", f"{node.name} acknowledged {match} in term {term}, and its log ends at {node.wal.last_index}")

    def _check_elected(self, node: Promising) -> None:
        """Who begins to lead has the votes, its own among them and on its disk; of a cluster that has not formed, everybody's."""
        raft = node.replica.raft
        first = raft.last_index
        while raft.log.term_at(first - 1) == raft.term:
            first -= 1
        before = raft.membership.at(max(first - 1, raft.log.begin.index))
        known = {member.id: member.incarnation for member in before.members}
        givers = {voter for (voter, incarnation, term), to in self._votes.items() if (term, to) == (raft.term, node.name)
                  and known.get(voter, 0) in (0, incarnation)}
        if node.wal.hard_state == HardState(raft.term, node.name):
            givers.add(node.name)
        count, voters = len(givers.intersection(before.voters)), len(before.voters)
        needed = voters // 2 + 1 if all(known[voter] for voter in before.voters) else voters
        if count < needed:
            raise Violation("elected", f"{node.name} leads term {raft.term} by the votes of {sorted(givers)}, and needs {needed}")

    def _check_committed(self, node: Promising, raft: Raft) -> None:
        """A leader commits what a majority has on its disks, by an entry of its own term (paper, section 5.4.2)."""
        index = raft.committed
        term = raft.log.term_at(index)
        if term != raft.term:
            raise Violation("own term", f"{node.name} leads term {raft.term} and commits {index}@{term} by counting copies")
        if any(other.wiped or other.torn for other in self._nodes.values()):
            return
        voters = raft.configuration.voters
        holders = [voter for voter in voters if voter in self._nodes and self._holds(self._nodes[voter].wal, index, term)]
        if 2 * len(holders) <= len(voters):
            raise Violation("majority", f"{node.name} commits {index}@{term}, which only {holders} have on their disks")

    def clock_shows(self, node: Promising, clock_ms: int) -> None:
        """`node` is the first to apply a batch, after which the log's clock shows `clock_ms`: it began anywhere, and since then goes as
        fast as the nodes' clocks, or follows what a majority of them has reached."""
        if not clock_ms:
            return
        self._first_clock_ms = self._first_clock_ms or clock_ms
        walls = sorted((other.wall_ms for other in self._nodes.values()), reverse=True)
        latest_ms = max(self._first_clock_ms + node.now_ms * FASTEST, walls[len(walls) // 2]) + CLOCK_SLACK_MS
        if clock_ms > latest_ms:
            raise Violation("log's clock", f"the log's clock shows {clock_ms}; it began at {self._first_clock_ms}, the nodes show {walls}")

    @staticmethod
    def _holds(wal: Wal, index: Index, term: Term) -> bool:
        return wal.begin.index >= index or wal.term_at(index) == term


def _check_progress(name: NodeId, peer: NodeId, before: Index, progress: PeerProgress) -> None:
    """What a leader knows of a peer does not go back, but for one that may have lost the end of its log and says so, and an
    acknowledgement ends the probing."""
    if progress.counts and 0 < progress.match < before:
        raise Violation("match grows", f"{name} believed that {peer} holds {before}, and now {progress.match}")
    if progress.match > before and progress.state is PeerState.PROBE:
        raise Violation("pipelining", f"{name} knows that {peer} holds {progress.match}, and goes on probing")
