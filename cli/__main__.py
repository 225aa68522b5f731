"""Where the program begins: `python -m raftkv_cli` is `raftkv`.

Loading the commands takes a while, in which a node must not be ended by the signal that asks it to stop.
"""

from __future__ import annotations

import sys

from raftkv.server.stop_signals import hold_back


def main() -> None:
    """The command `raftkv`."""
    if sys.argv[1:2] == ["node"]:
        hold_back()
    from raftkv_cli.main import main as commands

    commands()


if __name__ == "__main__":
    main()
