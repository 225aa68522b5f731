"""The decision tables of recovery, over every combination of facts.

Each table is spelled out here once more, row by row, by somebody who only knew the rules at the top of `raftkv.storage.recovery`; a
row is a pattern (`*` stands for anything) and the first that fits counts. Then the rules themselves are checked on every
combination.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from raftkv.storage.recovery import (
    Beyond,
    CopiesAction,
    Copy,
    DirectoryAction,
    HeaderFound,
    Next,
    RotAction,
    RotFacts,
    SegmentAction,
    SlotsAction,
    TailAction,
    TailFacts,
    UnlistedAction,
    UnlistedFacts,
    decide_copies,
    decide_directory,
    decide_rot,
    decide_segment,
    decide_slots,
    decide_tail,
    decide_unlisted,
)

BOOLS = (False, True)


def _look_up(table: str, facts: Sequence[object]) -> str:
    """The outcome of the first row that fits."""
    words = [fact.name if hasattr(fact, "name") else "yes" if fact else "no" for fact in facts]
    for line in table.strip().splitlines():
        *patterns, outcome = line.replace("->", " ").split()
        assert len(patterns) == len(words), line
        if all(pattern in ("*", word) or word in pattern.split("|") for pattern, word in zip(patterns, words, strict=True)):
            return outcome
    raise AssertionError(f"no row for {words}")


TAIL = """
    FOREIGN    *      *    *    *     -> CORRUPT
    *          *      *    *    yes   -> CORRUPT
    *          GROUP  *    *    *     -> CORRUPT
    GROUP      BYTES  *    *    *     -> CORRUPT
    GROUP      ZERO   yes  *    *     -> DROP
    GROUP      ZERO   no   *    *     -> SUSPECT
    ILLEGIBLE  ZERO   *    *    *     -> DROP
    ILLEGIBLE  BYTES  *    *    *     -> SUSPECT
    ZERO       BYTES  yes  *    *     -> DROP
    ZERO       BYTES  no   *    *     -> SUSPECT
    ZERO       ZERO   *    yes  *     -> APPEND
    ZERO       ZERO   *    no   *     -> REWRITE
"""
TAIL_FACTS = [TailFacts(*facts) for facts in itertools.product(Next, Beyond, BOOLS, BOOLS, BOOLS)]


@pytest.mark.parametrize("facts", TAIL_FACTS)
def test_the_end_of_the_log_is_judged_as_the_table_says(facts: TailFacts) -> None:
    """Every combination of facts about the end of the open segment has the outcome of its row."""
    assert decide_tail(facts).name == _look_up(TAIL, (facts.next, facts.beyond, facts.missing_piece, facts.sealed, facts.vouched))


@pytest.mark.parametrize("facts", TAIL_FACTS)
def test_nothing_is_cut_off_that_has_something_after_it(facts: TailFacts) -> None:
    """Rule 1: once something is known to follow, or the manifest vouches, what is bad is rot."""
    if facts.beyond is Beyond.GROUP or facts.vouched or (facts.next is Next.GROUP and facts.beyond is Beyond.BYTES):
        assert decide_tail(facts) is TailAction.CORRUPT


@pytest.mark.parametrize("facts", TAIL_FACTS)
def test_without_proof_a_bad_last_group_makes_the_node_suspect(facts: TailFacts) -> None:
    """Rule 2: a legible group with a bad body is dropped without suspicion only if a piece of it was never written."""
    if facts.next is Next.GROUP and not facts.missing_piece:
        assert decide_tail(facts) in (TailAction.SUSPECT, TailAction.CORRUPT)


@pytest.mark.parametrize("facts", TAIL_FACTS)
def test_an_unsealed_tail_is_never_appended_to(facts: TailFacts) -> None:
    """Rule 4."""
    if not facts.sealed:
        assert decide_tail(facts) is not TailAction.APPEND


ROT = """
    no   *    *    *    -> CORRUPT
    *    no   *    *    -> CORRUPT
    *    *    yes  *    -> CORRUPT
    yes  yes  no   yes  -> REPAIR
    yes  yes  no   no   -> NOTE
