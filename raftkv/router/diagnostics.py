"""TIME, and the commands of operators that a node answers without doing much: ACL, LATENCY, SLOWLOG, DEBUG, and those that it refuses.

What would claim that something happened which does not is an error: a client that asks to save the state is told that nothing has to be
saved, rather than that it was. What is recorded of nothing is empty, and CONFIG GET says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from raftkv.kv.arguments import parse_integer, printable
from raftkv.kv.replies import OK, Reply, Simple, fail
from raftkv.router.clients import USER
from raftkv.router.connection import Connection, Handler
from raftkv.router.ports import NodeFacts

_DEBUG: Final = {b"sleep": 1, b"reload": None, b"loadaof": 0, b"set-active-expire": 1, b"quicklist-packed-threshold": 1}
"""How many arguments each takes; None for any number. To start from what is on disk changes nothing that can be seen, nor does the moment
at which what has expired is deleted, or the way in which lists are kept. SLEEP has been slept before it comes here."""


def diagnostics(facts: Callable[[], NodeFacts]) -> dict[str, Handler]:
    """What executes these commands; `facts` tells the time."""

    def time(connection: Connection, args: Sequence[bytes]) -> Reply:
        seconds, microseconds = divmod(facts().wall_us, 1_000_000)
        return [str(seconds).encode(), str(microseconds).encode()]

    return {
        "acl|list": lambda connection, args: [b"user " + USER + b" on nopass ~* &* +@all"],
        "acl|users": lambda connection, args: [USER],
        "acl|whoami": lambda connection, args: USER,
        "bgrewriteaof": _nothing_to_save,
        "bgsave": _nothing_to_save,
        "debug": _debug,
        "lastsave": _nothing_to_save,
        "latency|history": lambda connection, args: [],
        "latency|latest": lambda connection, args: [],
        "latency|reset": lambda connection, args: 0,
        "replicaof": lambda connection, args: fail("REPLICAOF not allowed in cluster mode."),
        "save": _nothing_to_save,
        "shutdown": lambda connection, args: fail("a node is stopped by a signal to its process, not by a client"),
        "slaveof": lambda connection, args: fail("REPLICAOF not allowed in cluster mode."),
        "slowlog|get": _slow_commands,
        "slowlog|len": lambda connection, args: 0,
        "slowlog|reset": lambda connection, args: OK,
        "time": time,
    }


def _nothing_to_save(connection: Connection, args: Sequence[bytes]) -> Reply:
    fail("there is nothing to save: every acknowledged write is on the disks of a majority of the nodes")


def _slow_commands(connection: Connection, args: Sequence[bytes]) -> Reply:
    if len(args) > 1:
        fail("unknown subcommand or wrong number of arguments for 'get'. Try SLOWLOG HELP.")
    if args:
        count = parse_integer(args[0])
        if count is None or count < -1:
            fail("count should be greater than or equal to -1")
    return []


def _debug(connection: Connection, args: Sequence[bytes]) -> Reply:
    name = args[0].lower()
    if name == b"help" and len(args) == 1:
        names = [each.decode().upper() for each in _DEBUG]
        return [Simple(line) for line in ("DEBUG <subcommand> [<arg> ...]. Subcommands are:", *names, "HELP")]
    if name not in _DEBUG or _DEBUG[name] not in (None, len(args) - 1):
        fail(f"unknown subcommand or wrong number of arguments for '{printable(args[0][:128])}'. Try DEBUG HELP.")
    return OK
