"""The client library in simulated clusters whose nodes die: what it tells is true, and a broken library or a broken session is noticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raftkv.client.call import Call
from raftkv.errors import RaftkvError
from raftkv.sim.cluster import Cluster, Run, run_seed, simulate
from raftkv.sim.trace import Violation
from tests.sim.storms import LIBRARIES, first_violation

SEEDS = 30


@pytest.mark.parametrize("seed", range(1, 16))
def test_a_library_tells_the_truth_in_a_storm(seed: int) -> None:
    """Its counters end at what it was told, whatever died."""
    cluster = Cluster(seed, Run(swarm=LIBRARIES))
    result = simulate(cluster)
    assert not isinstance(result, Violation), str(result)
    assert sum(library.answered for library in cluster.workload.libraries) > 10


def test_one_seed_is_one_run_of_a_library() -> None:
    """What the library does is a function of the seed."""
    first, again = (run_seed(3, Run(swarm=LIBRARIES)) for _ in range(2))
    assert first == again


def retry_under_a_new_number(patch: pytest.MonkeyPatch) -> None:
    """What is asked again has another number."""
    request = Call.next_request

    def faulty(self: Call) -> tuple[bytes, int]:
        for item in self._items:
            if item.open:
                item.number = None
        return request(self)

    patch.setattr(Call, "next_request", faulty)


def forget_what_may_still_happen(patch: pytest.MonkeyPatch) -> None:
    """A number whose command may still happen is given to another."""

    def faulty(self: Call) -> None:
        numbers = [item.number for item in self._items if item.number is not None and isinstance(item.outcome, RaftkvError)]
        if numbers and self._session is not None:
            self._session.give_back(min(numbers))

    patch.setattr(Call, "settle", faulty)


@pytest.mark.parametrize("plant", [retry_under_a_new_number, forget_what_may_still_happen], ids=lambda plant: plant.__name__)
def test_the_storms_catch_a_broken_library(monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None]) -> None:
    """A library with this fault tells something that is not so."""
    plant(monkeypatch)
    violation = first_violation(LIBRARIES, SEEDS)
    assert violation is not None
    assert violation.rule in ("counters", "known errors", "no failure")
