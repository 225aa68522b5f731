"""What a leader knows of one peer: the three states, flow control, and marks that never go back."""

from __future__ import annotations

import pytest

from raftkv.raft.progress import Progress
from raftkv.raft.ready import PeerState


def probing(next_index: int = 10) -> Progress:
    """A peer of which nothing is known yet."""
    return Progress(next_index)


def replicating(match: int = 9) -> Progress:
    """A peer that holds everything up to `match`."""
    progress = Progress(match + 1)
    progress.acknowledged(match)
    progress.replicate()
    return progress


def test_a_probe_goes_alone() -> None:
    """While it is not known where the logs meet, one append is under way at a time; an answer of any kind lets the next one go."""
    for answer in (lambda p: p.acknowledged(5), lambda p: p.rejected(9, 4), Progress.alive):
        progress = probing()
        assert progress.may_send(1, 1)
        progress.sent(12, 100, commit=3)
        assert not progress.may_send(100, 1 << 20)
        answer(progress)
        assert progress.may_send(1, 1)


def test_a_probe_does_not_move_next() -> None:
    """What a probe carried is sent again if it is lost: only a pipelined append is taken to have arrived."""
    progress = probing()
    progress.sent(12, 100, commit=3)
    assert progress.next == 10


def test_the_pipeline_is_bounded_by_messages_and_bytes() -> None:
    """Appends flow without answers until so many messages, or so many bytes, are unacknowledged."""
    progress = replicating(0)
    for last in (1, 2, 3):
        assert progress.may_send(3, 1000)
        progress.sent(last, 10, commit=0)
    assert not progress.may_send(3, 1000)
    assert not progress.may_send(100, 30)
    progress.acknowledged(2)
    assert progress.may_send(3, 1000)
    assert progress.may_send(100, 30)
    assert (progress.match, progress.next) == (2, 4)


def test_an_empty_append_takes_no_place_in_the_pipeline() -> None:
    """What carries no entry is not counted: its acknowledgement would be for something that was acknowledged before."""
    progress = replicating(4)
    for _ in range(10):
        progress.sent(4, 0, commit=4)
    assert progress.may_send(1, 1)
    assert progress.commit_sent == 4


def test_match_never_goes_back() -> None:
    """A late acknowledgement of less changes neither match nor next (HAZARDS 14)."""
    progress = replicating(9)
    assert progress.acknowledged(4) is False
    assert (progress.match, progress.next) == (9, 10)


def test_an_acknowledgement_beyond_next_moves_it() -> None:
    """A peer that holds more than was sent in this term is asked for what follows: match stays below next."""
    progress = probing(3)
    assert progress.acknowledged(7) is True
    assert (progress.match, progress.next) == (7, 8)


@pytest.mark.parametrize(
    ("rejected", "meeting", "expected"),
    [(9, 4, 5), (9, 9, 9), (9, 0, 1), (9, -1, 1)],
)
def test_a_rejected_probe_goes_back(rejected: int, meeting: int, expected: int) -> None:
    """A rejection of the probe under way moves next back to where the logs may meet, by one at the least, and never to 0."""
    progress = probing(10)
    progress.sent(10, 1, commit=0)
    assert progress.rejected(rejected, meeting) is True
    assert progress.next == expected


@pytest.mark.parametrize("rejected", [8, 10, 3])
def test_a_rejection_of_another_probe_is_an_old_story(rejected: int) -> None:
    """A rejection that is not of the probe under way is ignored (HAZARDS 16)."""
    progress = probing(10)
    progress.sent(10, 1, commit=0)
    assert progress.rejected(rejected, 1) is False
    assert progress.next == 10


def test_a_late_rejection_in_the_pipeline_is_ignored() -> None:
    """What was rejected and has been acknowledged since changes nothing."""
    progress = replicating(9)
    assert progress.rejected(9, 3) is False
    assert progress.state is PeerState.REPLICATE


def test_a_rejection_in_the_pipeline_goes_back_to_what_is_known() -> None:
    """A lost append shows as a rejection of a later one: begin again after the last acknowledged entry, as a probe."""
    progress = replicating(9)
    progress.sent(12, 3, commit=9)
    progress.sent(15, 3, commit=9)
    assert progress.rejected(12, 9) is True
    assert (progress.state, progress.next, progress.may_send(1, 1)) == (PeerState.PROBE, 10, True)


def test_nothing_is_appended_while_a_snapshot_is_under_way() -> None:
    """In SNAPSHOT nothing leaves, whatever arrives, until the transfer has ended."""
    progress = probing(3)
    progress.snapshot(20)
    progress.alive()
    assert progress.rejected(2, 0) is False
    assert not progress.may_send(100, 1 << 20)


@pytest.mark.parametrize(("ok", "expected"), [(True, 21), (False, 5)])
def test_after_a_snapshot_a_probe_waits_for_a_sign(ok: bool, expected: int) -> None:
    """After the transfer the next append follows the snapshot, or what was there before if it failed, and waits for an answer."""
    progress = probing(3)
    progress.acknowledged(4)
    progress.snapshot(20)
    progress.snapshot_finished(ok)
    assert (progress.state, progress.next, progress.may_send(1, 1)) == (PeerState.PROBE, expected, False)
    progress.alive()
    assert progress.may_send(1, 1)


def test_what_was_acknowledged_beyond_a_snapshot_stands() -> None:
    """A snapshot older than what the peer acknowledged meanwhile moves nothing back."""
    progress = probing(3)
    progress.snapshot(20)
    progress.acknowledged(30)
    progress.snapshot_finished(True)
    assert (progress.match, progress.next) == (30, 31)


def test_a_peer_that_forgot_is_met_anew() -> None:
    """When a peer may have lost what it acknowledged, its match counts from 0 again and a probe goes to the end of the log."""
    progress = replicating(9)
    progress.sent(12, 3, commit=9)
    progress.round = 7
    progress.forgot(12)
    assert (progress.match, progress.next, progress.round, progress.state) == (0, 13, 0, PeerState.PROBE)


def test_what_others_see() -> None:
    """The view of a peer tells match, next, state, whether it was heard and whether it counts."""
    view = replicating(9).view()
    assert (view.match, view.next, view.state, view.recently_active, view.counts) == (9, 10, PeerState.REPLICATE, False, True)
