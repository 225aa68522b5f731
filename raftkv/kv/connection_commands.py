"""What the table knows of the commands that concern a connection. What they do is not here: the node that holds it executes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raftkv.kv.command import HELP, NO_KEYS, Command, ConnectionCommand, Kind, Spec, Subcommand, subcommand


def parse_unchanged(args: Sequence[bytes]) -> Command:
    """A command for the node that holds the connection."""
    return ConnectionCommand(args[0].lower().decode("ascii"), tuple(args[1:]))


def node_spec(
    name: str,
    arity: int,
    summary: str,
    flags: str,
    group: str = "connection",
    *,
    keys: tuple[int, int, int] = NO_KEYS,
    tips: tuple[str, ...] = (),
    differs: str = "",
    subcommands: tuple[Subcommand, ...] = (),
) -> Spec:
    """The `Spec` of a command of the node. `flags` are separated by spaces; a container has HELP besides its `subcommands`."""
    return Spec(
        name=name,
        arity=arity,
        kind=Kind.CONNECTION,
        parse=parse_unchanged,
        summary=summary,
        group=group,
        flags=tuple(flags.split()),
        first_key=keys[0],
        last_key=keys[1],
        step=keys[2],
        tips=tips,
        differs=differs,
        subcommands=(*subcommands, HELP) if subcommands else (),
    )


NONDETERMINISTIC: Final = ("nondeterministic_output",)

_PUBSUB: Final = "pubsub noscript loading stale"
_PUBLISH: Final = "pubsub loading stale fast"
_PATTERN: Final = "a pattern has at most 4096 bytes"
_HERE: Final = "every node delivers it, and the answer counts those who got it at this node, as in a cluster of Redis"

_FLAGS: Final = "noscript loading stale"
_ADMIN: Final = "admin noscript loading stale"

_CLIENT: Final = (
    subcommand("CACHING <YES|NO>", 3, "Track the keys of the next command, or do not", _FLAGS),
    subcommand("GETNAME", 2, "Return the name of this connection", _FLAGS),
    subcommand("GETREDIR", 2, "Return the connection that messages of tracking go to: none", _FLAGS),
    subcommand("ID", 2, "Return the number of this connection", _FLAGS),
    subcommand("INFO", 2, "Describe this connection", _FLAGS, tips=NONDETERMINISTIC),
    subcommand("KILL <ip:port> | [ID <id>] [TYPE <type>] [ADDR <ip:port>] ...", -3, "Disconnect clients of this node", _ADMIN),
    subcommand("LIST [TYPE <type> | ID <id> ...]", -2, "Describe the connections of this node", _ADMIN, tips=NONDETERMINISTIC),
    subcommand("NO-EVICT <ON|OFF>", 3, "Keep this connection when memory is short, as all are kept", _ADMIN),
    subcommand("NO-TOUCH <ON|OFF>", 3, "Leave no trace of use on keys, as none is left", _FLAGS),
    subcommand("REPLY <ON|OFF|SKIP>", 3, "Say whether replies are wanted", _FLAGS),
    subcommand("SETINFO <LIB-NAME|LIB-VER> <value>", 4, "Name the library that uses this connection", _FLAGS),
    subcommand("SETNAME <name>", 3, "Name this connection", _FLAGS),
    subcommand("TRACKING <ON|OFF> ...", -3, "Be told of changed keys, which is not possible", _FLAGS),
    subcommand("TRACKINGINFO", 2, "Tell what is tracked: nothing", _FLAGS),
    subcommand("UNBLOCK <client-id> [TIMEOUT|ERROR]", -3, "End the waiting of another client of this node", _ADMIN),
)

SPECS: Final = (
    node_spec(
        "auth",
        -2,
        "Authenticate the connection",
        "noscript loading stale fast no_auth allow_busy",
        differs="There are no passwords: the user `default` has none, and there is no other.",
    ),
    node_spec(
        "client",
        -2,
        "A container for commands on connections",
        "",
        differs="Of the connections of this node. NO-TOUCH and SETINFO are those of Redis 7.2; PAUSE and UNPAUSE are not there; "
        "TRACKING ON is refused, and so is REPLY inside of a transaction.",
        subcommands=_CLIENT,
    ),
    node_spec("echo", 2, "Echo the given string", "loading stale fast"),
    node_spec("function", -2, "A container for function commands, of which there are none", "", "scripting"),
    node_spec("hello", -1, "Handshake with Redis", "noscript loading stale fast no_auth allow_busy"),
    node_spec("ping", -1, "Ping the node", "fast", tips=("request_policy:all_shards", "response_policy:all_succeeded")),
    node_spec("psubscribe", -2, "Listen to the channels that match patterns", _PUBSUB, "pubsub", differs=_PATTERN),
    node_spec("publish", 3, "Send a message to those who listen to a channel", _PUBLISH, "pubsub", differs=_HERE),
    node_spec("pubsub", -2, "A container for commands about who listens at this node", "", "pubsub", differs="tells of this node"),
    node_spec("punsubscribe", -1, "Listen no longer to the channels that match patterns", _PUBSUB, "pubsub"),
    node_spec("quit", -1, "Close the connection", "noscript loading stale fast no_auth allow_busy"),
    node_spec("readonly", 1, "Let this connection read the local, possibly stale state", "loading stale fast", "cluster"),
    node_spec("readwrite", 1, "Let this connection read the newest state again", "loading stale fast", "cluster"),
    node_spec("reset", 1, "Set the connection back to how it began", "noscript loading stale fast no_auth allow_busy"),
    node_spec("script", -2, "A container for Lua scripts management commands", "", "scripting"),
    node_spec("select", 2, "Change the selected database", "loading stale fast", differs="There is one database, 0."),
    node_spec("spublish", 3, "Send a message to those who listen to a shard channel", _PUBLISH, "pubsub", keys=(1, 1, 1), differs=_HERE),
    node_spec("ssubscribe", -2, "Listen to shard channels", _PUBSUB, "pubsub", keys=(1, -1, 1)),
    node_spec("subscribe", -2, "Listen to channels", _PUBSUB, "pubsub"),
    node_spec("sunsubscribe", -1, "Listen no longer to shard channels", _PUBSUB, "pubsub", keys=(1, -1, 1)),
    node_spec("unsubscribe", -1, "Listen no longer to channels", _PUBSUB, "pubsub"),
    node_spec(
        "wait",
        3,
        "Wait until other nodes hold the writes of this connection",
        "noscript",
        "generic",
        tips=("request_policy:all_shards", "response_policy:agg_min"),
        differs="Counts the nodes besides this one that are known to have the last answered write of the connection on disk: never fewer "
        "than make a majority with this one. The leader knows of others at once, another node within a heartbeat.",
    ),
)
