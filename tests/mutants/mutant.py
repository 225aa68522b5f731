"""A planted fault, and what has to find it.

A `Mutant` breaks one rule, by a patch that lasts as long as one search. Its detector looks for the harm in a bounded number of
examples, and says which rule of its own was broken. Only the rules that the mutant names count: a fault that is noticed because it
happens to crash something else is not caught.

Every detector can also be run on the product as it is, where it must find nothing.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import pytest

from raftkv.errors import RaftkvError
from raftkv.sim.cluster import Outcome, Run, run_seed
from raftkv.sim.faults import Faults
from raftkv.sim.swarm import Swarm
from raftkv.sim.trace import Violation
from tests.router.test_planted_faults import complaint

MOST_EXAMPLES = 200
"""What cannot be found in so many examples is not caught."""

SOUND_EXAMPLES = 5
"""Seeds of each kind that a sound product has to survive here; `make simulate` and the test suite do more."""

Plant = Callable[[pytest.MonkeyPatch], None]


def nothing(patch: pytest.MonkeyPatch) -> None:
    """Plants nothing."""


@dataclass(frozen=True)
class Finding:
    """What a detector found: by which rule, at which example, and in words."""

    rule: str
    examples: int
    what: str


class Detector(Protocol):
    """Looks for harm."""

    @property
    def name(self) -> str:
        """What it is, in a word or two."""

    @property
    def key(self) -> object:
        """Detectors with the same key do the same on the product as it is."""

    def find(self, most: int) -> Finding | None:
        """The first thing found in at most so many examples, with the product as it is patched now."""

    def expects(self, rule: str) -> bool:
        """Whether being found by `rule` is the right reason."""

    def find_in_sound(self) -> Finding | None:
        """The same on the product as it is, in `SOUND_EXAMPLES` examples."""


@dataclass(frozen=True)
class Storms:
    """Simulated clusters: the seeds from 1 on, in storms of `swarm`, or, without one, of what each seed draws.

    Args:
        rules: the names of violations that are the right reason.
        swarm: which storms.
        surroundings: what else is patched, that a sound product survives: clocks that differ, clients that fail.
        judge: what else is wrong with the outcome of a seed; the rule is then "outcome".
    """

    rules: tuple[str, ...]
    swarm: Swarm | None = None
    surroundings: Plant = nothing
    judge: Callable[[Outcome], str | None] | None = None
    name: str = "simulator"

    @property
    def key(self) -> object:
        return self.name, self.swarm, self.surroundings, self.judge

    def find(self, most: int) -> Finding | None:
        with pytest.MonkeyPatch.context() as patch:
            self.surroundings(patch)
            if self.judge is not None:  # of the storm: a leader that is left out of the core afterwards would have to be replaced
                patch.setattr(Faults, "_core", lambda faults, rng: faults.nodes)
            for seed in range(1, most + 1):
                try:
                    outcome = run_seed(seed, Run(swarm=self.swarm))
                except Violation as violation:
                    return Finding(violation.rule, seed, str(violation).splitlines()[0])
                wrong = self.judge(outcome) if self.judge is not None else None
                if wrong is not None:
                    return Finding("outcome", seed, wrong)
        return None

    def find_in_sound(self) -> Finding | None:
        return self.find(SOUND_EXAMPLES)

    def expects(self, rule: str) -> bool:
        return rule in self.rules


@dataclass(frozen=True)
class Checks:
    """Tests of a part, each of which must fail; the rule is the name of the first.

    Args:
        checks: called without arguments, or with a MonkeyPatch where they take one.
        match: what the failure of the first has to say, as a regular expression.
    """

    checks: tuple[Callable[..., object], ...]
    match: str = ""
    name: str = "checks of the part"

    @property
    def key(self) -> object:
        return self.name, tuple(_name(check) for check in self.checks)

    def find(self, most: int) -> Finding | None:
        found: Finding | None = None
        for number, check in enumerate(self.checks, 1):
            try:
                _call(check)
            except _FAILURES as error:
                what = f"{type(error).__name__}: {error}"
                found = found or Finding(_name(check), number, what.strip().splitlines()[0])
                if number == 1 and not re.search(self.match, what, re.DOTALL):
                    return Finding(f"{_name(check)}, not saying {self.match!r}", number, what.splitlines()[0])
            else:
                return None
        return found

    def find_in_sound(self) -> Finding | None:
        for number, check in enumerate(self.checks, 1):
            try:
                _call(check)
            except _FAILURES as error:
                return Finding(_name(check), number, f"{type(error).__name__}: {error}")
        return None

    def expects(self, rule: str) -> bool:
        return any(rule == _name(check) for check in self.checks)


_FAILURES = (AssertionError, RaftkvError, pytest.fail.Exception)
"""How a check fails: an assertion, an error of the product, an error that was expected and did not come."""


def _name(check: Callable[..., object]) -> str:
    inner = check
    while hasattr(inner, "func"):  # functools.partial
        inner = inner.func
    name = getattr(inner, "__name__", str(inner))
    return str(getattr(check, "label", name))


def _call(check: Callable[..., object]) -> None:
    try:
        if "monkeypatch" in inspect.signature(check).parameters:
            with pytest.MonkeyPatch.context() as patch:
                check(monkeypatch=patch)
        else:
            check()
    except ExceptionGroup as group:  # Hypothesis has found several failures
        raise group.exceptions[0] from None


@dataclass(frozen=True)
class Proof:
    """A test that plants its fault itself, shows that its check passes without it, and that the check fails with it.

    The fault is caught if the test passes. It says nothing of the product as it is beyond that.
    """

    test: Callable[..., object]
    name: str = "test with its own double"

    @property
    def key(self) -> object:
        return self.name

    def find(self, most: int) -> Finding | None:
        try:
            _call(self.test)
        except _FAILURES:
            return None
        return Finding(_name(self.test), 1, "")

    def find_in_sound(self) -> Finding | None:
        return None

    def expects(self, rule: str) -> bool:
        return rule == _name(self.test)


@dataclass(frozen=True)
class RouterRuns:
    """Runs of the abstract cluster of routers; the rule is the complaint, of which `match` says what it must be."""

    match: str
    name: str = "router runs"

    @property
    def key(self) -> object:
        return self.name

    def find(self, most: int) -> Finding | None:
        what, runs = complaint(most)
        return Finding(what, runs, what) if what else None

    def find_in_sound(self) -> Finding | None:
        return self.find(SOUND_EXAMPLES)

    def expects(self, rule: str) -> bool:
        return re.search(self.match, rule) is not None


@dataclass(frozen=True)
class Mutant:
    """One planted fault.

    Args:
        rows: the rows of `rules.RULES` that it breaks.
        name: unique.
        title: what is done wrong.
        plant: does it.
        detector: what has to find it.
    """

    rows: tuple[str, ...]
    name: str
    title: str
    plant: Plant = field(repr=False)
    detector: Detector = field(repr=False)

    def __str__(self) -> str:
        return self.name

    def search(self, most: int = MOST_EXAMPLES) -> Finding | None:
        """What the detector finds, in at most so many examples, while the fault is planted."""
        with pytest.MonkeyPatch.context() as patch:
            self.plant(patch)
            return self.detector.find(most)

    def caught_by(self, found: Finding | None) -> bool:
        """Whether that means that the fault is caught."""
        return found is not None and self.detector.expects(found.rule)


def title_of(plant: Callable[..., object]) -> str:
    """The first sentence of a docstring."""
    text = inspect.getdoc(plant)
    if not text:
        raise ValueError(f"{plant} does not say what it does wrong")
    return " ".join(text.split("\n\n")[0].split())


class Shelf:
    """The mutants of one part."""

    def __init__(self) -> None:
        self.mutants: list[Mutant] = []

    def plant(self, *rows: str, by: Detector) -> Callable[[Plant], Plant]:
        """Register a plant, whose docstring says what it does wrong."""

        def register(plant: Plant) -> Plant:
            self.mutants.append(Mutant(rows, plant.__name__, title_of(plant), plant, by))
            return plant

        return register
