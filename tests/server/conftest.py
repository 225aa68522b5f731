"""What the socket tests share: an event loop of each kind with a deadline, and a journal to wait on instead of sleeping."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

DEADLINE_SECONDS = 20.0

Run = Callable[[Coroutine[Any, Any, None]], None]


def _uvloop() -> Callable[[], asyncio.AbstractEventLoop]:
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine to its end, on each event loop that the product may meet, within the deadline.

    An error that the loop reports, for example of a callback, fails the test.
    """
    if request.param == "uvloop" and importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")

    def run_to_the_end(main: Coroutine[Any, Any, None]) -> None:
        errors: list[dict[str, Any]] = []

        async def with_deadline() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
            async with asyncio.timeout(DEADLINE_SECONDS):
                await main

        with asyncio.Runner(loop_factory=_uvloop() if request.param == "uvloop" else None) as runner:
            runner.run(with_deadline())
        assert errors == []

    return run_to_the_end
