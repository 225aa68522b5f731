"""``python -m raftkv.sim``: simulate seeds, print what they came to, and fail with the first seed that finds a bug."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from raftkv.sim.cluster import Outcome, run_seed
from raftkv.sim.trace import Violation


def main(arguments: list[str] | None = None) -> int:
    """Run the seeds that the command line names. The exit code is 1 when one of them breaks a promise."""
    parser = argparse.ArgumentParser(prog="python -m raftkv.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="how many seeds to run (10)")
    parser.add_argument("--first", type=int, default=1, metavar="S", help="the first of them (1)")
    parser.add_argument("--seed", type=int, nargs="*", metavar="S", help="run exactly these seeds instead")
    parser.add_argument("--storm-ms", type=int, metavar="MS", help="how long each storm lasts, instead of what the seed draws")
    parser.add_argument("--go-on", action="store_true", help="go on after a failure, with one line for each")
    parser.add_argument("--each", action="store_true", help="say something of every seed")
    options = parser.parse_args(arguments)
    seeds = options.seed if options.seed else range(options.first, options.first + options.seeds)
    begin = time.monotonic()
    outcomes: list[Outcome] = []
    failed: list[int] = []
    for seed in seeds:
        try:
            outcome = run_seed(seed, storm_ms=options.storm_ms)
        except Violation as violation:
            failed.append(seed)
            text = str(violation)
            sys.stdout.write(f"seed {seed} FAILED: {text.splitlines()[0] if options.go_on else text}\n")
            sys.stdout.flush()
            if not options.go_on:
                break
            continue
        outcomes.append(outcome)
        if options.each:
            sys.stdout.write(f"seed {seed}: {_line(outcome)}\n")
            sys.stdout.flush()
    _summary(outcomes, time.monotonic() - begin)
    if failed:
        sys.stdout.write(f"failed: {' '.join(map(str, failed))}\nonce more: python -m raftkv.sim --seed {failed[0]}\n")
    return 1 if failed else 0


def _line(outcome: Outcome) -> str:
    return (
        f"{outcome.nodes} nodes, {outcome.events} events, {outcome.entries} entries, {outcome.commands} commands, "
        f"{outcome.acknowledged} acknowledged, {outcome.refused} refused, {outcome.unknown} unknown, "
        f"recovered in {outcome.recovery_ms} ms, trace {outcome.trace}"
    )


def _summary(outcomes: list[Outcome], seconds: float) -> None:
    counts: Counter[str] = Counter()
    for outcome in outcomes:
        counts.update(outcome.counts)
        counts["entries"] += outcome.entries
        counts["commands"] += outcome.commands
        counts["commands repeated"] += outcome.repeated
        counts["acknowledged"] += outcome.acknowledged
        counts["refused"] += outcome.refused
        counts["unknown"] += outcome.unknown
    events = sum(outcome.events for outcome in outcomes)
    slowest = max((outcome.recovery_ms for outcome in outcomes), default=0)
    sys.stdout.write(
        f"{len(outcomes)} seeds, {events} events, {sum(outcome.simulated_ms for outcome in outcomes) / 1e3:.0f} simulated seconds "
        f"in {seconds:.1f} s ({events / max(seconds, 1e-9):.0f} events/s); the slowest recovery took {slowest} ms\n"
    )
    for name, count in sorted(counts.items()):
        sys.stdout.write(f"  {name:28} {count}\n")


if __name__ == "__main__":
    sys.exit(main())
