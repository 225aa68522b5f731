"""SCRIPT and FUNCTION: what a node tells of the few scripts that it can run (`kv.lock_commands`). Nothing is loaded, so nothing is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn

from raftkv.kv.arguments import printable
from raftkv.kv.lock_commands import POSSIBLE, SCRIPTS, sha1_of
from raftkv.kv.replies import OK, Reply, Simple, fail

_SHOWN_BYTES: Final = 128
_SUBCOMMANDS: Final = {b"exists": (2, None), b"flush": (1, None), b"help": (1, 1), b"kill": (1, 1), b"load": (2, 2)}
"""How many arguments each takes, its own name included, at least and at most."""

_HELP: Final = (
    "SCRIPT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "EXISTS <sha1> [<sha1> ...]",
    "    Tell which scripts can be run.",
    "FLUSH [ASYNC|SYNC]",
    "    Do nothing: no script is kept.",
    "KILL",
    "    Kill the script that is being run, which there never is.",
    "LOAD <script>",
    f"    Return the SHA1 of a script that can be run: {POSSIBLE}.",
    "HELP",
    "    Prints this help.",
)


def describe_scripts(args: Sequence[bytes]) -> Reply:
    """The reply to SCRIPT with `args`.

    Raises:
        CommandError: the answer is an error.
    """
    name = args[0].lower()
    if name not in _SUBCOMMANDS:
        fail(f"unknown subcommand '{printable(args[0][:_SHOWN_BYTES])}'. Try SCRIPT HELP.")
    least, most = _SUBCOMMANDS[name]
    if len(args) < least or (most is not None and len(args) > most):
        fail(f"wrong number of arguments for 'script|{name.decode()}' command")
    match name:
        case b"exists":
            return [int(each.lower().decode("latin-1") in SCRIPTS) for each in args[1:]]
        case b"flush":
            if len(args) > 2 or (len(args) == 2 and args[1].lower() not in (b"sync", b"async")):
                fail("SCRIPT FLUSH only support SYNC|ASYNC option")
            return OK
        case b"help":
            return [Simple(line) for line in _HELP]
        case b"kill":
            return fail("No scripts in execution right now.", "NOTBUSY")
        case _:
            script = sha1_of(args[1])
            return script.encode() if script in SCRIPTS else fail(f"this script cannot be run: {POSSIBLE}")


def refuse_functions(args: Sequence[bytes]) -> NoReturn:
    """The reply to FUNCTION with whatever arguments.

    Raises:
        CommandError: always.
    """
    fail(f"there are no functions here: {POSSIBLE}")
