"""Clients of a simulated cluster, what they were told, and whether that can be true.

Each client has one connection at a time, to any node, and sends pipelines of commands; when the node dies it goes to another one. What
is checked of each reply, at the moment when it leaves the node:

- A write that is acknowledged took effect, once, with this reply, after everything that was finished when it was asked for.
- A read equals the state at some index that is not before what was finished when it was asked for, nor before what this connection
  has seen; the smallest such index is taken, which leaves the most room to those that come later, so a history passes exactly if
  there is a linearization along the log.
- A read on a READONLY connection equals some state, and never goes back.
- A command that was definitely refused never takes effect.
- Replies come in the order of the requests: each has the type and content of its request.
- An element of a list is told to have been taken away once, and only if it was.
- A counter is never above what was asked for, and never below what was acknowledged.
- A transaction answers what the model says of it, all of it or nothing; accounts hold the same together, always (`sim.transfers`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection

from msgspec import Struct

from raftkv.kv.replies import NO_ARRAY, OK, Failure, Reply, Simple
from raftkv.sim.clock import Schedule
from raftkv.sim.hashes_and_sets import READS, draw, elements_of, normal
from raftkv.sim.library import Library, Nodes, new_core
from raftkv.sim.model import TAG
from raftkv.sim.node import SimNode
from raftkv.sim.trace import Trace, Violation
from raftkv.sim.transfers import ACCOUNTS, Transfer, look, together
from raftkv.sim.values import value_told
from raftkv.sim.watch import Watch

_DEFINITE = {"CLUSTERDOWN", "OVERLOADED"}


class Load(Struct, frozen=True, kw_only=True):
    """What the clients do. Times are in microseconds."""

    clients: int = 6
    keys: int = 4
    counters: int = 2
    pipeline: int = 6
    think_us: tuple[int, int] = (1_000, 60_000)
    bursts: int = 0
    """If not 0, a client sends so many pipelines at once, and then none for as many times."""
    hot: float = 0.0
    """The share of commands that are about the first key."""
    retry: float = 0.0
    """How often a client asks again, elsewhere, for a value to be set of which it does not know whether it was."""
    value_bytes: tuple[int, int] = (0, 64)
    readonly: float = 0.1
    """The share of connections that read locally."""
    leave: float = 0.02
    """How often a client leaves in the middle of something."""
    ttl_ms: tuple[int, int] = (20, 1_500)
    libraries: int = 0
    """Programs that use the client library, besides the clients."""
    failing: float = 0.0
    """The share of further commands that fail when they are applied, most of the time: they count with a key that holds a text."""
    lists: float = 0.0
    """The share of further commands that are about lists."""
    transfers: float = 0.0
    """The share of pipelines that begin a transfer between two accounts, or look at all of them, in a transaction."""
    sorted_sets: float = 0.0
    """The share of further commands that are about sorted sets."""
    elements: float = 0.0
    """The share of pipelines that are followed by commands on hashes and sets."""


class Request:
    """One command that a client sent."""

    __slots__ = ("amount", "arguments", "floor", "key", "kind", "tag", "transfer")

    def __init__(
        self, kind: str, arguments: list[bytes], key: bytes, tag: bytes, floor: int, transfer: Transfer | None = None
    ) -> None:
        self.transfer = transfer
        self.kind = kind
        self.arguments = arguments
        self.key = key
        self.tag = tag
        self.floor = floor


class Client:
    """One client, with at most one connection."""

    def __init__(self, number: int, rng: random.Random) -> None:
        self.name = f"client{number}"
        self.rng = rng
        self.node: SimNode | None = None
        self.connection = 0
        self.readonly = False
        self.seen = 0
        """The index that this connection has seen."""
        self.waiting: list[Request] = []
        self.again: list[bytes] = []
        """Keys that are to be set again."""
        self.transfer: Transfer | None = None
        """The transfer that has begun."""
        self.acts = 0
        self.stopped = False


class Workload:
    """All clients. Implements `sim.world.Replies`."""

    def __init__(self, load: Load, schedule: Schedule, trace: Trace, watch: Watch, rng: random.Random) -> None:
        self.load = load
        self.outcomes: Counter[str] = Counter()
        self.floor = 0
        """No operation that begins now may see a state before this index."""
        self.nodes: Nodes
        self._schedule = schedule
        self._trace = trace
        self._watch = watch
        self._model = watch.model
        self._rng = rng
        self._clients = [Client(number, random.Random(rng.getrandbits(64))) for number in range(load.clients)]
        self._by_connection: dict[int, Client] = {}
        self.libraries: list[Library] = []
        self._libraries_by_connection: dict[int, Library] = {}
        self._connections = 0
        self._tags = 0
        self._counted: dict[bytes, list[int]] = {}
        self._sums_told: Counter[tuple[bytes, bytes, float]] = Counter()
        """For each counter: the sums acknowledged, and not refused."""

    def begin(self, names: tuple[str, ...]) -> None:
        """Let the clients begin; `names` are those of all nodes."""
        for client in self._clients:
            self._think(client)
        if self.load.libraries:
            rng = random.Random(self._rng.getrandbits(64))
            core = new_core(names, self._schedule, rng)
            for number in range(self.load.libraries):
                library = Library(number, core, self._schedule, self._trace, rng, lambda: self.nodes, self._connect_library)
                self.libraries.append(library)
                library.begin()

    def _connect_library(self, library: Library) -> int:
        self._connections += 1
        self._libraries_by_connection[self._connections] = library
        return self._connections

    def stop(self) -> None:
        """Let the clients ask for nothing new."""
        for client in self._clients:
            client.stopped = True
        for library in self.libraries:
            library.stopped = True

    def waiting(self, nodes: Collection[SimNode]) -> int:
        """Requests to one of `nodes` without a reply."""
        libraries = sum(library.waits_for(node) for library in self.libraries for node in nodes)
        return libraries + sum(len(client.waiting) for client in self._clients if client.node in nodes)

    # Asking.

    def _think(self, client: Client) -> None:
        self._schedule.after(client.rng.randint(*self.load.think_us), lambda: self._act(client))

    def _act(self, client: Client) -> None:
        if client.stopped:
            return
        self._think(client)
        rng = client.rng
        client.acts += 1
        pipelines = 1
        if self.load.bursts:
            if client.acts % self.load.bursts:
                return
            pipelines = self.load.bursts
        if client.node is not None and rng.random() < self.load.leave:
            self._leave(client)
        if client.node is None:
            self._connect(client)
        node = client.node
        for _ in range(pipelines):
            if node is None or client.node is not node or len(client.waiting) > 3 * self.load.pipeline:
                return
            requests = [self._request(client) for _ in range(rng.randint(1, self.load.pipeline))]
            if self.load.elements and rng.random() < self.load.elements:
                requests += [self._about_elements(client) for _ in range(rng.randint(1, 3))]
            if self.load.transfers:
                requests += self._transaction(client)
            client.waiting += requests
            node.submit(client.connection, [request.arguments for request in requests])

    def _connect(self, client: Client) -> None:
        running = self.nodes.running
        if not running:
            return
        self._connections += 1
        node = client.rng.choice(running)
        client.node, client.connection, client.seen = node, self._connections, 0
        client.readonly = client.rng.random() < self.load.readonly
        self._by_connection[client.connection] = client
        node.open_client(client.connection)
        if client.readonly:
            client.waiting.append(Request("readonly", [b"READONLY"], b"", b"", self.floor))
            node.submit(client.connection, [[b"READONLY"]])

    def _leave(self, client: Client) -> None:
        node = client.node
        if node is not None:
            self._trace.note(client.name, "leaves", node.name)
            self._disconnect(client)
            node.close_client(client.connection)

    def _disconnect(self, client: Client) -> None:
        """What has no reply never gets one."""
        self._by_connection.pop(client.connection, None)
        client.node = client.transfer = None
        for request in client.waiting:
            self._unknown(request)
            if request.kind == "set" and self.load.retry and client.rng.random() < self.load.retry:
                client.again.append(request.key)
        client.waiting = []

    def _request(self, client: Client) -> Request:
        rng, load = client.rng, self.load
        choice = rng.random()
        key = b"key:%d" % (0 if load.hot and rng.random() < load.hot else rng.randrange(load.keys))
        self._tags += 1
        tag = b"%s%d:" % (TAG, self._tags)
        if client.again:
            key = client.again.pop()
            return Request("set", [b"SET", key, tag], key, tag, self.floor)
        if load.failing and rng.random() < load.failing:
            return Request("bad", [b"INCR", key], key, b"", self.floor)
        if load.lists and rng.random() < load.lists:
            return self._about_a_list(rng, tag)
        if load.sorted_sets and rng.random() < load.sorted_sets:
            return self._about_a_sorted_set(rng, tag)
        if choice < 0.34:
            return Request("get", [b"GET", key], key, b"", self.floor)
        if choice < 0.42:
            counter = b"counter:%d" % rng.randrange(load.counters)
            return Request("get", [b"GET", counter], counter, b"", self.floor)
        if choice < 0.62:
            counter = b"counter:%d" % rng.randrange(load.counters)
            self._counted.setdefault(counter, [0, 0])[1] += 1
            return Request("incr", [b"INCR", counter], counter, b"", self.floor)
        if choice < 0.68:
            return Request("del", [b"DEL", key, tag], key, tag, self.floor)
        if choice < 0.72:
            return Request("expire", [b"PEXPIRE", key, b"%d" % rng.randint(*load.ttl_ms)], key, b"", self.floor)
        if choice < 0.74:
            return Request("echo", [b"ECHO", tag], b"", tag, self.floor)
        if choice < 0.76:
            return Request("bad", [b"INCR", key], key, b"", self.floor)
        value = tag + b"." * rng.randint(*load.value_bytes)
        if choice < 0.82:
            return Request("setnx", [b"SET", key, value, b"NX"], key, value, self.floor)
        if choice < 0.86:
            return Request("setpx", [b"SET", key, value, b"PX", b"%d" % rng.randint(*load.ttl_ms)], key, value, self.floor)
        return Request("set", [b"SET", key, value], key, value, self.floor)

    def _about_a_list(self, rng: random.Random, tag: bytes) -> Request:
        key = b"list:%d" % rng.randrange(self.load.keys)
        kind, arguments = rng.choices(
            [
                ("push", [b"RPUSH", key, tag]),
                ("pop", [b"LPOP", key]),
                ("get", [b"LRANGE", key, b"0", b"-1"]),
                ("del", [b"DEL", key, tag]),
                ("expire", [b"PEXPIRE", key, b"%d" % rng.randint(*self.load.ttl_ms)]),
            ],
            [40, 35, 20, 3, 2],
        )[0]
        return Request(kind, arguments, key, tag if tag in arguments else b"", self.floor)

    def _transaction(self, client: Client) -> list[Request]:
        """What a client does for a transfer now, if anything."""
        rng, transfer, floor = client.rng, client.transfer, self.floor
        if transfer is not None:
            if not transfer.ready:
                return []
            client.transfer = None
            return self._multi("exec", transfer.changes())
        if rng.random() >= self.load.transfers:
            return []
        if rng.random() < 0.3:
            # A WATCH that failed would stop it.
            return [Request("ok", [b"UNWATCH"], b"", b"", floor), *self._multi("look", look())]
        transfer = client.transfer = Transfer(rng, self.load.keys)
        unwatch, watch, *reads = transfer.preparations()
        return [
            Request("ok", unwatch, b"", b"", floor),
            Request("ok", watch, b"", b"", floor, transfer),
            *(Request("get", read, read[1], b"", floor, transfer) for read in reads),
        ]

    def _multi(self, kind: str, inside: list[list[bytes]]) -> list[Request]:
        """A transaction, whose last command names it."""
        self._tags += 1
        tag = b"%s%d:" % (TAG, self._tags)
        return [
            Request("ok", [b"MULTI"], b"", b"", self.floor),
            *(Request("queued", each, b"", b"", self.floor) for each in (*inside, [b"DEL", tag])),
            Request(kind, [b"EXEC"], b"", tag, self.floor),
        ]

    def _about_a_sorted_set(self, rng: random.Random, tag: bytes) -> Request:
        key = b"sorted set:%d" % rng.randrange(self.load.keys)
        member, score, other = b"m%d" % rng.randrange(3), b"%d" % rng.randint(-2, 2), b"%.1f" % rng.uniform(-2, 2)
        kind, arguments = rng.choices(
            [
                ("zadd", [b"ZADD", key, score, member, other, tag]),
                ("zincrby", [b"ZINCRBY", key, score, member]),
                ("zrem", [b"ZREM", key, member, tag]),
                ("get", [b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"]),
                ("del", [b"DEL", key, tag]),
                ("expire", [b"PEXPIRE", key, b"%d" % rng.randint(*self.load.ttl_ms)]),
            ],
            [30, 20, 15, 25, 7, 3],
        )[0]
        return Request(kind, arguments, key, tag if tag in arguments else b"", self.floor)

    def _about_elements(self, client: Client) -> Request:
        self._tags += 1
        tag = b"%s%d:" % (TAG, self._tags)
        kind, arguments = draw(client.rng, tag, self.load.ttl_ms)
        return Request(kind, arguments, arguments[1], tag if arguments[-1] == tag else b"", self.floor)

    # Replies.

    def node_died(self, node: SimNode) -> None:
        """All connections to `node` have broken."""
        for client in self._clients:
            if client.node is node:
                self._disconnect(client)
        for library in self.libraries:
            library.node_died(node)

    def replied(self, node: SimNode, connection: int, replies: list[Reply], close: bool) -> None:
        """`replies` leave `node` on `connection`."""
        library = self._libraries_by_connection.get(connection)
        if library is not None:
            library.replied(connection, replies)
            return
        client = self._by_connection.get(connection)
        if client is None:
            self._watch.probes.reply_for_nobody()
            return  # the client has left, and does not read them
        if len(replies) > len(client.waiting):
            raise Violation("one reply each", f"{node.name} answers {client.name} {len(replies)} times; {len(client.waiting)} were asked")
        answered, client.waiting = client.waiting[: len(replies)], client.waiting[len(replies) :]
        pairs = list(zip(answered, replies, strict=True))
        told = ", ".join([f"{request.kind} {request.key.decode()} {str(reply)[:40]}" for request, reply in pairs])
        self._trace.note(client.name, "is told", f"{node.name}:", told)
        for request, reply in pairs:
            self._judge(client, node, request, reply)

    def _judge(self, client: Client, node: SimNode, request: Request, reply: Reply) -> None:
        if isinstance(reply, Failure) and not (request.kind == "bad" and reply.code == "ERR"):
            self._failed(client, node, request, reply)
            return
        self.outcomes["acknowledged"] += 1
        about = f"{node.name} answers {client.name}'s {request.arguments[:3]} with {reply!r}"
        match request.kind:
            case kind if kind == "get" or kind in READS:
                self._read(client, request, reply, about)
                if request.transfer is not None:
                    request.transfer.read(request.key, reply)
            case "exec" | "look":
                self._executed(client, request, reply, about)
            case "incr":
                index = self._model.counted.get((request.key, reply)) if isinstance(reply, int) else None
                if index is None:
                    raise Violation("acknowledged writes", f"{about}; the log never came to that")
                del self._model.counted[request.key, reply]  # type: ignore[arg-type]  # it was found by this
                self._counted[request.key][0] += 1
                self._written(client, request, index, about)
            case "pop":
                self._popped(client, request, reply, about)
            case "zincrby":
                self._summed(client, request, reply, about)
            case "expire":
                if reply not in (0, 1):
                    raise Violation("order of replies", about)
            case "bad":
                if not isinstance(reply, (int, Failure)):
                    raise Violation("order of replies", about)
            case "echo" | "readonly" | "ok" | "queued":
                expected = request.tag if request.kind == "echo" else Simple("QUEUED") if request.kind == "queued" else OK
                if reply != expected:
                    raise Violation("order of replies", about)
            case _:
                effect = self._model.effects.get(request.tag)
                if effect is None:
                    raise Violation("acknowledged writes", f"{about}; it is not in the log")
                if effect[1] != reply:
                    raise Violation("reply", f"{about}; at {effect[0]} it was answered {effect[1]!r}")
                self._written(client, request, effect[0], about)

    def _read(self, client: Client, request: Request, reply: Reply, about: str) -> None:
        low = client.seen if client.readonly else max(client.seen, request.floor)
        high = self._model.index
        answer = READS.get(request.kind)
        if answer is None:
            index = self._model.first_index_with(request.key, value_told(reply), low, high)
        else:
            elements = answer
            index = self._model.first_index_with(
                request.key, normal(reply), low, high, lambda content: elements(elements_of(content), request.arguments)
            )
        if index is None:
            raise Violation(
                "linearizable reads",
                f"{about}; it began after {request.floor}, this connection has seen {client.seen}, now is {high}, "
                f"the versions are {self._model.explain(request.key, low, high)}",
            )
        client.seen = index
        if not client.readonly:
            self.floor = max(self.floor, index)

    def _popped(self, client: Client, request: Request, reply: Reply, about: str) -> None:
        """An element is taken away once. That there was none is told only as often as it happened, at an index that is not known."""
        value = value_told(reply)
        indices = self._model.popped.get((request.key, value), []) if value is None or isinstance(value, bytes) else []
        index = next((index for index in indices if index > request.floor), None)
        if index is None:
            raise Violation("acknowledged writes", f"{about}; that did not happen after {request.floor}")
        indices.remove(index)
        if value is not None:
            self._written(client, request, index, about)

    def _executed(self, client: Client, request: Request, reply: Reply, about: str) -> None:
        index = self._model.aborted.get(request.tag)
        effect = self._model.effects.get(request.tag)
        if reply == NO_ARRAY:
            if index is None:
                raise Violation("transactions", f"{about}; in the log it is {effect}")
        elif effect is None or effect[1] != reply:
            raise Violation("transactions", f"{about}; in the log it is {effect}, or was stopped at {index}")
        else:
            index = effect[0]
            self.outcomes["transactions"] += 1
        if request.kind == "look" and isinstance(reply, list) and together(reply):
            raise Violation("transactions", f"{about}: the accounts hold {together(reply)} together")

    def _summed(self, client: Client, request: Request, reply: Reply, about: str) -> None:
        """Each increment comes to its score once. Which of several that came to the same one it was is not known, so no more is taken for
        seen than the first that it may have been."""
        sum_ = request.key, request.arguments[-1], reply if isinstance(reply, float) else float("nan")
        indices = self._model.summed.get(sum_, [])
        first = next((index for index in indices if index > max(request.floor, client.seen - 1)), None)
        self._sums_told[sum_] += 1
        if first is None or self._sums_told[sum_] > len(indices):
            raise Violation("acknowledged writes", f"{about}; the log never came to that after {request.floor}")
        self._written(client, request, first, about)

    def _written(self, client: Client, request: Request, index: int, about: str) -> None:
        if index <= request.floor:
            raise Violation("real-time order", f"{about}; it took effect at {index}, and {request.floor} was finished when it was asked")
        if index < client.seen:
            raise Violation("order on a connection", f"{about}; it took effect at {index}, the connection had seen {client.seen}")
        client.seen = index
        self.floor = max(self.floor, index)
        self.outcomes["acknowledged writes"] += 1

    def _failed(self, client: Client, node: SimNode, request: Request, failure: Failure) -> None:
        if request.transfer is not None and request.transfer is client.transfer:
            client.transfer = None
        if failure.code == "UNCERTAIN":
            self._unknown(request)
            return
        if failure.code not in _DEFINITE and not (request.arguments == [b"EXEC"] and failure.code == "EXECABORT"):
            raise Violation("known errors", f"{node.name} answers {client.name}'s {request.arguments[:3]} with {failure}")
        self.outcomes["refused"] += 1
        if request.kind == "incr":
            self._counted[request.key][1] -= 1
        elif request.tag and request.kind != "echo":
            if request.tag in self._model.effects:
                index = self._model.effects[request.tag][0]
                raise Violation("definite refusal", f"{node.name} says {failure} of {request.arguments[:3]}, which happened at {index}")
            self._model.refused.add(request.tag)

    def _unknown(self, request: Request) -> None:
        self.outcomes["unknown"] += 1

    # The end.

    def check(self) -> None:
        """Compare the counters with what the clients were told, and count the money."""
        for library in self.libraries:
            library.check(int(self._model.string(library.key) or 0))
        accounts = [self._model.string(account) for account in ACCOUNTS]
        if together(accounts):
            raise Violation("transactions", f"the accounts hold {accounts}")
        for counter, (acknowledged, possible) in sorted(self._counted.items()):
            value = int(self._model.string(counter) or 0)
            if not acknowledged <= value <= possible:
                raise Violation("counters", f"{counter!r} is {value}; {acknowledged} were acknowledged and {possible} may have happened")

    def probe(self, node: SimNode) -> None:
        """Ask `node` for a write and a read, as a new client."""
        self._connections += 1
        client = Client(1000 + self._connections, random.Random(0))
        client.stopped = True
        self._clients.append(client)
        client.node, client.connection = node, self._connections
        self._by_connection[client.connection] = client
        node.open_client(client.connection)
        self._tags += 1
        value = b"%s%d:probe" % (TAG, self._tags)
        key = b"key:0"
        client.waiting = [
            Request("set", [b"SET", key, value], key, value, self.floor),
            Request("get", [b"GET", key], key, b"", self.floor),
        ]
        node.submit(client.connection, [request.arguments for request in client.waiting])

