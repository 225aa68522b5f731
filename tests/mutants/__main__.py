"""`python -m tests.mutants`: plant every fault, and say of each whether it is caught.

Ends with 1 when one is not, or when a detector finds something in the product as it is: then being caught would mean nothing.
"""

from __future__ import annotations

import argparse
import sys

import msgspec

from tests.mutants.rules import RULES, WAITING
from tests.mutants.runner import Result, Run, chosen, detectors_of, results_of, run_detector, run_mutant


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
    work: list[tuple[Run, str]] = [(run_detector, name) for name in detectors_of(mutants)]
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
