"""Configurations come into force with their entry and leave with it; who is known by which incarnation; when a cluster is formed."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from raftkv.errors import InvariantBroken
from raftkv.raft.membership import Membership, View, decode_configuration, encode_configuration
from raftkv.raft.messages import Append, AppendResponse, PreVote, PreVoteResponse, Vote, VoteResponse
from raftkv.raft.quorum import Tally
from raftkv.raft.ready import Role
from raftkv.raft.types import Configuration, Entry, EntryKind, Member, SnapshotMeta
from tests.raft.bare import bare, batch, campaigns, hears, role_of, settle, stored, take, ticks
from tests.raft.network import TEST_CONFIG, formed, unformed

THREE = formed("n1", "n2", "n3")
FIVE = formed("n1", "n2", "n3", "n4", "n5")


def changes_to(index: int, term: int, configuration: Configuration) -> Entry:
    """An entry that brings `configuration`."""
    return Entry(index, term, EntryKind.CONFIGURATION, encode_configuration(configuration))


# -- values


@pytest.mark.parametrize("configuration", [Configuration(), THREE, unformed("a"), formed("n1", "n2", learners=("n3",), lease_reads=True)])
def test_a_configuration_survives_its_entry(configuration: Configuration) -> None:
    """What a configuration entry carries is what was put in."""
    assert decode_configuration(encode_configuration(configuration)) == configuration


@pytest.mark.parametrize("payload", [b"", b"\x93", b"\xc0", b"\x91\x01", b"nonsense"])
def test_a_payload_that_is_no_configuration_stops_the_node(payload: bytes) -> None:
    """A configuration entry that cannot be read is no reason to guess."""
    with pytest.raises(InvariantBroken, match="does not hold a configuration"):
        decode_configuration(payload)


def test_who_is_known() -> None:
    """A member is known by its incarnation; a stranger, and a member whose incarnation is not known yet, is taken at its word."""
    view = View(Configuration((Member("a", 7), Member("b", 0)), ("a", "b")))
    assert [view.knows("a", 7), view.knows("a", 8), view.knows("b", 8), view.knows("x", 8)] == [True, False, True, True]


def test_formed_means_that_every_voter_is_known() -> None:
    """A cluster is formed when every voter's incarnation is known; a learner, which decides nothing, may be unknown."""
    members = (Member("a", 7), Member("b", 8), Member("c", 0))
    assert View(Configuration(members, ("a", "b"), (), ("c",))).formed
    assert not View(Configuration(members, ("a", "b", "c"))).formed
    assert not View(Configuration(members, ("a", "b"), ("a", "c"))).formed


def test_forming_keeps_what_is_known() -> None:
    """The forming configuration fills in what the votes told and changes nothing else."""
    old = Configuration((Member("a", 7, "a:1"), Member("b", 0, "b:1")), ("a", "b"), (), (), True)
    members = (Member("a", 7, "a:1"), Member("b", 8, "b:1"))
    assert View(old).formed_with({"a": 9, "b": 8}) == Configuration(members, ("a", "b"), (), (), True)


def test_a_joint_view_decides_in_both_halves() -> None:
    """Under a joint configuration an index and an election need a majority of each half; learners count in neither."""
    view = View(Configuration(FIVE.members, ("n1", "n2", "n3"), ("n3", "n4", "n5"), ()))
    assert view.voting == {"n1", "n2", "n3", "n4", "n5"}
    assert view.agreed({"n1": 5, "n2": 5, "n3": 5}) == 0
    assert view.agreed({"n1": 5, "n2": 5, "n3": 5, "n4": 4}) == 4
    assert view.tally({"n1": True, "n2": True, "n3": True}) is Tally.PENDING
    assert view.tally({"n4": False, "n5": False}) is Tally.LOST


# -- history


def test_history_follows_the_log() -> None:
    """The configuration in force is that of the newest entry; cutting the entry off brings back the one before."""
    two = formed("n1", "n2")
    membership = Membership(SnapshotMeta(3, 1, THREE), ((5, FIVE),))
    membership.append(9, two)
    assert [membership.at(index) for index in (3, 4, 5, 8, 9)] == [THREE, THREE, FIVE, FIVE, two]
    membership.truncate(9)
    assert (membership.index, membership.view.configuration) == (9, two)
    membership.truncate(8)
    assert (membership.index, membership.view.configuration) == (5, FIVE)
    membership.compact(6)
    assert (membership.index, membership.at(6)) == (6, FIVE)
    with pytest.raises(InvariantBroken, match="no configuration is known"):
        membership.at(5)
    membership.reset(SnapshotMeta(20, 4, two))
    assert membership.view.configuration == two


def test_a_configuration_is_in_force_before_it_is_committed() -> None:
    """A follower obeys a configuration from the moment that its entry is in the log, and the old one when it is cut off (4.1)."""
    raft = bare(1)
    hears(raft, Append("n2", "n1", 1, 102, 1, 1, (changes_to(2, 1, FIVE), batch(3, 1)), 0))
    assert (raft.configuration, raft.committed) == (FIVE, 0)
    hears(raft, Append("n3", "n1", 2, 103, 1, 1, (batch(2, 2),), 0))
    assert raft.configuration == THREE


