"""The core's picture of the log: terms of every entry, a bounded window of entries, and marks that an overwritten append cannot fool."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.errors import InvariantBroken
from raftkv.raft.log import ENTRY_BYTES, Log
from raftkv.raft.types import Entry, EntryId, SnapshotMeta, Stored, Term
from tests.raft.bare import THREE, batch, runs_of, stored

MANY = 1 << 20
NOTHING = EntryId(0, 0)


def log_of(
    *terms: Term, begin: EntryId = NOTHING, window_bytes: int = MANY, window_entries: int = MANY, tail: int | None = None
) -> Log:
    """A log whose entries after `begin` are of these `terms`, all durable; everything up to `begin` is committed and applied."""
    facts = stored(*terms, begin=SnapshotMeta(begin.index, begin.term, THREE), tail=tail)
    return Log(facts, window_bytes, window_entries)


def commit(log: Log, index: int) -> None:
    """Let everything up to `index` be committed and applied."""
    log.committed = log.applied = index


# -- questions


def test_terms_are_known_without_the_entries() -> None:
    """The term of every entry from the log's begin to its end is known, however few entries are in memory."""
    log = log_of(2, 2, 3, 5, 5, begin=EntryId(4, 1), tail=1)
    assert [log.term_at(index) for index in range(3, 11)] == [None, 1, 2, 2, 3, 5, 5, None]
    assert log.window_first == 9


@pytest.mark.parametrize(
    ("last_index", "last_term", "expected"), [(4, 2, True), (5, 2, True), (3, 2, False), (1, 3, True), (9, 1, False)]
)
def test_up_to_date(last_index: int, last_term: int, expected: bool) -> None:
    """The larger last term wins; among equal ones the longer log (paper, section 5.4.1)."""
    assert log_of(1, 1, 2, 2).is_up_to_date(last_index, last_term) is expected


@pytest.mark.parametrize(
    ("index", "term", "expected"),
    [(9, 9, 8), (8, 4, 8), (8, 3, 6), (7, 3, 6), (6, 2, 5), (5, 2, 5), (5, 1, 3), (9, 0, 3), (2, 5, 3)],
)
def test_where_two_logs_may_still_agree(index: int, term: int, expected: int) -> None:
    """The newest entry not after the index and not of a later term, found one run of terms at a time; the begin at the least."""
    assert log_of(2, 2, 3, 4, 4, begin=EntryId(3, 1)).newest_not_above(index, term) == expected


def test_entries_are_bounded_but_never_none() -> None:
    """A read of the window stops at its bound of bytes, and gives one entry even if that alone is larger."""
    log = log_of()
    for index, size in enumerate((3, 4, 50, 1), start=1):
        log.append(batch(index, 1, b"x" * size))
    assert log.entries(1, 4, 7) == (batch(1, 1, b"xxx"), batch(2, 1, b"xxxx"))
    assert log.entries(1, 4, 1) == (batch(1, 1, b"xxx"),)
    assert log.entries(3, 4, 10) == (batch(3, 1, b"x" * 50),)
    assert log.entries(2, 3, 1000) == (batch(2, 1, b"xxxx"), batch(3, 1, b"x" * 50))


def test_entries_out_of_the_window_are_not_invented() -> None:
    """What is no longer in memory is answered with None, never with other entries (HAZARDS 17)."""
    log = log_of(1, 1, 1, 1, tail=2)
    assert log.entries(2, 4, MANY) is None
    assert log.entries(3, 4, MANY) == (batch(3, 1), batch(4, 1))


# -- changes


@pytest.mark.parametrize("entry", [batch(2, 1), batch(4, 1), batch(3, 0)])
def test_an_entry_that_does_not_follow_is_refused(entry: Entry) -> None:
    """An entry is appended at the end only, and terms never fall along a log."""
    with pytest.raises(InvariantBroken, match="cannot follow"):
        log_of(1, 1).append(entry)


def test_what_is_committed_is_never_cut() -> None:
    """Cutting the log below the commit index stops the node."""
    log = log_of(1, 1, 1)
    commit(log, 2)
    log.truncate(2)
    with pytest.raises(InvariantBroken, match="committed"):
        log.truncate(1)


