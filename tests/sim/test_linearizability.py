"""The checker of histories: right about histories that others have labelled, right about small ones by brute force, and able to fail."""

from __future__ import annotations

import csv
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.sim.linearizability import UNKNOWN, Call, StringKey, Verdict, check, check_by_key, overall

VECTORS = Path(os.environ.get("RAFTKV_VECTORS") or Path(__file__).parents[3] / "shared" / "vectors") / "porcupine"


def _labels() -> list[tuple[str, bool]]:
    if not VECTORS.is_dir():
        return []
    with (VECTORS / "labels.csv").open() as lines:
        return [(row["file"], row["linearizable"] == "true") for row in csv.DictReader(lines)]


LABELS = _labels()
needs_vectors = pytest.mark.skipif(not LABELS, reason=f"porcupine's histories are not at {VECTORS}; set RAFTKV_VECTORS")


class Register:
    """A register with compare-and-set, as etcd's was tested: ("read",), ("write", value), ("cas", old, new)."""

    initial: str | None = None

    def step(self, state: str | None, operation: tuple[str, ...], result: Any) -> tuple[bool, str | None]:
        """See `Model`."""
        if operation[0] == "read":
            return result is UNKNOWN or result == state, state
        if operation[0] == "write":
            return True, operation[1]
        swapped = state == operation[1]
        return result is UNKNOWN or result == swapped, operation[2] if swapped else state


class Text:
    """A key with ("get",), ("put", value) and ("append", value)."""

    initial = ""

    def step(self, state: str, operation: tuple[str, ...], result: Any) -> tuple[bool, str]:
        """See `Model`."""
        if operation[0] == "get":
            return result is UNKNOWN or result == state, state
        return True, operation[-1] if operation[0] == "put" else state + operation[-1]


def etcd_history(text: str) -> list[Call]:
    """The operations of a log of the etcd test."""
    calls: list[Call] = []
    open_calls: dict[str, Call] = {}
    for time, line in enumerate(text.splitlines()):
        found = re.match(r"INFO\s+jepsen\.util - (\d+)\t:(\w+)\t:(\w+)\t(.*)$", line)
        if not found:
            continue
        process, kind, name, value = found.groups()
        if kind == "invoke":
            operation = (name, *re.findall(r"\d+", value)) if name != "read" else ("read",)
            open_calls[process] = Call(time, None, operation, UNKNOWN, process)
            continue
        call = open_calls.pop(process)
        if kind == "info":
            calls.append(call)
        elif name == "cas":
            calls.append(Call(call.begin, time, call.operation, kind == "ok", process))
        elif kind == "ok":
            result = None if value == "nil" or name != "read" else value
            calls.append(Call(call.begin, time, call.operation, result, process))
    return calls + list(open_calls.values())


def text_history(text: str) -> list[Call]:
    """The operations of a log of the key-value test; the key is the last word of each but for the value."""
    calls: list[Call] = []
    open_calls: dict[str, tuple[float, tuple[str, ...]]] = {}
    for time, line in enumerate(text.splitlines()):
        found = re.match(r'\{:process (\d+), :type :(\w+), :f :(\w+), :key "(.*)", :value (nil|"(.*)")\}$', line)
        assert found, line
        process, kind, name, key, _, value = found.groups()
        if kind == "invoke":
            open_calls[process] = (time, (name, key) if name == "get" else (name, key, value))
        else:
            began, operation = open_calls.pop(process)
            calls.append(Call(began, time, operation, value if name == "get" else None, process))
    return calls + [Call(began, None, operation, UNKNOWN, process) for process, (began, operation) in open_calls.items()]


class TextOfKey(Text):
    """The same where operations name their key."""

    def step(self, state: str, operation: tuple[str, ...], result: Any) -> tuple[bool, str]:
        """See `Model`."""
        return super().step(state, (operation[0], *operation[2:]), result)


@needs_vectors
@pytest.mark.parametrize(("name", "linearizable"), LABELS)
def test_labelled_histories_are_judged_as_labelled(name: str, linearizable: bool) -> None:
    """102 histories of an etcd test and 6 of a key-value store, judged by people before."""
    text = (VECTORS / name).read_text()
    if name.startswith("kv/"):
        verdict = overall(check_by_key(text_history(text), TextOfKey(), lambda operation: operation[1], max_visited=400_000).values())
    else:
        verdict = check(etcd_history(text), Register()).verdict
    assert verdict is (Verdict.LINEARIZABLE if linearizable else Verdict.NOT_LINEARIZABLE)


# Against brute force.


def explanations(history: Sequence[Call]) -> Iterator[tuple[Call, ...]]:
    """Every order of the history that respects time and the model, with any of the unknown operations left out."""
    surely = [call for call in history if call.end is not None]
    perhaps = [call for call in history if call.end is None]
    for count in range(len(perhaps) + 1):
        for chosen in itertools.combinations(perhaps, count):
            for order in itertools.permutations([*surely, *chosen]):
                if any(later.end is not None and later.end < call.begin for at, call in enumerate(order) for later in order[at:]):
                    continue
                state = StringKey.initial
                for call in order:
                    possible, state = StringKey().step(state, call.operation, call.result)
                    if not possible:
                        break
                else:
                    yield order


