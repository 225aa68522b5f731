"""How inputs are made: by coverage with atheris where it is installed, else by changing the corpus at random.

Both report a broken property the same way: the input is written to a file, whose path is told, and can be moved into the corpus.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import structlog

from tests.fuzz.mutate import mutate
from tests.fuzz.target import Target

CORPUS = Path(__file__).parent / "corpus"


def quiet() -> None:
    """No log events: what a target is told is meant to be wrong."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def corpus(target: Target) -> list[bytes]:
    """What the repository holds for `target`: valid encodings, and every input that ever found something."""
    return [path.read_bytes() for path in sorted((CORPUS / target.name).glob("*")) if path.is_file()]


def changed(target: Target, data: bytes, rng: Random, others: list[bytes]) -> bytes:
    """`data` with a change or a few, its checksums right again, mostly."""
    fresh = mutate(data, rng, others, target.max_bytes)
    return target.repair(fresh, rng) if rng.randrange(5) else fresh


def save(directory: Path, data: bytes) -> Path:
    """Keep an input under a name that says what it is."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / hashlib.sha256(data).hexdigest()[:16]
    path.write_bytes(data)
    return path


def by_mutation(target: Target, inputs: list[bytes], rng: Random, go_on: Callable[[int], bool]) -> tuple[int, bytes | None]:
    """Run changed inputs while `go_on` (told how many have run) says so; how many that was, and the input that broke a property."""
    count = 0
    pool = list(inputs)
    while go_on(count):
        data = changed(target, rng.choice(pool), rng, inputs)
        count += 1
        try:
            target.run(data)
        except Exception:
            return count, data
        if rng.randrange(8) == 0:  # some changes are built upon
            pool[len(inputs) :] = [*pool[len(inputs) :][-200:], data]
    return count, None


def for_seconds(seconds: float) -> Callable[[int], bool]:
    """A `go_on` for `by_mutation`."""
    end = time.monotonic() + seconds
    return lambda count: time.monotonic() < end


def by_coverage(target: Target, seconds: int, findings: Path, found: Path) -> None:
    """Let atheris look for inputs that reach new code. It ends the process. `found` is where it keeps what it came upon."""
    import atheris

    inputs = corpus(target) or target.seeds()
    for data in inputs:
        save(found, data)
    findings.mkdir(parents=True, exist_ok=True)

    def custom(data: bytes, max_size: int, seed: int) -> bytes:
        rng = Random(seed)
        fresh = changed(target, bytes(data), rng, inputs) if seed % 4 else bytes(atheris.Mutate(bytes(data), len(data)))
        return fresh[:max_size]

    arguments = [
        "fuzz", str(found), f"-max_total_time={seconds}", f"-max_len={target.max_bytes}", f"-artifact_prefix={findings}/",
        "-timeout=20", "-rss_limit_mb=1500", "-malloc_limit_mb=900", "-print_final_stats=1", "-verbosity=0",
    ]  # fmt: skip
    atheris.Setup(arguments, target.run, custom_mutator=custom)
    atheris.Fuzz()
