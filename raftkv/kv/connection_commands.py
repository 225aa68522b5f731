"""What the table knows of the commands that a node executes itself. What they do is not here: it concerns sockets and nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raftkv.kv.command import Command, ConnectionCommand, Kind, Spec


def _parse(args: Sequence[bytes]) -> Command:
    return ConnectionCommand(args[0].lower().decode("ascii"), tuple(args[1:]))


def _spec(
    name: str, arity: int, summary: str, flags: str, group: str = "connection", tips: tuple[str, ...] = (), differs: str = ""
) -> Spec:
    return Spec(
        name=name,
        arity=arity,
        kind=Kind.CONNECTION,
        parse=_parse,
        summary=summary,
        group=group,
        flags=tuple(flags.split()),
        tips=tips,
        differs=differs,
    )


_NONDETERMINISTIC: Final = ("nondeterministic_output",)
_PUBSUB: Final = "pubsub noscript loading stale"
_PUBLISH: Final = "pubsub loading stale fast"
_HERE: Final = "every node delivers it, and the answer counts those who got it at this node, as in a cluster of Redis"

SPECS: Final = (
    _spec("client", -2, "A container for client connection commands", "noscript loading stale"),
    _spec("command", -1, "Get details about commands", "loading stale", "server", ("nondeterministic_output_order",)),
    _spec("echo", 2, "Echo the given string", "loading stale fast"),
    _spec("function", -2, "A container for function commands, of which there are none", "", "scripting"),
    _spec("hello", -1, "Handshake with Redis", "noscript loading stale fast no_auth allow_busy"),
    _spec("info", -1, "Get information and statistics about the node", "loading stale", "server", _NONDETERMINISTIC),
    _spec("ping", -1, "Ping the node", "fast"),
    _spec("psubscribe", -2, "Listen to the channels that match patterns", _PUBSUB, "pubsub", differs="a pattern has at most 4096 bytes"),
    _spec("publish", 3, "Send a message to those who listen to a channel", _PUBLISH, "pubsub", differs=_HERE),
    _spec("pubsub", -2, "A container for commands about who listens at this node", "", "pubsub", differs="tells of this node"),
    _spec("punsubscribe", -1, "Listen no longer to the channels that match patterns", _PUBSUB, "pubsub"),
    _spec("raftkv.status", 1, "Describe the cluster as this node sees it, in JSON", "loading stale", "server", _NONDETERMINISTIC),
    _spec("raftkv.transfer", -1, "Hand the leadership to another node", "admin noscript", "server"),
    _spec("quit", -1, "Close the connection", "noscript loading stale fast no_auth allow_busy"),
    _spec("readonly", 1, "Let this connection read the local, possibly stale state", "loading stale fast", "cluster"),
    _spec("readwrite", 1, "Let this connection read the newest state again", "loading stale fast", "cluster"),
    _spec("role", 1, "Return the role of the node", "noscript loading stale fast", "server"),
    _spec("script", -2, "A container for Lua scripts management commands", "", "scripting"),
    _spec("select", 2, "Change the selected database", "loading stale fast"),
    _spec("spublish", 3, "Send a message to those who listen to a shard channel", _PUBLISH, "pubsub", differs=_HERE),
    _spec("ssubscribe", -2, "Listen to shard channels", _PUBSUB, "pubsub"),
    _spec("subscribe", -2, "Listen to channels", _PUBSUB, "pubsub"),
    _spec("sunsubscribe", -1, "Listen no longer to shard channels", _PUBSUB, "pubsub"),
    _spec("unsubscribe", -1, "Listen no longer to channels", _PUBSUB, "pubsub"),
)
