"""`Raft`: the verbs, the term gate, and the transitions between roles.

The shell calls verbs and takes `Ready`s; see `raftkv.raft` for the protocol and `raftkv.raft.ready` for what to do with a Ready. What a
role does with a message is in `follower`, `candidate` and `leader`; the state that only a role needs lives in its object and dies with
it. Here is what every role shares: term and vote, the log, the configuration, what is on its way out, and the doubts that a node may
have about itself (`suspect`, `fenced`, a disk that hangs).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence, Set
from typing import Final

from raftkv.errors import InvariantBroken, NotLeader
from raftkv.raft.candidate import Candidate, PreCandidate
from raftkv.raft.config import Config
from raftkv.raft.follower import Follower
from raftkv.raft.leader import Leader
from raftkv.raft.log import Log
from raftkv.raft.membership import Membership, View, decode_configuration
from raftkv.raft.messages import (
    Append,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
    PreVote,
    PreVoteResponse,
    SnapshotRequest,
    Vote,
    VoteResponse,
)
from raftkv.raft.ready import Fetch, PeerProgress, ReadPoint, Ready, Role, RoleChange
from raftkv.raft.types import (
    Configuration,
    Entry,
    EntryId,
    EntryKind,
    HardState,
    Incarnation,
    Index,
    NodeId,
    SnapshotMeta,
    Stored,
    Term,
)

_CONFIGURATION: Final = EntryKind.CONFIGURATION
_FROM_LEADER = (Append, Heartbeat, InstallSnapshot)

LAST_RESORT_TIMEOUTS: Final = 4
"""How many least election timeouts nobody must have led before a fenced node campaigns: by then everybody else has tried twice."""


class Raft:
    """One node's part in one Raft group.

    Args:
        config: settings; durations in ticks.
        stored: what the node's disk holds.
        rng: where election timeouts are drawn from; the only source of chance.

    Raises:
        InvariantBroken: `stored` contradicts itself.
    """

    def __init__(self, config: Config, stored: Stored, rng: random.Random) -> None:
        self.config = config
        self.node: NodeId = stored.node
        self.incarnation: Incarnation = stored.incarnation
        self.log = Log(stored, config.window_bytes, config.window_entries)
        self.membership = Membership(stored.snapshot, stored.configurations)
        self.rng = rng
        self.dropped: Counter[str] = Counter()
        self.ticks = 0
        self.pre_vote_round = 0
        """How often this process has asked for PreVotes: the number of the newest round."""
        self._term: Term = max(stored.hard_state.term, stored.last.term)
        self._vote: NodeId | None = stored.hard_state.vote if self._term == stored.hard_state.term else None
        self._durable_term: Term = stored.hard_state.term
        self._hard_state = stored.hard_state
        self._suspect: Index | None = stored.suspect
        self._suspect_term: Term = stored.hard_state.term
        # Whom this node promised what before it was started is forgotten, unless it never was in a term.
        self._promised_until = config.election_ticks if stored.hard_state.term else 0
        self._fenced: str | None = stored.fenced
        self._last_led = 0
        """The tick at which somebody was last known to lead."""
        self._number = 0
        self._messages: list[Message] = []
        self._after_persist: list[Message] = []
        self._reads: list[ReadPoint] = []
        self._fetches: list[Fetch] = []
        self._fetching: set[NodeId] = set()
        self._snapshot: SnapshotMeta | None = None
        self._paged: Index = self.log.applied
        self._self_page: tuple[Entry, ...] = ()
        self._role: Follower | PreCandidate | Candidate | Leader = Follower(self, None)
        self._reported = RoleChange(Role.FOLLOWER, 0, None)
        self.check_invariants()

    # Questions.

    @property
    def role(self) -> Role:
        """The node's role."""
        return self._role.role

    @property
    def term(self) -> Term:
        """The node's term."""
        return self._term

    @property
    def vote(self) -> NodeId | None:
        """Whom the node voted for in its term."""
        return self._vote

    @property
    def leader(self) -> NodeId | None:
        """Who leads this term, as far as known."""
        return self._role.leader

    @property
    def committed(self) -> Index:
        """The newest entry known to be committed."""
        return self.log.committed

    @property
    def last_index(self) -> Index:
        """The end of the log."""
        return self.log.last

    @property
    def applied_index(self) -> Index:
        """The newest entry that the shell said to be applied."""
        return self.log.applied

    @property
    def persisted_index(self) -> Index:
        """The newest entry that would survive a crash."""
        return self.log.persisted

    @property
    def configuration(self) -> Configuration:
        """The configuration in force."""
        return self.membership.view.configuration

    @property
    def view(self) -> View:
        """The configuration in force, with its questions answered."""
        return self.membership.view

    @property
    def suspect(self) -> Index | None:
        """Set while an acknowledged entry may be missing here; the largest index that may be."""
        return self._suspect

    @property
    def fenced(self) -> str | None:
        """Why the state machine here cannot be used, if so."""
        return self._fenced

    @property
    def snapshot_pending(self) -> bool:
        """Whether the next Ready puts a snapshot in the place of the state."""
        return self._snapshot is not None

    @property
    def durable_term(self) -> Term:
        """The newest term that is on disk: only that may be shown to others."""
        return self._durable_term

    @property
    def disk_hangs(self) -> bool:
        """Whether something has been on its way to the disk for longer than an election takes."""
        oldest = self.log.oldest_write_tick
        return oldest is not None and self.ticks - oldest > self.config.election_ticks

    @property
    def may_campaign(self) -> bool:
        """Whether this node could lead: it votes, is the one that the configuration means, and has no doubt about itself. A fenced node
        may only when nobody else seems to be electable."""
        return (
            self.node in self.view.voting
            and self.view.knows(self.node, self.incarnation)
            and self._suspect is None
            and (self._fenced is None or self._is_last_resort)
            and self._snapshot is None
            and not self.disk_hangs
        )

    @property
    def _is_last_resort(self) -> bool:
        """Whether others have campaigned in vain, so that this node may be the only one with everything that is committed: it can bring
        another node up to date, and hand over to it (HAZARDS 45)."""
        silence = self.ticks - self._last_led
        return silence >= LAST_RESORT_TIMEOUTS * self.config.election_ticks and len(self.view.voting) > 1

    def progress(self) -> dict[NodeId, PeerProgress]:
        """What the leader knows of each peer; empty on other nodes."""
        role = self._role
        return {peer: progress.view() for peer, progress in role.peers.items()} if isinstance(role, Leader) else {}

    def snapshot_meta(self, index: Index) -> SnapshotMeta:
        """What a snapshot of the state at `index` stands for.

        Raises:
            InvariantBroken: the log does not know the term of `index`.
        """
        term = self.log.term_at(index)
        if term is None:
            raise InvariantBroken(f"the log, from {self.log.begin.index} to {self.log.last}, has no entry {index}")
        return SnapshotMeta(index, term, self.membership.at(index))

    # Verbs.

    def tick(self) -> None:
        """One tick of time has passed."""
        self.ticks += 1
        self._role.tick()

    def step(self, message: Message) -> None:
        """A message has arrived. One that makes no sense is dropped and counted in `dropped`."""
        if message.to != self.node:
            self.dropped["for another node"] += 1
        elif message.term < 0 or (message.sender == self.node and message.incarnation != self.incarnation):
            self.dropped["malformed"] += 1
        elif type(message) is PreVote:
            self._answer_pre_vote(message)
        elif message.term == self._term or self._pass_term_gate(message):
            if type(message) is Append or type(message) is Heartbeat or type(message) is InstallSnapshot:
                self._hear_leader(message)
            elif type(message) is Vote:
                self._answer_vote(message)
            else:
                self._role.step(message)

    def propose(self, payload: bytes) -> EntryId:
        """Append a BATCH entry to the replicated log.

        Returns:
            The entry's name. It is committed when an entry of that name is applied; if another entry is applied at its index, it
            surely is not.

        Raises:
            NotLeader, Busy: the entry does not exist.
        """
        return self._leading().propose(payload)

    def read_index(self, context: int) -> None:
        """Ask for a linearizable read point; `Ready.reads` answers it while this node leads the present term.

        Raises:
            NotLeader: ask the leader.
        """
        self._leading().read_index(context)

    def transfer_leadership(self, to: NodeId) -> None:
        """Hand the leadership to `to`: proposals are refused until it has won or an election timeout has passed.

        Raises:
            NotLeader: only the leader can.
            InvalidRequest: `to` cannot lead.
        """
        self._leading().transfer(to)

    def give_way(self, able: Set[NodeId]) -> None:
        """Hand the leadership to one of `able` that has caught up, if there is one: they can do what this node cannot. Does nothing on
        other nodes, and while a transfer is under way. Asked again and again, it asks one after the other."""
        if isinstance(self._role, Leader):
            self._role.give_way(able)

    def step_down(self) -> None:
        """Stop leading; another node will be elected. Does nothing on other nodes."""
        if isinstance(self._role, Leader):
            self.become_follower(self._term, None)

    def peer_lost(self, peer: NodeId) -> None:
        """The connection to `peer` broke. If it leads, this node may campaign soon."""
        self._role.peer_lost(peer)

    def request_snapshot(self, reason: str) -> None:
        """The state machine here is lost or wrong: fence this node and ask the leader for a snapshot until one is installed."""
        if not isinstance(self._role, Follower):
            self.become_follower(self._term, None)
        self._fenced = reason
        self._role.ask_for_snapshot()

    def snapshot_finished(self, peer: NodeId, ok: bool) -> None:
        """The transfer of a snapshot to `peer` has ended."""
        if isinstance(self._role, Leader):
            self._role.snapshot_finished(peer, ok)

    def fetched(self, peer: NodeId, entries: Sequence[Entry]) -> None:
        """The answer to a `Fetch` for `peer`; empty when the log no longer holds what was asked for."""
        self._fetching.discard(peer)
        if peer == self.node:
            if entries and entries[0].index == self._paged + 1 and self._fenced is None:
                self._self_page = tuple(entries)
        elif isinstance(self._role, Leader):
            self._role.fetched(peer, tuple(entries))

    def persisted(self, number: int) -> None:
        """Everything in Ready `number`, and in those before it, is durable.

        Raises:
            InvariantBroken: there is no such Ready.
        """
        if number > self._number:
            raise InvariantBroken(f"Ready {number} is said to be durable; the newest is {self._number}")
        term = self.log.written(number)
        if term is not None and term > self._durable_term:
            self._durable_term = term
        if self._suspect is not None:
            self.clear_suspicion()

    def applied(self, index: Index) -> None:
        """The state machine holds everything up to `index`.

        Raises:
            InvariantBroken: that was never handed out.
        """
        if not self.log.applied <= index <= self._paged:
            raise InvariantBroken(f"{index} is said to be applied after {self.log.applied}; entries up to {self._paged} were handed out")
        self.log.applied = index

    def compacted(self, index: Index) -> SnapshotMeta:
        """The shell has cut the log behind `index`, whose state is durable elsewhere. Returns the log's new begin."""
        meta = self.snapshot_meta(index)
        self.log.compact(meta)
        self.membership.compact(index)
        return meta

    # Output.

    def has_ready(self) -> bool:
        """Whether `ready` would have something to say."""
        return bool(
            self._messages
            or self._after_persist
            or self.log.unhanded
            or self._role.has_output
            or self._reads
            or self._fetches
            or self._snapshot is not None
            or self._hard_state.term != self._term
            or self._hard_state.vote != self._vote
            or (self._paged < self.log.committed and self._has_page())
            or self._role_change() is not None
        )

    def ready(self) -> Ready:
        """The next batch of effects, with the next number."""
        self._role.flush()
        self._number += 1
        hard_state = None
        if self._hard_state.term != self._term or self._hard_state.vote != self._vote:
            hard_state = self._hard_state = HardState(self._term, self._vote)
        snapshot, self._snapshot = self._snapshot, None
        entries = self.log.hand_out(self._number, self._term, self.ticks, hard_state is not None or snapshot is not None)
        if entries:
            self._role.handed_out(entries[-1].index)
        committed = self._take_page() if self._paged < self.log.committed else ()
        change = self._role_change()
        if change is not None:
            self._reported = change
        ready = Ready(
            self._number,
            hard_state,
            snapshot,
            entries,
            self.log.committed,
            tuple(self._messages),
            tuple(self._after_persist),
            committed,
            tuple(self._fetches),
            tuple(self._reads),
            change,
        )
        self._messages.clear()
        self._after_persist.clear()
        self._fetches.clear()
        self._reads.clear()
        return ready

    def _role_change(self) -> RoleChange | None:
        role, leader, reported = self._role.role, self._role.leader, self._reported
        if reported.role is role and reported.term == self._term and reported.leader == leader:
            return None
        return RoleChange(role, self._term, leader)

    def _has_page(self) -> bool:
        log = self.log
        if self._paged >= min(log.committed, log.persisted) or self._paged != log.applied or self._fenced is not None:
            return False
        return bool(self._self_page) or self._paged + 1 >= log.window_first or self.node not in self._fetching

    def _take_page(self) -> tuple[Entry, ...]:
        """The next page of entries to apply; asks for a fetch when they are no longer in memory."""
        if not self._has_page():
            return ()
        first, last = self._paged + 1, min(self.log.committed, self.log.persisted)
        page = self.log.entries(first, last, self.config.max_page_bytes)
        if page is None:
            fetched, self._self_page = self._self_page, ()
            page = tuple(entry for entry in fetched if first <= entry.index <= last)
        if page:
            self._paged = page[-1].index
        else:
            self.fetch(self.node, first, min(last, self.log.window_first - 1), self.config.max_page_bytes)
        return page

    # What the roles share.

    def send(self, message: Message) -> None:
        """Let `message` leave: at once if its term is durable already, else after this Ready is."""
        (self._messages if message.term <= self._durable_term else self._after_persist).append(message)

    def send_after_persist(self, message: Message) -> None:
        """Let `message` leave when everything up to now is durable."""
        self._after_persist.append(message)

    def answer_read(self, context: int, index: Index) -> None:
        """The read `context` may be served once `index` is applied."""
        self._reads.append(ReadPoint(context, index))

    def fetch(self, peer: NodeId, first: Index, last: Index, max_bytes: int) -> None:
        """Ask the shell for entries that are no longer in memory, once at a time for each peer."""
        if peer not in self._fetching:
            self._fetching.add(peer)
            self._fetches.append(Fetch(peer, first, last, max_bytes))

    def append(self, kind: EntryKind, payload: bytes) -> Entry:
        """Append an entry of the present term; a configuration comes into force with it."""
        entry = Entry(self.log.last + 1, self._term, kind, payload)
        self.accept(entry)
        return entry

    def accept(self, entry: Entry) -> None:
        """Add `entry` to the log; a configuration comes into force with it."""
        self.log.append(entry)
        if entry.kind is _CONFIGURATION:
            self.membership.append(entry.index, decode_configuration(entry.payload))

    def truncate(self, last: Index) -> None:
        """Cut off what conflicts; configurations that it brought are rolled back."""
        self.log.truncate(last)
        self.membership.truncate(last)

    def commit_to(self, index: Index) -> None:
        """Everything up to `index` is committed. Never goes back."""
        index = min(index, self.log.last)
        if index > self.log.committed:
            self.log.committed = index

    def take_snapshot(self, meta: SnapshotMeta) -> None:
        """Put the snapshot at `meta` in the place of the state, and of the log where the log does not hold that entry."""
        if self.log.holds(meta.index, meta.term) and meta.index >= self.log.begin.index:
            self.log.jump(meta)
            self.membership.compact(self.log.begin.index)
        else:
            if meta.index <= self.log.committed:
                raise InvariantBroken(f"the snapshot at {meta.index} of term {meta.term} contradicts the committed log")
            self.log.reset(meta)
            self.membership.reset(meta)
        self._paged = meta.index
        self._self_page = ()
        self._snapshot = meta
        self._fenced = None

    def clear_suspicion(self) -> None:
        """A leader of the present term has brought this node past everything that it may have forgotten, so it counts again.

        The leader's log holds all that was committed in earlier terms, and so does this one once it shares a committed entry of the
        leader's own term. What was forgotten of the present term itself ends at `suspect`; in a term that this node had not seen when
        it forgot, there is nothing of the kind.
        """
        if self._suspect is None or not isinstance(self._role, Follower):
            return
        announced = self._role.announced_commit
        needed = max(announced, self._suspect) if self._term == self._suspect_term else announced
        if announced and self.log.persisted >= needed and self.log.term_at(announced) == self._term:
            self._suspect = None

    # The term gate and votes.

    def _pass_term_gate(self, message: Message) -> bool:
        """What a message of another term means, before anything else is looked at (paper, section 5.1). False: it ends here."""
        if message.term < self._term:
            if isinstance(message, PreVoteResponse) and isinstance(self._role, PreCandidate):
                return True  # a voter that slept through elections answers in its own term, and says for which it would vote
            self._answer_old_term(message)
            return False
        if isinstance(message, Vote):
            if self._holds_to_leader(message.transfer) or not self.view.knows(message.sender, message.incarnation):
                self.dropped["vote while a leader is known"] += 1
                return False
            self.become_follower(message.term, None)
        elif isinstance(message, _FROM_LEADER):
            self.become_follower(message.term, message.sender)
        else:
            self.become_follower(message.term, None)
        return True

    def _answer_old_term(self, message: Message) -> None:
        """Tell a sender that is behind which term it is, so that an old leader steps down and a lone candidate catches up."""
        if isinstance(message, Vote):
            self.send(VoteResponse(self.node, message.sender, self._term, self.incarnation, False))
        elif isinstance(message, _FROM_LEADER):
            self.send(HeartbeatResponse(self.node, message.sender, self._term, self.incarnation, 0, self._suspect is None))
        else:
            self.dropped["old term"] += 1

    def _holds_to_leader(self, transfer: bool) -> bool:
        """Stickiness (thesis, section 4.2.3): a node that hears from a leader helps nobody to depose it, unless the leader asked."""
        return not transfer and (self._role.hears_leader or self._keeps_promise)

    @property
    def _keeps_promise(self) -> bool:
        """Whether a leader may read on the strength of this node's silence: that outlives a new term and a restart (section 6.4.1)."""
        return self.ticks < self._promised_until and self.configuration.lease_reads

    def _would_vote_for(self, sender: NodeId, incarnation: Incarnation, last_index: Index, last_term: Term) -> bool:
        view = self.view
        return (
            self._suspect is None
            and view.knows(self.node, self.incarnation)
            and view.knows(sender, incarnation)
            and self.log.is_up_to_date(last_index, last_term)
        )

    def _answer_pre_vote(self, message: PreVote) -> None:
        if message.campaign_term > self._term and self._holds_to_leader(False) and message.sender != self.node:
            self.dropped["vote while a leader is known"] += 1
            return
        granted = message.campaign_term > self._term and self._would_vote_for(
            message.sender, message.incarnation, message.last_index, message.last_term
        )
        self.send(
            PreVoteResponse(self.node, message.sender, self._term, self.incarnation, message.campaign_term, granted, message.round)
        )

    def _answer_vote(self, message: Vote) -> None:
        granted = (
            (self._vote == message.sender or (self._vote is None and self._role.leader is None))
            and (message.transfer or not self._keeps_promise)
            and self._would_vote_for(message.sender, message.incarnation, message.last_index, message.last_term)
        )
        if granted:
            self._vote = message.sender
            if isinstance(self._role, Follower):
                self._role.voted()
            else:
                self.become_follower(self._term, None)
        self.send_after_persist(VoteResponse(self.node, message.sender, self._term, self.incarnation, granted))

    def _hear_leader(self, message: Append | Heartbeat | InstallSnapshot) -> None:
        if self._role.leader != message.sender:
            if self._role.leader is not None:
                raise InvariantBroken(f"{message.sender} and {self._role.leader} both lead term {self._term}")
            self.become_follower(self._term, message.sender)
        self._promised_until = self.ticks + self.config.election_ticks
        self._last_led = self.ticks
        self._role.step(message)

    # Transitions.

    def become_follower(self, term: Term, leader: NodeId | None) -> None:
        """Follow, in `term`; the vote is forgotten only when the term is new (paper, section 5.2)."""
        if term < self._term:
            raise InvariantBroken(f"the term would go back from {self._term} to {term}")
        if term > self._term:
            self._term = term
            self._vote = None
        if isinstance(self._role, Leader):
            self._last_led = self.ticks
        lost = self._role.lost if isinstance(self._role, Follower) and self._role.leader is None else False
        self._role = Follower(self, leader)
        if lost and leader is None:
            self._role.keep_hurrying()

    def become_pre_candidate(self, insistent: bool = False) -> None:
        """Ask whether an election could be won, without disturbing anybody (thesis, section 9.6); `insistent`: again and again."""
        if isinstance(self._role, Leader):
            raise InvariantBroken("a leader cannot become a pre-candidate")
        self._role = PreCandidate(self, insistent)
        self._role.start()

    def become_candidate(self, transfer: bool = False) -> None:
        """Begin an election in the next term (paper, section 5.2)."""
        if isinstance(self._role, Leader):
            raise InvariantBroken("a leader cannot become a candidate")
        self._term += 1
        self._vote = self.node
        self._role = Candidate(self, transfer)
        self._role.start()

    def become_leader(self, incarnations: dict[NodeId, Incarnation]) -> None:
        """The election is won; `incarnations` are those of the voters."""
        if not isinstance(self._role, Candidate):
            raise InvariantBroken(f"a {self._role.role} cannot become leader")
        self._role = Leader(self)
        self._role.start(incarnations)

    def _leading(self) -> Leader:
        if not isinstance(self._role, Leader):
            raise NotLeader(self._role.leader)
        return self._role

    def ask_for_snapshot(self, leader: NodeId) -> None:
        """Tell the leader that this node has no usable state."""
        if self._fenced is not None:
            self.send(SnapshotRequest(self.node, leader, self._term, self.incarnation, self._fenced))

    def check_invariants(self) -> None:
        """Everything that always holds; tests and the simulator call it after every event.

        Raises:
            InvariantBroken: something does not.
        """
        self.log.check()
        if self._paged < self.log.applied:
            raise InvariantBroken(f"{self.log.applied} is applied, entries up to {self._paged} were handed out")
        if self._durable_term > self._term:
            raise InvariantBroken(f"term {self._durable_term} is durable, the node is in term {self._term}")
        self._role.check_invariants()