def test_a_restart_obeys_the_newest_configuration_of_the_log() -> None:
    """At start the configuration in force is the log's newest, committed or not, whatever the state holds (HAZARDS 56)."""
    facts = stored(1, 1, 1)
    raft = bare(1, 1, 1)
    assert raft.configuration == THREE


    restarted = type(raft)(raft.config, replace(facts, configurations=((2, FIVE),)), raft.rng)
    assert restarted.configuration == FIVE
    assert restarted.snapshot_meta(1).configuration == THREE
    assert restarted.snapshot_meta(3).configuration == FIVE


# -- the first election


def test_the_first_election_needs_every_vote_and_writes_down_who_voted() -> None:
    """An unformed cluster elects with all votes only; the winner's first entry names the incarnations that elected it."""
    raft = campaigns(bare(configuration=unformed("n1", "n2", "n3")))
    hears(raft, PreVoteResponse("n2", "n1", 0, 902, 1, True, 1))
    assert role_of(raft) is Role.PRE_CANDIDATE
    hears(raft, PreVoteResponse("n3", "n1", 0, 903, 1, True, 1))
    assert role_of(raft) is Role.CANDIDATE
    hears(raft, VoteResponse("n2", "n1", 1, 902, True))
    assert role_of(raft) is Role.CANDIDATE
    raft.step(VoteResponse("n3", "n1", 1, 903, True))
    assert role_of(raft) is Role.LEADER
    (entry,) = take(raft).entries
    assert entry.kind is EntryKind.CONFIGURATION
    assert [member.incarnation for member in decode_configuration(entry.payload).members] == [101, 902, 903]
    assert raft.view.formed


def test_one_refusal_ends_the_first_election() -> None:
    """A refusal makes an unformed candidate a follower at once: everybody is needed."""
    raft = campaigns(bare(configuration=unformed("n1", "n2", "n3")))
    hears(raft, PreVoteResponse("n2", "n1", 0, 902, 1, False, 1))
    assert role_of(raft) is Role.FOLLOWER


def test_a_cluster_with_an_unknown_learner_forms() -> None:
    """A learner that was never heard does not keep the voters from forming the cluster, and a majority elects from then on."""
    configuration = Configuration(unformed("n1", "n2", "n3", "n4").members, ("n1", "n2", "n3"), (), ("n4",))
    raft = campaigns(bare(configuration=configuration))
    hears(raft, *(PreVoteResponse(peer, "n1", 0, 900, 1, True, 1) for peer in ("n2", "n3")))
    hears(raft, *(VoteResponse(peer, "n1", 1, 900, True) for peer in ("n2", "n3")))
    assert role_of(raft) is Role.LEADER
    assert raft.view.formed


# -- wiped nodes


def test_a_wiped_node_does_not_get_a_vote() -> None:
    """A vote request under a known name with another incarnation is refused, and its term is not adopted (HAZARDS 42)."""
    raft = bare(1)
    assert hears(raft, PreVote("n2", "n1", 1, 999, 2, 9, 9)) == [PreVoteResponse("n1", "n2", 1, 101, 2, False)]
    assert hears(raft, Vote("n2", "n1", 7, 999, 9, 9)) == []
    assert (raft.term, raft.vote) == (1, None)


def test_a_wiped_nodes_vote_does_not_count() -> None:
    """A vote that comes under a known name with another incarnation elects nobody."""
    raft = campaigns(bare(1))
    hears(raft, PreVoteResponse("n2", "n1", 1, 999, 2, True, 1))
    assert role_of(raft) is Role.PRE_CANDIDATE
    assert raft.dropped["vote that does not count"] == 1


def test_a_wiped_node_grants_nothing_and_asks_for_nothing() -> None:
    """A node that is not the one its configuration means neither votes nor campaigns, and takes entries."""
    raft = bare(1, incarnation=999)
    assert hears(raft, Vote("n2", "n1", 2, 102, 9, 9)) == [VoteResponse("n1", "n2", 2, 999, False)]
    assert ticks(raft, 5 * TEST_CONFIG.election_ticks) == []
    assert role_of(raft) is Role.FOLLOWER
    assert hears(raft, Append("n2", "n1", 2, 102, 1, 1, (batch(2, 2),), 0)) == [AppendResponse("n1", "n2", 2, 999, 2)]


def test_a_learner_does_not_campaign_and_grants_votes() -> None:
    """A learner never campaigns; it grants a vote, because a newer configuration that it has not seen may owe it (HAZARDS 40)."""
    raft = bare(1, configuration=Configuration(THREE.members, ("n2", "n3"), (), ("n1",)))
    ticks(raft, 5 * TEST_CONFIG.election_ticks)
    assert role_of(raft) is Role.FOLLOWER
    assert hears(raft, Vote("n2", "n1", 2, 102, 9, 9)) == [VoteResponse("n1", "n2", 2, 101, True)]
    assert settle(raft) == []
