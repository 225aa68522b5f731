"""Waiting for something to become true in another process: the only place where the command line polls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")
POLL_SECONDS = 0.02


class WaitedInVain(Exception):
    """What was waited for did not happen in time. The message says what and how long."""


def wait_until(what: str, probe: Callable[[], Found | None], timeout_s: float) -> Found:
    """The first answer of `probe` that is true.

    Args:
        what: what is waited for, for the error.
        probe: asked again and again; its errors are not caught.
        timeout_s: how long to ask.

    Raises:
        WaitedInVain: it did not happen.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise WaitedInVain(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(POLL_SECONDS)