OPERATIONS: list[tuple[str, ...]] = [("GET", "k"), ("SET", "k", "1"), ("SET", "k", "5"), ("INCR", "k"), ("DEL", "k")]


@st.composite
def histories(draw: st.DrawFn) -> list[Call]:
    """Up to six operations on a key, with answers that are right or wrong by chance."""
    calls = []
    for number in range(draw(st.integers(1, 6))):
        begin = draw(st.integers(0, 12))
        end = draw(st.none() | st.integers(begin, 14)) if draw(st.booleans()) else begin + draw(st.integers(0, 4))
        operation = draw(st.sampled_from(OPERATIONS))
        answers: dict[str, list[object]] = {"GET": [None, b"1", b"2", b"5", b"6"], "SET": [True], "INCR": [1, 2, 6], "DEL": [0, 1]}
        result = UNKNOWN if end is None else draw(st.sampled_from(answers[operation[0]]))
        calls.append(Call(begin, end, operation, result, f"c{number}"))
    return calls


@given(histories())
@settings(max_examples=400, deadline=None)
def test_small_histories_are_judged_as_by_trying_every_order(history: list[Call]) -> None:
    """The search finds an order exactly if there is one, and what it finds is one."""
    finding = check(history, StringKey())
    assert finding.ok is (next(explanations(history), None) is not None)
    if finding.ok:
        state = StringKey.initial
        for call in finding.order:
            possible, state = StringKey().step(state, call.operation, call.result)
            assert possible
        assert {id(call) for call in history if call.end is not None} <= {id(call) for call in finding.order}


# Faults by name.


def test_a_stale_read_is_found() -> None:
    """A read that began after a write had ended must see it."""
    finding = check([Call(0, 1, ("SET", "k", "1"), True), Call(2, 3, ("SET", "k", "2"), True), Call(4, 5, ("GET", "k"), b"1")], StringKey())
    assert finding.verdict is Verdict.NOT_LINEARIZABLE
    assert [call.operation for call in finding.stuck] == [("GET", "k")]
    assert "GET" in str(finding)


def test_a_lost_write_is_found() -> None:
    """An acknowledged increment that a later one does not count was lost."""
    assert not check([Call(0, 1, ("INCR", "k"), 1), Call(2, 3, ("INCR", "k"), 1)], StringKey()).ok


def test_a_write_applied_twice_is_found() -> None:
    """One increment counts once, also when its client repeated it."""
    assert not check([Call(0, 1, ("INCR", "k"), 1), Call(2, 3, ("GET", "k"), b"2")], StringKey()).ok


def test_a_read_of_the_future_is_found() -> None:
    """A read cannot see a write that began after it ended."""
    assert not check([Call(0, 1, ("GET", "k"), b"1"), Call(2, 3, ("SET", "k", "1"), True)], StringKey()).ok


def test_reads_that_go_back_are_found() -> None:
    """While a write is under way reads may see it or not; once one has, none after it may not."""
    history = [
        Call(0, 10, ("SET", "k", "1"), True),
        Call(1, 2, ("GET", "k"), b"1"),
        Call(3, 4, ("GET", "k"), None),
    ]
    assert not check(history, StringKey()).ok
    assert check([history[0], history[2], Call(5, 6, ("GET", "k"), b"1")], StringKey()).ok


def test_an_unknown_write_may_happen_late_or_never_but_only_once() -> None:
    """What a client was not told may still be seen, at any time."""
    unknown = Call(0, None, ("SET", "k", "1"))
    read = ("GET", "k")
    assert check([unknown, Call(1, 2, read, None)], StringKey()).ok
    assert check([unknown, Call(1, 2, read, None), Call(3, 4, read, b"1")], StringKey()).ok
    assert not check([unknown, Call(1, 2, read, b"1"), Call(3, 4, read, None)], StringKey()).ok


def test_keys_are_judged_on_their_own() -> None:
    """The finding names the key that is wrong."""
    history = [Call(0, 1, ("SET", "a", "1"), True), Call(2, 3, ("GET", "a"), None), Call(2, 3, ("GET", "b"), None)]
    findings = check_by_key(history, StringKey(), lambda operation: operation[1])
    assert {key: finding.ok for key, finding in findings.items()} == {"a": False, "b": True}
    assert overall(findings.values()) is Verdict.NOT_LINEARIZABLE
    assert overall([findings["b"]]) is Verdict.LINEARIZABLE


def test_a_search_without_an_end_is_undecided() -> None:
    """Beyond the bound nothing is claimed."""
    history = [Call(0, 100, ("SET", "k", str(number)), True) for number in range(12)] + [Call(101, 102, ("GET", "k"), b"x")]
    finding = check(history, StringKey(), max_visited=50)
    assert finding.verdict is Verdict.UNDECIDED
    assert overall([finding, check(history[:1], StringKey())]) is Verdict.UNDECIDED
