"""What a node does that wants to lead: first it asks whether it could win (PreVote), then it asks for votes.

A vote counts only if it was cast for this very election, by the node that the configuration means, and only once. The candidate's own
vote is a message to itself that leaves after its term and vote are durable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftkv.raft.messages import Message, PreVote, PreVoteResponse, TimeoutNow, Vote, VoteResponse
from raftkv.raft.quorum import Tally
from raftkv.raft.ready import Role
from raftkv.raft.types import Incarnation, Index, NodeId

if TYPE_CHECKING:
    from raftkv.raft.node import Raft


class _Campaign:
    """What PreVote and Vote rounds share: a timeout, and votes by node."""

    has_output = False
    leader: NodeId | None = None
    hears_leader = False

    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        self._votes: dict[NodeId, bool] = {}
        self._incarnations: dict[NodeId, Incarnation] = {}
        self._elapsed = 0
        self._timeout = raft.rng.randrange(raft.config.election_ticks, 2 * raft.config.election_ticks)

    def tick(self) -> None:
        """At the end of the timeout try again, with a new PreVote round."""
        self._elapsed += 1
        if self._elapsed >= self._timeout:
            if self._raft.may_campaign:
                self._raft.become_pre_candidate()
            else:
                self._raft.become_follower(self._raft.term, None)

    def count(self, message: PreVoteResponse | VoteResponse) -> Tally:
        """Count a vote, if its sender's votes count, and tell how the election stands."""
        view = self._raft.view
        if message.sender in view.voting and view.knows(message.sender, message.incarnation):
            self._votes.setdefault(message.sender, message.granted)
            self._incarnations.setdefault(message.sender, message.incarnation)
        else:
            self._raft.dropped["vote that does not count"] += 1
        return view.tally(self._votes)

    def peer_lost(self, peer: NodeId) -> None:
        """No connection matters more than another to a candidate."""

    def ask_for_snapshot(self) -> None:
        """There is no leader to ask."""

    def flush(self) -> None:
        """Everything was queued when the campaign began."""

    def handed_out(self, last: Index) -> None:
        """A candidate appends nothing."""

    def check_invariants(self) -> None:
        """Nothing beyond what all roles promise."""


class PreCandidate(_Campaign):
    """Asks whether a majority would vote for it in the next term, and changes nothing meanwhile (thesis, section 9.6).

    `insistent` is who campaigns because the connection to the leader broke, long before any timeout: another node may notice that
    later, and keeps silent when it is asked before.
    """

    role = Role.PRE_CANDIDATE

    def __init__(self, raft: Raft, insistent: bool) -> None:
        super().__init__(raft)
        self._insistent = insistent

    def start(self) -> None:
        """Ask everybody, this node included. What was asked before counts no more, whether the answer has come or is still to come: a
        majority has to be without the leader at the same time."""
        raft = self._raft
        log = raft.log
        self._votes.clear()
        raft.pre_vote_round += 1
        for voter in sorted(raft.view.voting):
            raft.send(
                PreVote(raft.node, voter, raft.term, raft.incarnation, raft.term + 1, log.last, log.last_term, raft.pre_vote_round)
            )

    def tick(self) -> None:
        """The timeout. Until then, if insistent, ask again with each heartbeat's time."""
        later = self._elapsed + 1
        if self._insistent and later < self._timeout and later % self._raft.config.heartbeat_ticks == 0:
            self.start()
        super().tick()

    def step(self, message: Message) -> None:
        """Handle a message of this term."""
        if not isinstance(message, PreVoteResponse):
            if isinstance(message, TimeoutNow) and self._raft.may_campaign:
                self._raft.become_candidate(transfer=True)
            else:
                self._raft.dropped["not for a pre-candidate"] += 1
        elif message.campaign_term != self._raft.term + 1 or message.round != self._raft.pre_vote_round:
            self._raft.dropped["vote of another election"] += 1
        else:
            match self.count(message):
                case Tally.WON:
                    self._raft.become_candidate()
                case Tally.LOST:
                    self._raft.become_follower(self._raft.term, None)
                case Tally.PENDING:
                    pass


class Candidate(_Campaign):
    """Stands for election in a term of its own (paper, section 5.2)."""

    role = Role.CANDIDATE

    def __init__(self, raft: Raft, transfer: bool) -> None:
        super().__init__(raft)
        self._transfer = transfer

    def start(self) -> None:
        """Ask everybody, and vote for itself, once the term and the vote are durable."""
        raft = self._raft
        for voter in sorted(raft.view.voting):
            if voter == raft.node:
                raft.send_after_persist(VoteResponse(raft.node, raft.node, raft.term, raft.incarnation, True))
            else:
                raft.send_after_persist(
                    Vote(raft.node, voter, raft.term, raft.incarnation, raft.log.last, raft.log.last_term, self._transfer)
                )

    def step(self, message: Message) -> None:
        """Handle a message of this term."""
        if not isinstance(message, VoteResponse):
            self._raft.dropped["not for a candidate"] += 1
            return
        match self.count(message):
            case Tally.WON:
                self._raft.become_leader(self._incarnations)
            case Tally.LOST:
                self._raft.become_follower(self._raft.term, None)
            case Tally.PENDING:
                if not message.granted:
                    self._retry_soon()

    def _retry_soon(self) -> None:
        """Most likely another node stands in the same term, and neither wins. Two that stand again at times drawn by chance seldom
        collide twice, and need not be as far apart as election timeouts are: the refusal shows how fast votes travel."""
        raft = self._raft
        self._timeout = min(self._timeout, self._elapsed + raft.rng.randint(1, 2 * raft.config.heartbeat_ticks))
