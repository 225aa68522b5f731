"""Fuzz one target, or each in turn::

    python -m tests.fuzz --target requests --seconds 60
    python -m tests.fuzz --all --seconds 60

With atheris (`pip install atheris`) inputs are made by coverage, in a process for each target; without it, by changes to the corpus.
What breaks a property is left in build/fuzz/findings/TARGET; what reached new code, in build/fuzz/found/TARGET. The exit code is 1 if
a property was broken.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import traceback
from pathlib import Path
from random import Random, SystemRandom

BUILD = Path(__file__).resolve().parents[2] / "build" / "fuzz"

# What atheris has to see the bytecode of, and no more than that: the standard library would drown it.
INSTRUMENTED = ["raftkv", "raftkv_cli"]


def main() -> int:
    """Parse the command line, and fuzz."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").partition("::")[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--target", help="the name of one target")
    which.add_argument("--all", action="store_true", help="every target, one after the other")
    parser.add_argument("--seconds", type=int, default=60, help="how long each target runs")
    parser.add_argument("--by-mutation", action="store_true", help="do without atheris")
    options = parser.parse_args()
    covered = not options.by_mutation and importlib.util.find_spec("atheris") is not None
    if options.all:
        return run_all(options.seconds, covered)
    return fuzz(options.target, options.seconds, covered)


def say(line: str) -> None:
    """One line to whoever runs this."""
    sys.stdout.write(f"{line}\n")


def run_all(seconds: int, covered: bool) -> int:
    """Each target in a process of its own; 1 if any of them found something."""
    from tests.fuzz.targets import TARGETS

    broken = []
    for name in TARGETS:
        arguments = ["--target", name, "--seconds", str(seconds), *([] if covered else ["--by-mutation"])]
        if subprocess.run([sys.executable, "-m", "tests.fuzz", *arguments], check=False).returncode:
            broken.append(name)
    say(f"found something in {', '.join(broken)}: see {BUILD / 'findings'}" if broken else "nothing was found")
    return 1 if broken else 0


def fuzz(name: str, seconds: int, covered: bool) -> int:
    """One target in this process, which atheris ends by itself."""
    if covered:
        import atheris

        with atheris.instrument_imports(include=INSTRUMENTED):
            from tests.fuzz import engine
            from tests.fuzz.targets import TARGETS
    else:
        from tests.fuzz import engine
        from tests.fuzz.targets import TARGETS
    if name not in TARGETS:
        say(f"there is no target {name}; there are {', '.join(TARGETS)}")
        return 2
    engine.quiet()
    target = TARGETS[name]
    findings = BUILD / "findings" / name
    if covered:
        engine.by_coverage(target, seconds, findings, BUILD / "found" / name)
        return 0
    say(f"{name}: atheris is not used, so inputs are made by changes to the corpus")
    rng = Random(SystemRandom().getrandbits(64))
    count, broken = engine.by_mutation(target, engine.corpus(target) or target.seeds(), rng, engine.for_seconds(seconds))
    say(f"{name}: {count} inputs in {seconds} s")
    if broken is None:
        return 0
    say(f"{name}: a property is broken by {engine.save(findings, broken)}")
    try:
        target.run(broken)
    except Exception:
        traceback.print_exc()
    return 1


if __name__ == "__main__":
    sys.exit(main())
