"""Publishing and subscribing: who listens to what at this node, and what is said to whom.

A message is published at one node, which hands it to its own subscribers and sends one frame to every node that is connected; each of
those hands it to its own. Nothing of it is in the log: a message that could not be sent, or that comes while nobody listens, is gone.

What always holds:

- The messages of one publisher reach each subscriber in their order: nothing here waits, and a connection between nodes keeps order.
- A subscriber that listens to a channel by name and by patterns gets a message once for each of them, the name first.
- What all subscriptions of this node take is bounded. What waits for a subscriber who does not read is bounded by the server.
- Replies and errors are those of Redis 7.0.15. PUBLISH answers how many subscribers the message reached at this node, and PUBSUB tells of
  this node, as in a Redis Cluster.

Shard channels (SSUBSCRIBE, SPUBLISH) are a second, separate set of names, as in a Redis without cluster mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from raftkv.codec.peer import Publish
from raftkv.kv.command import MAX_KEY_BYTES, ConnectionCommand
from raftkv.kv.commands import spec_of, unknown_subcommand, wrong_arity
from raftkv.kv.glob import Pattern
from raftkv.kv.replies import CommandError, Failure, Pushes, Reply, Simple, fail
from raftkv.raft.types import NodeId
from raftkv.router.connection import Connection
from raftkv.router.ports import RouterSettings

SUBSCRIPTION_BYTES: Final = 512
"""About what a subscription takes beyond its name."""

MAX_PATTERN_BYTES: Final = 4096
"""The longest pattern: every message that is published may have to be compared with it."""

PATTERNS_AT_ONCE_BYTES: Final = 64 << 10
"""The most that the patterns of one request have together: each byte takes up to 10 microseconds to be compiled."""

PATTERN_WEIGHT: Final = 16
"""What a byte of a pattern takes when it is compiled, at most."""

MATCHING_STEPS: Final = 1 << 28
"""The most steps that the comparison of one channel with all patterns may take: some tenths of a second."""

PUBLISHING: Final = frozenset(("publish", "pubsub", "spublish"))
"""The commands that are answered with one reply, and so can be part of a transaction."""

_ALLOWED: Final = frozenset(
    ("subscribe", "psubscribe", "ssubscribe", "unsubscribe", "punsubscribe", "sunsubscribe", "ping", "quit", "reset")
)
"""What a subscribed connection may ask in RESP2, where a reply could not be told from a message."""

_CONTAINERS: Final = frozenset(("function", "pubsub", "script"))
"""Commands whose first argument is part of their name, besides those of which the table says it."""

_HELP: Final = (
    "PUBSUB <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CHANNELS [<pattern>]",
    "    Return the currently active channels matching a <pattern> (default: '*').",
    "NUMPAT",
    "    Return number of subscriptions to patterns.",
    "NUMSUB [<channel> ...]",
    "    Return the number of subscribers for the specified channels, excluding",
    "    pattern subscriptions(default: no channels).",
    "SHARDCHANNELS [<pattern>]",
    "    Return the currently active shard level channels matching a <pattern> (default: '*').",
    "SHARDNUMSUB [<shardchannel> ...]",
    "    Return the number of subscribers for the specified shard level channel(s)",
    "HELP",
    "    Prints this help.",
)


def refusal_in_context(args: Sequence[bytes]) -> Failure | None:
    """What a subscribed connection is told in RESP2 that asks for something else; None when it may, or when it is no command at all."""
    try:
        spec = spec_of(args)
    except CommandError:
        return None
    name = spec.name
    if name in _ALLOWED:
        return None
    if (spec.subcommands or name in _CONTAINERS) and len(args) > 1:
        name += "|" + args[1].lower().decode("utf-8", "surrogateescape")
    allowed = "only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
    return Failure("ERR", f"Can't execute '{name}': {allowed}")


class _Names:
    """One set of names: by name who listens, and by connection what it listens to, in the order of subscribing."""

    __slots__ = ("listeners", "of", "word")

    def __init__(self, word: str) -> None:
        self.word = word
        """What the names of the commands and messages of this set begin with: nothing, p or s."""
        self.listeners: dict[bytes, dict[int, Connection]] = {}
        self.of: dict[int, dict[bytes, None]] = {}

    def add(self, connection: Connection, name: bytes) -> bool:
        """Subscribe; False when it had been done."""
        listeners = self.listeners.setdefault(name, {})
        if connection.id in listeners:
            return False
        listeners[connection.id] = connection
        self.of.setdefault(connection.id, {})[name] = None
        return True

    def remove(self, connection: Connection, name: bytes) -> bool:
        """Unsubscribe; False when there was nothing to end."""
        names = self.of.get(connection.id)
        if names is None or name not in names:
            return False
        del names[name]
        if not names:
            del self.of[connection.id]
        listeners = self.listeners[name]
        del listeners[connection.id]
        if not listeners:
            del self.listeners[name]
        return True

    def count(self, connection: Connection) -> int:
        """How many names it listens to."""
        return len(self.of.get(connection.id, ()))

    def tell(self, name: bytes, message: Sequence[Reply]) -> int:
        """Hand `message` to everybody who listens to `name`; how many that are."""
        listeners = self.listeners.get(name)
        if not listeners:
            return 0
        pushes = Pushes((message,))
        for connection in listeners.values():
            connection.push(pushes)
        return len(listeners)


class Channels:
    """Attends to the commands of this module, and hands messages over.

    Args:
        settings: the bounds.
        send: sends a frame to a node; False when it surely did not leave.
    """

    def __init__(self, settings: RouterSettings, send: Callable[[NodeId, object], bool]) -> None:
        self._settings = settings
        self._send = send
        self._channels = _Names("")
        self._patterns = _Names("p")
        self._shards = _Names("s")
        self._compiled: dict[bytes, Pattern] = {}
        self._size = 0
        self._pattern_bytes = 0
        self._peers: set[NodeId] = set()
        self.dropped = 0
        """Frames that could not be sent to a node that is connected, and those that were not compared with the patterns here."""
        self._commands: dict[str, Callable[[Connection, tuple[bytes, ...]], Reply]] = {
            "subscribe": lambda connection, names: self._subscribe(self._channels, connection, names),
            "psubscribe": lambda connection, names: self._subscribe(self._patterns, connection, names),
            "ssubscribe": lambda connection, names: self._subscribe(self._shards, connection, names),
            "unsubscribe": lambda connection, names: self._unsubscribe(self._channels, connection, names),
            "punsubscribe": lambda connection, names: self._unsubscribe(self._patterns, connection, names),
            "sunsubscribe": lambda connection, names: self._unsubscribe(self._shards, connection, names),
            "publish": lambda connection, args: self._publish(Publish(args[0], args[1])),
            "spublish": lambda connection, args: self._publish(Publish(args[0], args[1], True)),
            "pubsub": self._pubsub,
        }
        self.names = frozenset(self._commands)
        """The commands that are known here."""

    @property
    def channels(self) -> int:
        """How many channels somebody listens to here."""
        return len(self._channels.listeners)

    @property
    def patterns(self) -> int:
        """The same for patterns."""
        return len(self._patterns.listeners)

    def attend(self, connection: Connection, command: ConnectionCommand) -> Reply:
        """Execute `command` for `connection`.

        Raises:
            CommandError: the answer is an error.
        """
        return self._commands[command.name](connection, command.args)

    # Subscribing.

    def _subscribe(self, names: _Names, connection: Connection, wanted: tuple[bytes, ...]) -> Reply:
        longest = MAX_PATTERN_BYTES if names is self._patterns else MAX_KEY_BYTES
        if max(map(len, wanted)) > longest:
            fail(f"the name of a channel has at most {MAX_KEY_BYTES} bytes, a pattern {MAX_PATTERN_BYTES}")
        if names is self._patterns and sum(map(len, wanted)) > PATTERNS_AT_ONCE_BYTES:
            fail(f"the patterns of one request have at most {PATTERNS_AT_ONCE_BYTES} bytes together; subscribe to fewer at a time")
        if self._size + sum(self._weight(names, name) for name in wanted) > self._settings.max_subscription_bytes:
            fail("this node holds as many subscriptions as it may", "OVERLOADED")
        told: list[list[Reply]] = []
        for name in wanted:
            if names.add(connection, name):
                self._size += self._weight(names, name)
                if names is self._patterns and name not in self._compiled:
                    self._compiled[name] = Pattern(name)
                    self._pattern_bytes += len(name)
            told.append([f"{names.word}subscribe".encode(), name, self._count(names, connection)])
        connection.subscribed = True
        return Pushes(told)

    def _unsubscribe(self, names: _Names, connection: Connection, wanted: tuple[bytes, ...]) -> Reply:
        word = f"{names.word}unsubscribe".encode()
        told: list[list[Reply]] = []
        for name in wanted or tuple(names.of.get(connection.id, ())):
            self._remove(names, connection, name)
            told.append([word, name, self._count(names, connection)])
        self._note(connection)
        return Pushes(told or [[word, None, self._count(names, connection)]])

    def _remove(self, names: _Names, connection: Connection, name: bytes) -> None:
        if names.remove(connection, name):
            self._size -= self._weight(names, name)
            if names is self._patterns and name not in names.listeners:
                del self._compiled[name]
                self._pattern_bytes -= len(name)

    def _weight(self, names: _Names, name: bytes) -> int:
        """The bytes that a subscription takes, about."""
        return SUBSCRIPTION_BYTES + len(name) * (PATTERN_WEIGHT if names is self._patterns else 1)

    def _count(self, names: _Names, connection: Connection) -> int:
        """What a confirmation tells: channels and patterns together, or shard channels."""
        if names is self._shards:
            return names.count(connection)
        return self._channels.count(connection) + self._patterns.count(connection)

    def _note(self, connection: Connection) -> None:
        connection.subscribed = any(names.count(connection) for names in (self._channels, self._patterns, self._shards))

    def forget(self, connection: Connection) -> None:
        """The connection is gone, or is reset: it listens to nothing."""
        if connection.subscribed:
            for names in (self._channels, self._patterns, self._shards):
                for name in tuple(names.of.get(connection.id, ())):
                    self._remove(names, connection, name)
            connection.subscribed = False

    def counts(self, connection: Connection) -> tuple[int, int, int]:
        """To how many channels, patterns and shard channels it listens."""
        return self._channels.count(connection), self._patterns.count(connection), self._shards.count(connection)

    # Publishing.

    def _publish(self, frame: Publish) -> int:
        if len(frame.channel) > MAX_KEY_BYTES:  # nobody listens to it by name, and patterns would be compared with all of it
            fail(f"the name of a channel has at most {MAX_KEY_BYTES} bytes, a pattern {MAX_PATTERN_BYTES}")
        size = len(frame.channel) + len(frame.message)
        if size > self._settings.max_entry_bytes:
            fail(f"the message has {size} bytes; max_entry_bytes is {self._settings.max_entry_bytes}")
        if not frame.shard and self._too_costly(frame.channel):
            fail("the channel cannot be compared with as many patterns as are subscribed to here", "OVERLOADED")
        reached = self.deliver(frame)
        for node in sorted(self._peers):
            if not self._send(node, frame):
                self.dropped += 1
        return reached

    def deliver(self, frame: Publish) -> int:
        """Hand a message to the subscribers at this node; how many times it was."""
        channel, message = frame.channel, frame.message
        if frame.shard:
            return self._shards.tell(channel, (b"smessage", channel, message))
        reached = self._channels.tell(channel, (b"message", channel, message))
        if self._too_costly(channel):
            self.dropped += 1
            return reached
        for name, pattern in self._compiled.items():
            if pattern.matches(channel):
                reached += self._patterns.tell(name, (b"pmessage", name, channel, message))
        return reached

    def _too_costly(self, channel: bytes) -> bool:
        """Whether comparing `channel` with all patterns might hold up everything else for long."""
        return self._pattern_bytes * (len(channel) + 1) > MATCHING_STEPS

    def peer_connected(self, node: NodeId) -> None:
        """From now on `node` is told what is published here."""
        self._peers.add(node)

    def peer_disconnected(self, node: NodeId) -> None:
        """No more."""
        self._peers.discard(node)

    # PUBSUB

    def _pubsub(self, connection: Connection, args: tuple[bytes, ...]) -> Reply:
        subcommand = args[0].lower()
        rest = args[1:]
        match subcommand:
            case b"channels" | b"shardchannels":
                if len(rest) > 1:
                    shown = args[0][:128].decode("utf-8", "surrogateescape")
                    fail(f"unknown subcommand or wrong number of arguments for '{shown}'. Try PUBSUB HELP.")
                names = self._channels if subcommand == b"channels" else self._shards
                if rest and len(rest[0]) > MAX_PATTERN_BYTES:
                    fail(f"a pattern has at most {MAX_PATTERN_BYTES} bytes")
                pattern = Pattern(rest[0]) if rest else None
                return [name for name in names.listeners if pattern is None or pattern.matches(name)]
            case b"numsub" | b"shardnumsub":
                names = self._channels if subcommand == b"numsub" else self._shards
                return [item for name in rest for item in (name, len(names.listeners.get(name, ())))]
            case b"numpat" | b"help" if rest:
                return wrong_arity(f"pubsub|{subcommand.decode()}")
            case b"numpat":
                return self.patterns
            case b"help":
                return [Simple(line) for line in _HELP]
            case _:
                return unknown_subcommand("pubsub", args[0])
