"""Runs planted faults and their detectors, in processes of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context

import msgspec
import structlog

from tests.mutants.catalogue import MUTANTS, named
from tests.mutants.mutant import Mutant

Run = Callable[[str], "Result"]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one mutant, or, without rows, of one detector on the product as it is."""

    rows: tuple[str, ...]
    fault: str
    title: str
    caught: bool
    detector: str
    rule: str
    examples: int
    seconds: float


def run_mutant(name: str) -> Result:
    """Plant one fault and look for it."""
    mutant = named(name)
    begin = time.monotonic()
    found = mutant.search()
    return Result(
        rows=mutant.rows,
        fault=name,
        title=mutant.title,
        caught=mutant.caught_by(found),
        detector=mutant.detector.name,
        rule="" if found is None else found.rule,
        examples=0 if found is None else found.examples,
        seconds=time.monotonic() - begin,
    )


def run_detector(name: str) -> Result:
    """Run the detector of a mutant without the fault."""
    detector = named(name).detector
    begin = time.monotonic()
    found = detector.find_in_sound()
    return Result(
        rows=(),
        fault="none",
        title=f"the detector of {name}",
        caught=found is not None,
        detector=detector.name,
        rule="" if found is None else found.rule,
        examples=0 if found is None else found.examples,
        seconds=time.monotonic() - begin,
    )


def chosen(row: str | None, sample: int | None) -> list[Mutant]:
    """The mutants of a row, or so many from all over the list, or all."""
    mutants = [mutant for mutant in MUTANTS if row is None or row in mutant.rows]
    if sample is None or sample >= len(mutants):
        return mutants
    return [mutants[place * len(mutants) // sample] for place in range(sample)]


def detectors_of(mutants: list[Mutant]) -> list[str]:
    """One mutant for each detector that does something of its own on the product as it is."""
    by_key: dict[str, str] = {}
    for mutant in mutants:
        by_key.setdefault(repr(mutant.detector.key), mutant.name)
    return list(by_key.values())


def _quietly(run: Run, name: str) -> Result:
    structlog.configure(processors=[_drop])
    return run(name)


def _drop(logger: object, method: str, event: object) -> str:
    raise structlog.DropEvent


def results_of(jobs: int, work: list[tuple[Run, str]]) -> Iterator[Result]:
    """The results, as they come, in the order of `work`."""
    if jobs == 1:
        for run, name in work:
            yield _quietly(run, name)
        return
    with get_context("spawn").Pool(jobs) as pool:
        pending = [pool.apply_async(_quietly, item) for item in work]
        for one in pending:
            yield one.get()
