"""What the targets have in common: how an input is cut, what one may cost, and a reader of recipes."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Sequence
from random import Random
from types import FrameType
from typing import TypeVar
from zlib import crc32

_Result = TypeVar("_Result")


_INSTRUMENTED = 20 if "atheris" in sys.modules else 1
"""How many calls there are for one of ours: instrumented code calls its tracer at every branch."""


def expect(holds: bool, what: str) -> None:
    """A property of a target. Not a statement, so that it is checked under every optimisation of the interpreter.

    Raises:
        AssertionError: it does not hold.
    """
    if not holds:
        raise AssertionError(what)


def splits(data: bytes, most_single: int = 400) -> list[list[bytes]]:
    """`data` whole, in a few pieces, and (when it is short) one byte at a time. The places depend on `data` and nothing else."""
    rng = Random(crc32(data))
    edges = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 6)))
    pieces = [data[begin:end] for begin, end in zip([0, *edges], [*edges, len(data)], strict=True)]
    ways = [[data], pieces]
    if len(data) <= most_single:
        ways.append([data[at : at + 1] for at in range(len(data))])
    return ways


def steps_of(work: Callable[[], _Result]) -> tuple[_Result, int]:
    """The result of `work`, and how many functions it called, those in C included: a measure of work that knows no clock. In
    instrumented code it is a lower bound."""
    count = 0

    def counted(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += 1

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        result = work()
    finally:
        sys.setprofile(before)
    return result, count // _INSTRUMENTED


def peak_of(work: Callable[[], _Result]) -> tuple[_Result, int]:
    """The result of `work`, and the most bytes that it held at one time beyond what was held before."""
    running = tracemalloc.is_tracing()
    if not running:
        tracemalloc.start(1)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        result = work()
        return result, tracemalloc.get_traced_memory()[1] - before
    finally:
        if not running:
            tracemalloc.stop()


def bounded(data: bytes, work: Callable[[], _Result], *, steps: int, peak_bytes: int) -> _Result:
    """The result of `work`, after checking for some inputs (which ones is a function of `data`) what it costs."""
    chosen = crc32(data) % 16
    if chosen == 0:
        result, peak = peak_of(work)
        expect(peak <= peak_bytes, f"{peak} bytes were held for {len(data)} bytes of input; {peak_bytes} are allowed")
        return result
    if chosen < 4:
        result, taken = steps_of(work)
        expect(taken <= steps, f"{taken} calls were made for {len(data)} bytes of input; {steps} are allowed")
        return result
    return work()


class Recipe:
    """Reads choices from an input: numbers, pieces of bytes. When the input ends, everything is zero or empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return self._position < len(self._data)

    def number(self, width: int = 1) -> int:
        """The next `width` bytes as a number, little-endian."""
        return int.from_bytes(self.take(width), "little")

    def choice(self, among: Sequence[_Result]) -> _Result:
        """One of `among`."""
        return among[self.number() % len(among)]

    def piece(self) -> bytes:
        """Bytes with their length before them, in two bytes; a length of 65535 is all that is left."""
        length = self.number(2)
        return self.rest() if length == 0xFFFF else self.take(length)

    def take(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end."""
        taken = self._data[self._position : self._position + count]
        self._position += count
        return taken

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data))


def piece(data: bytes) -> bytes:
    """The recipe of a `Recipe.piece`."""
    return len(data).to_bytes(2, "little") + data


def last_piece(data: bytes) -> bytes:
    """The same at the end of a recipe, so that changes to `data` need no change of a length."""
    return b"\xff\xff" + data
