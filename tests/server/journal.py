"""A list of what happened, on which a test can wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Journal:
    """Events in their order. `wait` returns when a condition on them holds, without polling."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self._changed = asyncio.Event()

    def add(self, event: object) -> None:
        self.events.append(event)
        self._changed.set()

    async def wait(self, condition: Callable[[list[Any]], bool], what: str) -> None:
        """Wait until `condition` holds; the test's deadline bounds it, and then the error says `what` was missing."""
        try:
            while not condition(self.events):
                self._changed.clear()
                await self._changed.wait()
        except asyncio.CancelledError as error:
            error.add_note(f"waited for {what}; so far: {self.events[-20:]}")
            raise