def test_an_overwritten_append_is_not_durable() -> None:
    """An append that is overwritten while it is being written counts only up to where the log was cut (HAZARDS 15)."""
    log = log_of(1, 1)
    for index in (3, 4, 5):
        log.append(batch(index, 1))
    log.hand_out(1, 1, 0, must_persist=False)
    log.truncate(3)
    log.append(batch(4, 2))
    log.append(batch(5, 2))
    log.hand_out(2, 2, 0, must_persist=False)
    assert log.written(1) == 1
    assert log.persisted == 3
    assert log.written(2) == 2
    assert log.persisted == 5


def test_cutting_what_was_durable_lowers_the_mark() -> None:
    """After a cut the durable mark is not above it, and the new entries are handed out again."""
    log = log_of(1, 1, 1)
    log.truncate(1)
    log.append(batch(2, 2))
    assert log.persisted == 1
    assert log.hand_out(1, 2, 0, must_persist=False) == (batch(2, 2),)
    log.written(1)
    assert log.persisted == 2


def test_a_reset_forgets_what_is_on_its_way() -> None:
    """After a snapshot has replaced the log, an older append that becomes durable counts for nothing."""
    log = log_of(1, 1)
    log.append(batch(3, 1))
    log.append(batch(4, 1))
    log.hand_out(1, 1, 0, must_persist=False)
    log.reset(SnapshotMeta(3, 2, THREE))
    log.append(batch(4, 2))
    log.written(1)
    assert (log.persisted, log.last, log.term_at(3), log.term_at(2)) == (3, 4, 2, None)
    log.check()


def test_a_new_state_within_the_log_keeps_the_log() -> None:
    """When the log holds the entry that a snapshot stands for, entries before and after it stay."""
    log = log_of(1, 1, 1, 1)
    log.jump(SnapshotMeta(3, 1, THREE))
    assert (log.begin.index, log.applied, log.committed, log.last) == (0, 3, 3, 4)
    log.check()


def test_a_new_state_at_an_entry_that_the_disk_has_not_heard_of() -> None:
    """When no Ready has carried the entry that a snapshot stands for, the log begins after it, as it will on the disk."""
    log = log_of(1)
    for index in (2, 3, 4):
        log.append(batch(index, 1))
    log.jump(SnapshotMeta(3, 1, THREE))
    assert (log.begin.index, log.applied, log.committed, log.last) == (3, 3, 3, 4)
    assert log.hand_out(1, 1, 0, must_persist=True) == (batch(4, 1),)
    log.check()


def test_compaction_keeps_the_terms_of_the_rest() -> None:
    """Cutting the log behind an applied entry forgets entries and terms before it, and no others."""
    log = log_of(1, 1, 2, 2, 3)
    commit(log, 4)
    log.compact(SnapshotMeta(3, 2, THREE))
    assert [log.term_at(index) for index in range(1, 7)] == [None, None, 2, 2, 3, None]
    assert log.entries(4, 5, MANY) == (batch(4, 2), batch(5, 3))
    log.check()


@pytest.mark.parametrize("index", [0, 5])
def test_only_what_is_applied_is_forgotten(index: int) -> None:
    """The log never begins after an entry that is not applied, nor before where it begins already."""
    log = log_of(1, 1, 1, begin=EntryId(2, 1))
    commit(log, 4)
    with pytest.raises(InvariantBroken, match="would begin"):
        log.compact(SnapshotMeta(index, 1, THREE))


def test_a_log_cut_to_its_end_grows_on() -> None:
    """A log without entries still knows the term at its begin, and goes on from there."""
    log = log_of(1, 2)
    commit(log, 2)
    log.compact(SnapshotMeta(2, 2, THREE))
    assert (log.last, log.last_term, log.window_first) == (2, 2, 3)
    log.append(batch(3, 2))
    assert (log.term_at(2), log.term_at(3)) == (2, 2)
    log.check()


# -- bounds


def test_the_window_is_bounded_by_entries_and_bytes() -> None:
    """Durable entries beyond the bounds leave memory, oldest first; their terms stay known."""
    log = log_of(window_entries=8, window_bytes=10 * (ENTRY_BYTES + 10))
    for index in range(1, 101):
        log.append(batch(index, 1, b"x" * 10))
        log.hand_out(index, 1, 0, must_persist=False)
        log.written(index)
        assert log.last - log.window_first + 1 <= 8
    assert log.term_at(1) == 1
    assert log.window_size == (log.last - log.window_first + 1) * (ENTRY_BYTES + 10)


