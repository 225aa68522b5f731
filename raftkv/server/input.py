"""The end of standard input, for a node that shall not outlive the process that started it.

That process holds the other end of a pipe and never writes to it. When it is gone, however it ended, the system closes its end, and the
node reads the end of its input. This works on every system, without process groups or signals.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable


def when_input_ends(act: Callable[[], None]) -> None:
    """Call `act` from a thread of its own when standard input has ended; whatever comes before is ignored."""

    def read() -> None:
        # Not through sys.stdin's buffer, whose lock the interpreter wants when it ends. And no event loop can watch every pipe on Windows.
        while os.read(sys.stdin.fileno(), 4096):
            pass
        act()

    threading.Thread(target=read, name="raftkv-input", daemon=True).start()
