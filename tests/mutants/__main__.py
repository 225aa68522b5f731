"""`python -m tests.mutants`: plant every fault, and say of each whether it is caught.

Ends with 1 when one is not, or when a detector finds something in the product as it is: then being caught would mean nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context

import msgspec
import structlog

from tests.mutants.catalogue import MUTANTS, named
from tests.mutants.mutant import Mutant
from tests.mutants.rules import RULES, WAITING


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


def _quietly(run: Callable[[str], Result], name: str) -> Result:
    structlog.configure(processors=[_drop])
    return run(name)


def _drop(logger: object, method: str, event: object) -> str:
    raise structlog.DropEvent


def results_of(jobs: int, work: list[tuple[Callable[[str], Result], str]]) -> Iterator[Result]:
    """The results, as they come, in the order of `work`."""
    if jobs == 1:
        for run, name in work:
            yield _quietly(run, name)
        return
    with get_context("spawn").Pool(jobs) as pool:
        pending = [pool.apply_async(_quietly, item) for item in work]
        for one in pending:
            yield one.get()


def show(result: Result) -> str:
    """One line of the table."""
    if not result.rows:
        verdict = f"FINDS {result.rule} IN THE PRODUCT" if result.caught else "finds nothing in the product"
        return f"{'-':10}  {result.title}: {verdict}  [{result.detector}, {result.seconds:.1f} s]"
    verdict = "caught" if result.caught else "NOT CAUGHT"
    how = f"{result.detector}: {result.rule[:60]}, after {result.examples}" if result.rule else f"{result.detector}: nothing"
    return (
        f"{', '.join(result.rows):10}  {RULES[result.rows[0]]}\n{'':12}{result.fault}: {result.title}\n"
        f"{'':12}{verdict}  [{how}; {result.seconds:.1f} s]"
    )


def main(arguments: list[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Plant every fault, and say whether it is caught.")
    parser.add_argument("--row", choices=RULES, metavar="ROW", help="only the faults of this row, such as 9 or 'storage 3'")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--sample", type=int, help="only so many, from all over the list")
    parser.add_argument("--json", action="store_true", help="one object a line")
    options = parser.parse_args(arguments)
    mutants = chosen(options.row, options.sample)
    work: list[tuple[Callable[[str], Result], str]] = [(run_detector, name) for name in detectors_of(mutants)]
    work += [(run_mutant, mutant.name) for mutant in mutants]
    failures = caught = 0
    for result in results_of(options.jobs, work):
        failures += result.caught is not bool(result.rows)
        caught += bool(result.rows) and result.caught
        sys.stdout.write((msgspec.json.encode(result).decode() if options.json else show(result)) + "\n")
        sys.stdout.flush()
    if not options.json:
        waiting = "; ".join(f"{row} {reason}" for row, reason in WAITING.items() if options.row in (None, row))
        sys.stdout.write(f"{caught} of {len(mutants)} planted faults are caught. {waiting}\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
