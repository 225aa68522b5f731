"""The signals that ask a node to stop, held back until it can answer them in order.

A process that has not said what a signal means to it is ended by it. A node needs a while before it can say that: its code is loaded
first. Signals that are held back are not lost meanwhile, and arrive when they are let through. Whoever starts a node can hold them
back for it: what is held back in a thread is held back in the processes that it starts. Windows has no such signals, and nothing is
done there.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def hold_back() -> None:
    """Let the signals wait. For the main thread, before it has started others."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def let_through() -> None:
    """Take the signals that wait, and those that come, from now on."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


@contextlib.contextmanager
def held_back_here() -> Iterator[None]:
    """Signals of this thread wait inside, and those of the processes that it starts inside wait until these let them through."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
