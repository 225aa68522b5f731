"""Quorum arithmetic, against etcd's own table of cases (read from beside the checkout, where it is) and against first principles."""

from __future__ import annotations

import os
import re
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest

from raftkv.raft.quorum import (
    UNBOUNDED,
    Tally,
    agreed,
    agreed_jointly,
    majority,
    tally,
    tally_jointly,
    tally_unanimous,
)

_CHECKOUT = Path(__file__).resolve().parents[2]
VECTORS = Path(os.environ.get("RAFTKV_VECTORS", _CHECKOUT.parent / "shared" / "vectors")) / "etcd-raft" / "quorum" / "testdata"
CASES_THERE = 127


class Case(NamedTuple):
    """One case of the table: a command, whom it concerns, what they reached or voted, and the expected answer."""

    name: str
    command: str
    voters: tuple[str, ...]
    outgoing: tuple[str, ...] | None
    said: tuple[str, ...]
    expected: str

    def reached(self) -> dict[str, int]:
        """Each voter's index; who is not known yet is left out."""
        return {voter: int(value) for voter, value in self._by_voter() if value != "_"}

    def votes(self) -> dict[str, bool]:
        """Each voter's vote; who has not voted is left out."""
        return {voter: value == "y" for voter, value in self._by_voter() if value != "_"}

    def _by_voter(self) -> list[tuple[str, str]]:
        everybody = list(dict.fromkeys((*self.voters, *(self.outgoing or ()))))
        assert len(everybody) == len(self.said), self.name
        return list(zip(everybody, self.said, strict=True))


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _parse(file: Path) -> list[Case]:
    cases = []
    lines = file.read_text().splitlines()
    for at, line in enumerate(lines):
        if line != "----":
            continue
        text = lines[at - 1]
        arguments = dict(re.findall(r"(\w+)=(?:\(([^)]*)\)|zero)", text))
        end = next((stop for stop in range(at + 1, len(lines)) if not lines[stop].strip()), len(lines))
        outgoing = _listed(arguments["cfgj"]) if "cfgj" in arguments else None
        said = _listed(arguments.get("idx") or arguments.get("votes"))
        name = f"{file.stem}:{at}"
        cases.append(Case(name, text.split()[0], _listed(arguments.get("cfg")), outgoing, said, lines[end - 1].strip()))
    return cases


CASES = [case for file in sorted(VECTORS.glob("*.txt")) for case in _parse(file)]
needs_vectors = pytest.mark.skipif(not CASES, reason=f"etcd's table of quorum cases is not at {VECTORS}; set RAFTKV_VECTORS")


@needs_vectors
def test_the_whole_table_is_read() -> None:
    """etcd's table has 127 cases, and every one of them is run below."""
    assert len(CASES) == CASES_THERE


@needs_vectors
@pytest.mark.parametrize("case", CASES or [None], ids=lambda case: case.name if case else "none")
def test_a_case_of_etcds_table(case: Case) -> None:
    """The answer is etcd's; a simple configuration is a joint one with an empty or an equal other half."""
    voters, outgoing = case.voters, case.outgoing
    if case.command == "committed":
        bound = case.expected.removeprefix("<empty majority quorum>")
        expected = UNBOUNDED if bound == "∞" else int(bound)
        reached = case.reached()
        if outgoing is None:
            assert agreed(voters, reached) == expected
        for other in [(), voters] if outgoing is None else [outgoing]:
            assert agreed_jointly(voters, other, reached) == agreed_jointly(other, voters, reached) == expected
    else:
        assert case.command == "vote"
        expected_tally = {"VoteWon": Tally.WON, "VoteLost": Tally.LOST, "VotePending": Tally.PENDING}[case.expected]
        votes = case.votes()
        if outgoing is None:
            assert tally(voters, votes) is expected_tally
        for other in [(), voters] if outgoing is None else [outgoing]:
            assert tally_jointly(voters, other, votes) is tally_jointly(other, voters, votes) is expected_tally


@pytest.mark.parametrize("count", range(1, 10))
def test_two_majorities_share_a_voter(count: int) -> None:
    """A majority is the least number such that any two majorities overlap."""
    assert 2 * majority(count) > count >= 2 * (majority(count) - 1)


@pytest.mark.parametrize("count", range(1, 6))
def test_agreed_is_what_a_majority_has_reached(count: int) -> None:
    """The agreed number is the largest that a majority has reached, by counting; who said nothing has reached 0."""
    voters = [f"n{rank}" for rank in range(count)]
    for numbers in product([None, 1, 2, 3], repeat=count):
        reached = {voter: number for voter, number in zip(voters, numbers, strict=True) if number is not None}
        expected = max(
            number for number in range(4) if sum(reached.get(voter, 0) >= number for voter in voters) >= majority(count)
        )
        assert agreed(voters, reached) == expected


def test_who_does_not_vote_does_not_count() -> None:
    """Numbers and votes of nodes that are not voters change nothing."""
    assert agreed(["a", "b", "c"], {"a": 5, "x": 9, "y": 9}) == 0
    assert tally(["a", "b", "c"], {"a": True, "x": True, "y": True}) is Tally.PENDING


def test_a_joint_decision_is_not_one_of_the_union() -> None:
    """A majority of the union that is none in one half decides nothing (HAZARDS 38)."""
    old, new = ["a", "b", "c"], ["c", "d", "e"]
    reached = {"c": 7, "d": 7, "e": 7}
    assert agreed_jointly(new, old, reached) == 0
    assert tally_jointly(new, old, dict.fromkeys(reached, True)) is Tally.PENDING
    assert tally_jointly(new, old, {"d": False, "e": False, "a": True, "b": True, "c": True}) is Tally.LOST


def test_the_first_election_needs_everybody() -> None:
    """An unanimous election is won by every vote, and lost by one refusal."""
    voters = ["a", "b", "c"]
    assert tally_unanimous(voters, {"a": True, "b": True}) is Tally.PENDING
    assert tally_unanimous(voters, {"a": True, "b": True, "c": True}) is Tally.WON
    assert tally_unanimous(voters, {"a": True, "b": False}) is Tally.LOST