"""
ROT_FACTS = [RotFacts(*facts) for facts in itertools.product(BOOLS, BOOLS, BOOLS, BOOLS)]


@pytest.mark.parametrize("facts", ROT_FACTS)
def test_a_rotten_group_is_judged_as_the_table_says(facts: RotFacts) -> None:
    """Every combination of facts about a bad group that was durable has the outcome of its row."""
    assert decide_rot(facts).name == _look_up(ROT, (facts.checksum_known, facts.accounted, facts.reset, facts.counts))


@pytest.mark.parametrize("facts", ROT_FACTS)
def test_rot_that_counts_is_never_passed_over(facts: RotFacts) -> None:
    """Rules 1 and 6: the node goes on only behind what does not count; and whether it can be passed while reading is known before
    it is known whether it counts."""
    if facts.counts:
        assert decide_rot(facts) is not RotAction.NOTE
    other = RotFacts(facts.checksum_known, facts.accounted, facts.reset, not facts.counts)
    assert (decide_rot(facts) is RotAction.CORRUPT) == (decide_rot(other) is RotAction.CORRUPT)


DIRECTORY = """
    no   *        *        yes  -> IDENTITY_LOST
    no   MISSING  *        no   -> CREATE
    yes  MISSING  *        *    -> MANIFEST_LOST
    *    BAD      *        *    -> MANIFEST_BAD
    *    GOOD     MISSING  *    -> HARD_STATE_LOST
    *    GOOD     BAD      *    -> HARD_STATE_BAD
    yes  GOOD     GOOD     *    -> OPEN
    no   GOOD     GOOD     no   -> OPEN_NEW
"""


@pytest.mark.parametrize(("identity", "manifest", "hard_state", "used"), list(itertools.product(BOOLS, Copy, Copy, BOOLS)))
def test_a_data_directory_is_judged_as_the_table_says(identity: bool, manifest: Copy, hard_state: Copy, used: bool) -> None:
    """Every combination of what is found in a data directory has the outcome of its row."""
    found = decide_directory(identity=identity, manifest=manifest, hard_state=hard_state, used=used)
    assert found.name == _look_up(DIRECTORY, (identity, manifest, hard_state, used))
    if identity or used:
        assert found is not DirectoryAction.CREATE, "rule 5: nothing is created in a directory that was a node's"


COPIES = """
    MISSING  MISSING  *    -> NONE
    GOOD     GOOD     no   -> USE
    GOOD     GOOD     yes  -> CORRUPT
    GOOD     *        *    -> REPAIR
    *        GOOD     *    -> REPAIR
    *        *        *    -> CORRUPT
"""


@pytest.mark.parametrize(("first", "second", "differ"), list(itertools.product(Copy, Copy, BOOLS)))
def test_two_copies_are_judged_as_the_table_says(first: Copy, second: Copy, differ: bool) -> None:
    """One sound copy is enough; two that differ, or none where there should be one, are not."""
    found = decide_copies(first, second, differ=differ)
    assert found.name == _look_up(COPIES, (first, second, differ))
    if Copy.GOOD not in (first, second):
        assert found in (CopiesAction.NONE, CopiesAction.CORRUPT)


SLOTS = """
    no   no   *    -> CORRUPT
    yes  yes  yes  -> CORRUPT
    *    *    *    -> REWRITE
"""


@pytest.mark.parametrize(("first", "second", "contradict"), list(itertools.product(BOOLS, BOOLS, BOOLS)))
def test_two_slots_are_judged_as_the_table_says(first: bool, second: bool, contradict: bool) -> None:
    """One sound slot is enough; none is never taken for term zero."""
    contradict = contradict and first and second
    found = decide_slots(first, second, contradict=contradict)
    assert found.name == _look_up(SLOTS, (first, second, contradict))
    assert (found is SlotsAction.CORRUPT) == (contradict or not (first or second))


SEGMENT = """
    no   *    *              -> MISSING
    yes  *    OTHER_VERSION  -> OTHER_VERSION
    yes  *    MISMATCH       -> MISMATCH
    yes  no   *              -> SHORT
    yes  yes  ILLEGIBLE      -> ILLEGIBLE
    yes  yes  SOUND          -> READ
"""


@pytest.mark.parametrize(("exists", "long_enough", "header"), list(itertools.product(BOOLS, BOOLS, HeaderFound)))
def test_a_listed_segment_is_judged_as_the_table_says(exists: bool, long_enough: bool, header: HeaderFound) -> None:
    """A listed segment is read only if it is there, whole, and the one that was listed."""
    found = decide_segment(exists=exists, long_enough=long_enough, header=header)
    assert found.name == _look_up(SEGMENT, (exists, long_enough, header))
    assert (found is SegmentAction.READ) == (exists and long_enough and header is HeaderFound.SOUND)


UNLISTED = """
    yes  *    *    *    -> REMOVE
    *    yes  *    *    -> REMOVE
    no   no   yes  no   -> REMOVE
    *    *    *    *    -> CORRUPT
"""


@pytest.mark.parametrize("facts", [UnlistedFacts(*facts) for facts in itertools.product(BOOLS, BOOLS, BOOLS, BOOLS)])
def test_an_unlisted_segment_is_judged_as_the_table_says(facts: UnlistedFacts) -> None:
    """A file that holds groups of its own is never removed for not being listed."""
    found = decide_unlisted(facts)
    assert found.name == _look_up(UNLISTED, (facts.older, facts.blank, facts.copy, facts.beyond))
    if not facts.older and not facts.blank and facts.beyond:
        assert found is UnlistedAction.CORRUPT
