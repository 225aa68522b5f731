"""COMMAND and its subcommands, and HELP of every container: the table of commands (`kv.commands`), shown as Redis shows its own.

Everything is derived from the table. What Redis says of each argument (COMMAND DOCS, `arguments`) is not in the table and left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from raftkv.kv.command import Spec, Subcommand
from raftkv.kv.commands import SPECS, check_subcommand, find_spec, find_subcommand, fits, keys_of
from raftkv.kv.glob import Pattern
from raftkv.kv.replies import CommandError, Reply, Simple, fail
from raftkv.router.connection import Connection, Handler

_CATEGORIES: Final = {
    "bitmap": "@bitmap",
    "connection": "@connection",
    "generic": "@keyspace",
    "hash": "@hash",
    "list": "@list",
    "pubsub": "@pubsub",
    "scripting": "@scripting",
    "set": "@set",
    "sorted-set": "@sortedset",
    "string": "@string",
    "transactions": "@transaction",
}


def help_lines(spec: Spec) -> Reply:
    """What HELP of a container answers."""
    lines = [f"{spec.name.upper()} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"]
    for one in spec.subcommands:
        lines += [one.usage, f"    {one.summary}."]
    return [Simple(line) for line in lines]


def _command(connection: Connection, args: Sequence[bytes]) -> Reply:
    return [describe(spec) for spec in SPECS.values()]


def _count(connection: Connection, args: Sequence[bytes]) -> Reply:
    return len(SPECS)


def _command_info(connection: Connection, names: Sequence[bytes]) -> Reply:
    if not names:
        return _command(connection, names)
    return [None if found is None else describe(*found) for found in map(_find, names)]


def _find(name: bytes) -> tuple[Spec, Subcommand | None] | None:
    """The command called `name`, which may be that of a container and of a subcommand with a bar between."""
    first, bar, second = name.partition(b"|")
    spec = find_spec(first)
    if spec is None or not bar:
        return None if spec is None else (spec, None)
    found = find_subcommand(spec, second)
    return None if found is None else (spec, found)


def _full_name(spec: Spec, one: Subcommand | None) -> bytes:
    return (spec.name if one is None else f"{spec.name}|{one.name}").encode()


def describe(spec: Spec, one: Subcommand | None = None) -> Reply:
    """What COMMAND tells of one command."""
    shown = one or spec
    return [
        _full_name(spec, one),
        shown.arity,
        [Simple(flag) for flag in shown.flags],
        shown.first_key,
        shown.last_key,
        shown.step,
        [Simple(category) for category in _categories(spec, shown)],
        [tip.encode() for tip in shown.tips],
        [],
        [describe(spec, each) for each in spec.subcommands] if one is None else [],
    ]


def _categories(spec: Spec, shown: Spec | Subcommand) -> list[str]:
    """The ACL categories that follow from group and flags."""
    found = [_CATEGORIES[spec.group]] if spec.group in _CATEGORIES else []
    for flag, categories in (("write", ("@write",)), ("readonly", ("@read",)), ("admin", ("@admin", "@dangerous"))):
        if flag in shown.flags:
            found += categories
    if "blocking" in shown.flags:
        found.append("@blocking")
    found.append("@fast" if "fast" in shown.flags else "@slow")
    return found


def _docs(connection: Connection, names: Sequence[bytes]) -> Reply:
    found = list(map(_find, names)) if names else [(spec, None) for spec in SPECS.values()]
    return {_full_name(*each): _doc(*each) for each in found if each is not None}


def _doc(spec: Spec, one: Subcommand | None) -> Reply:
    told: dict[Reply, Reply] = {b"summary": (one or spec).summary.encode(), b"group": spec.group.encode()}
    if one is None and spec.subcommands:
        told[b"subcommands"] = {_full_name(spec, each): _doc(spec, each) for each in spec.subcommands}
    return told


def _keys(connection: Connection, request: Sequence[bytes]) -> Reply:
    spec = find_spec(request[0])
    if spec is None:
        fail("Invalid command specified")
    shown: Spec | Subcommand = spec
    if spec.subcommands and len(request) > 1:
        try:
            shown = check_subcommand(spec, request)
        except CommandError:
            fail("Invalid command specified")
    if not shown.first_key and not shown.counted_keys:
        fail("The command has no key arguments")
    if not fits(shown.arity, len(request)):
        fail("Invalid number of arguments specified for command")
    return list(keys_of(shown, request)) or fail("Invalid arguments specified for command")


def _everything() -> Iterator[tuple[Spec, Subcommand | None]]:
    for spec in SPECS.values():
        yield spec, None
        for one in spec.subcommands:
            yield spec, one


def _list(connection: Connection, args: Sequence[bytes]) -> Reply:
    if not args:
        return [_full_name(*each) for each in _everything()]
    if len(args) != 3 or args[0].lower() != b"filterby":
        fail("syntax error")
    match args[1].lower():
        case b"pattern":
            pattern = Pattern(args[2].lower())
            return [name for name in (_full_name(*each) for each in _everything()) if pattern.matches(name)]
        case b"aclcat":
            wanted = "@" + args[2].decode("utf-8", "replace").lower()
            return [_full_name(spec, one) for spec, one in _everything() if wanted in _categories(spec, one or spec)]
        case b"module":
            return []
        case _:
            return fail("syntax error")


CATALOGUE: Final[dict[str, Handler]] = {
    "command": _command,
    "command|count": _count,
    "command|docs": _docs,
    "command|getkeys": _keys,
    "command|info": _command_info,
    "command|list": _list,
}
"""What executes COMMAND and its subcommands."""
