"""COMMAND and its subcommands: the table of commands (`kv.commands`), shown as Redis shows its own.

Everything is derived from the table. What Redis says of each argument (COMMAND DOCS, `arguments`) is not in the table and left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from raftkv.kv.command import Spec
from raftkv.kv.commands import SPECS, find_spec, keys_of
from raftkv.kv.glob import Pattern
from raftkv.kv.replies import Reply, Simple, fail

_ARITY = {b"count": 1, b"docs": -1, b"getkeys": -3, b"help": 1, b"info": -1, b"list": -1}
"""How many arguments each subcommand takes, its own name included, as in the table: -n is at least n."""

_CATEGORIES = {
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

_HELP = (
    "COMMAND <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "(no subcommand)",
    "    Return details about all commands.",
    "COUNT",
    "    Return the total number of commands in this server.",
    "LIST",
    "    Return a list of all commands in this server.",
    "INFO [<command-name> ...]",
    "    Return details about multiple commands.",
    "    If no command names are given, details for all commands are returned.",
    "DOCS [<command-name> ...]",
    "    Return documentation details about multiple commands.",
    "    If no command names are given, documentation details for all",
    "    commands are returned.",
    "GETKEYS <full-command>",
    "    Return the keys from a full command.",
    "HELP",
    "    Prints this help.",
)


def describe_commands(args: Sequence[bytes]) -> Reply:
    """The reply to COMMAND with `args`.

    Raises:
        CommandError: the answer is an error, in Redis's words.
    """
    if not args:
        return [_info(spec) for spec in SPECS.values()]
    name = args[0].lower()
    arity = _ARITY.get(name)
    if arity is None:
        shown = args[0][:128].partition(b"\0")[0].replace(b"\r", b" ").replace(b"\n", b" ").decode("utf-8", "surrogateescape")
        fail(f"unknown subcommand '{shown}'. Try COMMAND HELP.")
    if not _fits(arity, len(args)):
        fail(f"wrong number of arguments for 'command|{name.decode()}' command")
    rest = args[1:]
    match name:
        case b"count":
            return len(SPECS)
        case b"help":
            return [Simple(line) for line in _HELP]
        case b"info":
            return [_info(find_spec(one)) for one in rest] if rest else [_info(spec) for spec in SPECS.values()]
        case b"docs":
            return _docs(rest)
        case b"getkeys":
            return _keys(rest)
        case _:
            return _list(rest)


def _fits(arity: int, count: int) -> bool:
    """Whether `count` arguments are what `arity` asks for."""
    return count == arity if arity > 0 else count >= -arity


def _info(spec: Spec | None) -> Reply:
    if spec is None:
        return None
    return [
        spec.name.encode(),
        spec.arity,
        [Simple(flag) for flag in spec.flags],
        spec.first_key,
        spec.last_key,
        spec.step,
        [Simple(category) for category in _categories(spec)],
        [tip.encode() for tip in spec.tips],
        [],
        [],
    ]


def _categories(spec: Spec) -> list[str]:
    """The ACL categories that follow from group and flags."""
    found = [_CATEGORIES[spec.group]] if spec.group in _CATEGORIES else []
    found += [f"@{kind}" for flag, kind in (("readonly", "read"), ("write", "write")) if flag in spec.flags]
    if "blocking" in spec.flags:
        found.append("@blocking")
    found.append("@fast" if "fast" in spec.flags else "@slow")
    return found


def _docs(names: Sequence[bytes]) -> Reply:
    specs = [find_spec(name) for name in names] if names else list(SPECS.values())
    return {spec.name.encode(): {b"summary": spec.summary.encode(), b"group": spec.group.encode()} for spec in specs if spec is not None}


def _keys(request: Sequence[bytes]) -> Reply:
    spec = find_spec(request[0])
    if spec is None:
        fail("Invalid command specified")
    if not spec.first_key and not spec.counted_keys:
        fail("The command has no key arguments")
    if not _fits(spec.arity, len(request)):
        fail("Invalid number of arguments specified for command")
    return list(keys_of(spec, request)) or fail("Invalid arguments specified for command")


def _list(args: Sequence[bytes]) -> Reply:
    names: list[Reply] = [name.encode() for name in SPECS]
    if not args:
        return names
    if len(args) != 3 or args[0].lower() != b"filterby":
        fail("syntax error")
    by = args[1].lower()
    if by not in (b"pattern", b"aclcat", b"module"):
        fail("syntax error")
    if by == b"pattern":
        pattern = Pattern(args[2].lower())
        return [name.encode() for name in SPECS if pattern.matches(name.encode())]
    if by == b"aclcat":
        wanted = "@" + args[2].decode("utf-8", "replace").lower()
        return [name.encode() for name, spec in SPECS.items() if wanted in _categories(spec)]
    return []
