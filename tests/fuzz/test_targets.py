"""Each target briefly: the corpus, changes to valid encodings, bytes of any kind, and a fault that it has to find."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import engine
from tests.fuzz.planted import FAULTS, Fault
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

BRIEF = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck), database=None)
BUDGET = 20_000
"""How many inputs a fault may need; found much sooner, nearly always."""

every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


@pytest.fixture(autouse=True)
def _quiet() -> object:
    """No log events, for as long as a test runs."""
    before = structlog.get_config()
    engine.quiet()
    yield None
    structlog.configure(**before)


@every_target
def test_the_corpus_breaks_nothing(target: Target) -> None:
    """Every valid encoding, and every input that ever found something, keeps all properties; the corpus is there and small."""
    inputs = engine.corpus(target)
    assert set(target.seeds()) <= set(inputs), "run `python -m tests.fuzz.make_corpus`"
    assert sum(map(len, inputs)) <= 64 << 10
    for data in inputs:
        target.run(data)


@every_target
def test_changed_encodings_break_nothing(target: Target) -> None:
    """Valid encodings with flips, cuts, splices, extreme numbers and other items, their checksums right again, keep all properties."""
    inputs = engine.corpus(target)

    @BRIEF
    @given(st.sampled_from(inputs), st.integers(0, (1 << 64) - 1))
    def check(data: bytes, seed: int) -> None:
        rng = Random(seed)
        for _ in range(8):
            target.run(engine.changed(target, data, rng, inputs))

    check()


@every_target
def test_any_bytes_break_nothing(target: Target) -> None:
    """Bytes that are no encoding of anything keep all properties."""

    @BRIEF
    @given(st.binary(max_size=300))
    def check(data: bytes) -> None:
        target.run(data)

    check()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.target}-{fault.name}")
def test_a_planted_fault_is_found(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser that lacks one check is caught by its target, from valid encodings alone and within the normal number of inputs."""
    target = TARGETS[fault.target]
    fault.plant(monkeypatch)
    budget: Callable[[int], bool] = lambda count: count < BUDGET  # noqa: E731 - it says what it is
    count, broken = engine.by_mutation(target, target.seeds(), Random(1), budget)
    assert broken is not None, f"{count} inputs found nothing"


def test_every_target_has_a_planted_fault() -> None:
    """A target that has never caught anything proves nothing."""
    assert {fault.target for fault in FAULTS} == set(TARGETS)


def test_the_loop_without_atheris_reports_what_it_finds() -> None:
    """The loop ends at the first input that breaks a property, and returns it."""

    def fragile(data: bytes) -> None:
        if data.endswith(b"\xff"):
            raise AssertionError("found")

    target = Target("fragile", fragile, lambda: [b"seed"])
    count, broken = engine.by_mutation(target, target.seeds(), Random(5), lambda count: count < 50_000)
    assert 0 < count <= 50_000
    assert broken is not None
    assert broken.endswith(b"\xff")
