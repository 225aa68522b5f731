"""Configurations: who decides, as told by the log itself.

A configuration is in force from the moment that its entry is in the log, committed or not (thesis, section 4.1), and no longer when the
entry is cut off. `Membership` keeps those that the log holds. Changing a configuration is not done here; this module answers for
whatever configuration an entry brings, joint ones and learners included.

Incarnations: a configuration in which every voter's incarnation is known is *formed*. Before, an election needs every voter, and the
winner writes down which incarnations elected it; afterwards a node that returns under its name with another incarnation counts for
nothing, because it has forgotten what it promised.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from raftkv.errors import InvariantBroken
from raftkv.raft.quorum import Tally, agreed_jointly, tally_jointly, tally_unanimous
from raftkv.raft.types import Configuration, Incarnation, Index, Member, NodeId, SnapshotMeta

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Configuration)


def encode_configuration(configuration: Configuration) -> bytes:
    """The payload of a CONFIGURATION entry."""
    return _encoder.encode(configuration)


def decode_configuration(payload: bytes) -> Configuration:
    """The configuration in the payload of a CONFIGURATION entry.

    Raises:
        InvariantBroken: the payload is no configuration, although its checksums were right.
    """
    try:
        return _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvariantBroken(f"a configuration entry does not hold a configuration: {error}") from error


class View:
    """A configuration with its questions answered quickly. Built once for each configuration that comes into force."""

    __slots__ = ("configuration", "formed", "incarnations", "nodes", "voting")

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.nodes: tuple[NodeId, ...] = tuple(sorted(member.id for member in configuration.members))
        self.voting: frozenset[NodeId] = frozenset(configuration.voters) | frozenset(configuration.outgoing)
        self.incarnations: dict[NodeId, Incarnation] = {member.id: member.incarnation for member in configuration.members}
        self.formed = all(self.incarnations.get(voter) for voter in self.voting)

    def knows(self, node: NodeId, incarnation: Incarnation) -> bool:
        """Whether `node` is the one that this configuration means: its promises count. A node that is no member, or whose
        incarnation is not known yet, is taken at its word."""
        known = self.incarnations.get(node, 0)
        return known in (0, incarnation)

    def agreed(self, reached: Mapping[NodeId, int]) -> int:
        """The largest number that this configuration's quorum has reached."""
        return agreed_jointly(self.configuration.voters, self.configuration.outgoing, reached)

    def tally(self, votes: Mapping[NodeId, bool]) -> Tally:
        """How an election under this configuration stands."""
        if not self.formed:
            return tally_unanimous(sorted(self.voting), votes)
        return tally_jointly(self.configuration.voters, self.configuration.outgoing, votes)

    def formed_with(self, incarnations: Mapping[NodeId, Incarnation]) -> Configuration:
        """This configuration with every unknown incarnation filled in from `incarnations`."""
        members = tuple(
            Member(member.id, member.incarnation or incarnations.get(member.id, 0), member.peer_address)
            for member in self.configuration.members
        )
        old = self.configuration
        return Configuration(members, old.voters, old.outgoing, old.learners, old.lease_reads)


class Membership:
    """The configurations of one log, oldest first: the one at the log's begin, then one for each configuration entry."""

    def __init__(self, begin: SnapshotMeta, entries: tuple[tuple[Index, Configuration], ...]) -> None:
        self._history: list[tuple[Index, Configuration]] = [(begin.index, begin.configuration), *entries]
        self.view = View(self._history[-1][1])

    @property
    def index(self) -> Index:
        """The index of the configuration in force."""
        return self._history[-1][0]

    def at(self, index: Index) -> Configuration:
        """The configuration in force at `index`."""
        for start, configuration in reversed(self._history):
            if start <= index:
                return configuration
        raise InvariantBroken(f"no configuration is known at index {index}; the oldest is at {self._history[0][0]}")

    def append(self, index: Index, configuration: Configuration) -> None:
        """The entry at `index` brings `configuration` into force."""
        self._history.append((index, configuration))
        self.view = View(configuration)

    def truncate(self, last: Index) -> None:
        """Entries after `last` are gone, and the configurations that they brought."""
        before = len(self._history)
        while len(self._history) > 1 and self._history[-1][0] > last:
            self._history.pop()
        if len(self._history) != before:
            self.view = View(self._history[-1][1])

    def compact(self, index: Index) -> None:
        """The log begins after `index`: forget what came into force before the configuration there."""
        at = self.at(index)
        self._history = [(index, at), *(item for item in self._history if item[0] > index)]

    def reset(self, begin: SnapshotMeta) -> None:
        """The log has been replaced by a snapshot, and every configuration with it."""
        self._history = [(begin.index, begin.configuration)]
        self.view = View(begin.configuration)