def test_entries_stay_until_they_are_durable() -> None:
    """However small the window, what is not on disk yet stays in memory: nobody else has it."""
    log = log_of(window_entries=1, window_bytes=1)
    for index in range(1, 6):
        log.append(batch(index, 1))
    log.hand_out(1, 1, 0, must_persist=False)
    log.append(batch(6, 1))
    log.written(1)
    assert log.entries(6, 6, MANY) == (batch(6, 1),)
    assert log.hand_out(2, 1, 0, must_persist=False) == (batch(6, 1),)
    log.check()


# -- against a plain list

_Step = tuple[str, int]
_STEPS = st.lists(
    st.tuples(st.sampled_from(["append", "term", "truncate", "ready", "written", "compact", "commit"]), st.integers(0, 7)), max_size=60
)


class _Model:
    """A log as a list of terms, and the disk under it as another, written in order."""

    def __init__(self) -> None:
        self.begin = 0
        self.terms: list[int] = [0]  # by index, from 0
        self.disk: list[int] = [0]
        self.flights: list[tuple[int, int, list[int]]] = []
        self.handed = 0
        self.term = 1

    @property
    def durable(self) -> int:
        """How many entries of the log are on the disk as they are in the log."""
        same = 0
        while same + 1 < min(len(self.disk), len(self.terms)) and self.disk[same + 1] == self.terms[same + 1]:
            same += 1
        return same


@settings(max_examples=150, deadline=None)
@given(_STEPS)
def test_the_log_is_a_list_with_marks(steps: list[_Step]) -> None:
    """Whatever is appended, cut, written late and compacted: terms, window and marks are those of a plain list over a slow disk."""
    log, model = Log(Stored("n1", 1), 4 * ENTRY_BYTES, 4), _Model()
    number = 0
    for name, size in steps:
        match name:
            case "append":
                for _ in range(size):
                    log.append(batch(log.last + 1, model.term))
                    model.terms.append(model.term)
            case "term":
                model.term += 1
            case "truncate":
                last = max(log.committed, log.last - size)
                if last < log.last:  # as a conflict does: what is cut is replaced by an entry of a newer term
                    log.truncate(last)
                    model.term += 1
                    log.append(batch(last + 1, model.term))
                    model.terms[last + 1 :] = [model.term]
                    model.handed = min(model.handed, last)
            case "ready":
                number += 1
                entries = log.hand_out(number, model.term, 0, must_persist=True)
                assert [(entry.index, entry.term) for entry in entries] == list(enumerate(model.terms))[model.handed + 1 :]
                model.flights.append((number, model.handed, model.terms[model.handed + 1 :]))
                model.handed = log.last
            case "written" if model.flights:
                written, after, terms = model.flights.pop(0)
                model.disk[after + 1 :] = terms if terms else model.disk[after + 1 :]
                log.written(written)
            case "commit":
                log.committed = max(log.committed, log.last - size)
                log.applied = max(log.applied, min(log.committed, log.persisted))
            case "compact":
                index = max(log.begin.index, log.applied - size)
                log.compact(SnapshotMeta(index, model.terms[index]))
                model.begin = index
            case _:
                pass
        log.check()
        assert log.persisted <= model.durable
        if not model.flights and model.handed == log.last:
            assert log.persisted == log.last
        expected = [None if index < model.begin else term for index, term in enumerate(model.terms)]
        assert [log.term_at(index) for index in range(len(expected))] == expected
        held = [batch(index, term) for index, term in enumerate(model.terms)][log.window_first :]
        assert log.entries(log.window_first, log.last, MANY) == tuple(held)


def test_runs_of_terms_are_what_a_restart_finds() -> None:
    """The runs handed to a log at its start give the terms of the entries that they were made from."""
    entries = [batch(1, 1), batch(2, 1), batch(3, 4)]
    assert runs_of(entries) == (EntryId(1, 1), EntryId(3, 4))
    assert [log_of(1, 1, 4).term_at(index) for index in (1, 2, 3)] == [1, 1, 4]
