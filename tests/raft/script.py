"""The language of the golden traces: prose, a command, what it changed.

A trace is a text file of blocks that are separated by blank lines. A block is prose (lines that begin with ``#``), then one or more
commands, then ``---``, then the output: only what the commands changed. Setting up is one block, a proof is a chain of them.

Output, one line each::

    n2: follower → candidate, term 1 → 2, vote n2     what changed at a node, in a fixed order
    n2: log + 4@2 x                                   entries that came; ``log - 3@1`` entries that were cut off
    n1 → n2 Append t1 after 1@1 [2@1 x] commit 1      a message that left (it is on its way until delivered, dropped or lost)
    n1 ⇏ n2 Append t1 …                               a message that was dropped, or that a cut link swallowed
    ! NotLeader: …                                    a verb that was refused

What a delivery *is* was printed when the message left, so `deliver` prints only its consequences, and says ``(nothing changed)``
where there were none. Run ``pytest tests/raft/test_traces.py --rewrite`` to write the output of today into the files, and read the
difference before it is committed.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

from raftkv.errors import RaftkvError
from raftkv.raft import messages as message_classes
from raftkv.raft.config import Config
from raftkv.raft.messages import Message
from raftkv.raft.node import Raft
from raftkv.raft.types import Entry, EntryId, EntryKind, HardState, NodeId, SnapshotMeta
from tests.raft.network import TEST_CONFIG, Disk, Flight, MachineState, Network, Node, formed, unformed
from tests.raft.render import configuration_text, entry_id, entry_text, message_text


class BadScript(Exception):
    """A trace cannot be read; the text says which line and why."""


@dataclass
class Block:
    """One step of a trace."""

    prose: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    output: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The block as it stands in a file."""
        lines = [*self.prose, *self.commands]
        return "\n".join([*lines, "---", *self.output] if self.commands else lines)


def parse(text: str) -> list[Block]:
    """The blocks of a trace.

    Raises:
        BadScript: a block has commands and no ``---``.
    """
    blocks: list[Block] = []
    for number, chunk in enumerate(text.strip().split("\n\n"), start=1):
        block = Block()
        lines = chunk.strip("\n").split("\n")
        head, marker, tail = lines, False, []
        if "---" in lines:
            at = lines.index("---")
            head, marker, tail = lines[:at], True, lines[at + 1 :]
        for line in head:
            (block.prose if line.startswith("#") else block.commands).append(line)
        block.output = tail
        if block.commands and not marker:
            raise BadScript(f"block {number} ({block.commands[0]!r}) has no --- line")
        blocks.append(block)
    return blocks


def run(text: str) -> tuple[str, list[tuple[Block, list[str]]]]:
    """Execute a trace: the text it should be, and each block whose output differs with what came instead."""
    script = Script()
    blocks = parse(text)
    differences: list[tuple[Block, list[str]]] = []
    done: list[str] = []
    for block in blocks:
        if block.commands:
            output = script.execute(block.commands)
            if output != block.output:
                differences.append((block, output))
            block = replace(block, output=output)
        done.append(block.text())
    return "\n\n".join(done) + "\n", differences


@dataclass
class Seen:
    """The last printed state of one node."""

    facts: dict[str, str]
    log: list[EntryId]
    dropped: Counter[str]


class Script:
    """Executes commands on a network and collects what changed."""

    def __init__(self) -> None:
        self.network_or_none: Network | None = None
        self.seen: dict[NodeId, Seen] = {}
        self.out: list[str] = []
        self.quiet = False

    @property
    def network(self) -> Network:
        """The network of this trace."""
        if self.network_or_none is None:
            raise BadScript("a trace begins with `cluster`")
        return self.network_or_none

    def execute(self, commands: list[str]) -> list[str]:
        """Run the commands of one block; returns its output."""
        self.out = []
        for line in commands:
            self._execute(line)
        silent = all(line.split()[0] in ("quietly", "cluster", "hold", "patience") for line in commands)
        return self.out or ([] if silent else ["(nothing changed)"])

    def _execute(self, line: str) -> None:
        """One command. ``quietly COMMAND`` prints nothing of what it does: for a set-up that is no part of the proof."""
        name, *words = line.split()
        if name == "quietly":
            self.quiet = True
            try:
                self._execute(line.removeprefix("quietly"))
            finally:
                self.quiet = False
            return
        method = getattr(self, f"do_{name}", None)
        if method is None:
            raise BadScript(f"there is no command {name!r}")
        arguments = [word for word in words if "=" not in word]
        options = dict(word.split("=", 1) for word in words if "=" in word)
        try:
            inspect.signature(method).bind(*arguments, **options)
        except TypeError as error:
            raise BadScript(f"{line!r}: {error}") from None
        try:
            cast("Callable[..., None]", method)(*arguments, **options)
        except RaftkvError as error:
            if name == "cluster":
                raise
            self.out.append(f"! {type(error).__name__}: {error}")
        self.notice()

    # -- noticing changes

    def notice(self) -> None:
        """Print what is different from when we looked last."""
        for name, node in sorted(self.network.nodes.items()):
            lines, now = self._changes(node)
            self.seen[name] = now
            if not self.quiet:
                self.out.extend(lines)

    def _changes(self, node: Node) -> tuple[list[str], Seen]:
        log = [EntryId(node.disk.begin.index, node.disk.begin.term), *(entry.id for entry in node.disk.entries)]
        texts = {entry.id: entry_text(entry) for entry in node.disk.entries}
        if node.up:
            shadow = self.network.oracle.shadows[node.name]
            log = [shadow.begin, *(entry.id for entry in shadow.entries)]
            texts |= {entry.id: entry_text(entry) for entry in shadow.entries}
        now = Seen(facts_of(node, log), log, Counter(node.raft.dropped if node.up else ()))
        before = self.seen.get(node.name, Seen({}, [], Counter()))
        changed: list[str] = []
        for key, value in now.facts.items():
            old = before.facts.get(key, "")
            if value == old:
                continue
            if key in ("down", "role"):
                changed.append(f"{old} → {value}" if old and value else (value or "up"))
            else:
                changed.append(f"{key} {old or 'none'} → {value or 'none'}")
        lines = [f"{node.name}: {', '.join(changed)}"] if changed else []
        lines += log_changes(node.name, before.log, log, texts)
        lines += [f"{node.name}: drops a message: {why}" for why in sorted((now.dropped - before.dropped).elements())]
        return lines, now

    def _watch(self, action: Callable[[], None]) -> None:
        """Do one thing and print what it changed: nodes first, then the messages that left because of it."""
        network = self.network
        known, lost = {id(flight) for flight in network.flights}, len(network.lost)
        action()
        self.notice()
        if self.quiet:
            return
        self.out.extend(message_text(message).replace("→", "⇏", 1) for message in network.lost[lost:])
        self.out.extend(message_text(flight.message) for flight in network.flights if id(flight) not in known)

    # -- the cluster

    def do_cluster(
        self,
        nodes: str = "3",
        kind: str = "formed",
        learners: str = "0",
        lease: str = "no",
        begin: str = "0@0",
        start: str = "",
        tail: str = "",
        **settings: str,
    ) -> None:
        """cluster 3 [unformed] [learners=1] [lease=yes] [begin=10@1] [start=n1,n2] [tail=0] [election_ticks=10 …]"""
        count, extra = int(nodes), int(learners)
        names = [f"n{rank + 1}" for rank in range(count + extra)]
        voters, others = names[:count], tuple(names[count:])
        config = Config(**{**{f: getattr(TEST_CONFIG, f) for f in TEST_CONFIG.__struct_fields__}, **numbers(settings)})
        configuration = formed(*voters, learners=others, lease_reads=lease == "yes") if kind == "formed" else unformed(*voters)
        self.network_or_none = Network(
            configuration,
            config=config,
            begin=parse_id(begin),
            nodes=start.split(",") if start else None,
            tail_entries=int(tail) if tail else 1 << 20,
        )
        for name, node in self.network.nodes.items():
            self.seen[name] = self._changes(node)[1]

    def do_start(self, name: str, incarnation: str) -> None:
        """start n3 incarnation=103: a node of the configuration that was never up before."""
        network = self.network
        self._watch(lambda: void(network.add(name, int(incarnation), EntryId(0, 0), fraction=0.6)))

    def do_wipe(self, name: str, incarnation: str) -> None:
        """wipe n3 incarnation=999: the node returns under its name with an empty directory."""
        node = self.network[name]
        if node.up:
            node.crash()
        self.do_start(name, incarnation)

    def do_given(self, name: str, *terms: str, term: str = "0") -> None:
        """given n1 1 1 2 [term=3]: the node's log, and the term that it is in, for the set-up of a trace."""
        node = self.network[name]
        node.crash()
        node.disk.entries = [Entry(rank, int(term), EntryKind.BATCH, b"%d" % rank) for rank, term in enumerate(terms, start=1)]
        node.disk.hard_state = HardState(max(map(int, [*terms, term])))
        node.start()

    def do_isolate(self, name: str) -> None:
        """isolate n3: nothing passes to or from it."""
        self.network.isolate(name)

    def do_flush(self, name: str) -> None:
        """flush n1: what its machine holds would survive a crash."""
        self.network[name].flush()

    def do_crash(self, name: str, written: str = "0") -> None:
        """crash n1 [written=1]: stop at once; the oldest `written` Readies in flight were just durable."""
        self._watch(lambda: self.network[name].crash(int(written)))

    def do_restart(self, name: str, suspect: str = "", state_lost: str = "") -> None:
        """restart n1 [suspect=7] [state_lost=yes]"""
        node = self.network[name]
        if suspect:
            node.disk.suspect = int(suspect)
        if state_lost:
            node.state_lost = True
            node.flushed = MachineState()
        self._watch(node.start)

    def do_rot(self, name: str, entries: str) -> None:
        """rot n1 1: the newest entries of a node that is down are gone, and were perhaps acknowledged: its log is suspect."""
        disk: Disk = self.network[name].disk
        disk.suspect = disk.last.index
        del disk.entries[len(disk.entries) - int(entries) :]
        disk.commit = min(disk.commit, disk.last.index)

    def do_hold(self, name: str, *what: str) -> None:
        """hold n1 persist apply fetch: from now on these happen only when told."""
        for word in what:
            setattr(self.network[name].held, word, True)

    def do_release(self, name: str, *what: str) -> None:
        """release n1 persist: what was held back happens now, and by itself from here on."""
        for word in what:
            setattr(self.network[name].held, word, False)
        self._watch(self.network[name].settle)

    def do_persist(self, name: str, count: str = "1") -> None:
        """persist n1 [2]: the oldest Readies in flight become durable."""
        self._watch(lambda: self.network[name].persist(int(count)))

    def do_apply(self, name: str) -> None:
        """apply n1: the oldest page of committed entries is applied."""
        self._watch(self.network[name].apply)

    def do_fetch(self, name: str) -> None:
        """fetch n1: the oldest fetch is answered."""
        node = self.network[name]
        fetch = node.fetches[0]
        self.out.append(f"{name} reads {fetch.first}..{fetch.last} for {fetch.peer}")
        self._watch(node.answer_fetch)

    def do_partition(self, *sides: str) -> None:
        """partition n1,n2 n3: nothing passes between the sides."""
        self.network.partition(*(side.split(",") for side in sides))

    def do_block(self, sender: str, to: str) -> None:
        """block n1 n2: nothing passes from n1 to n2."""
        self.network.cut.add((sender, to))

    def do_heal(self) -> None:
        """heal: every link works again."""
        self.network.heal()

    # -- time and messages

    def do_tick(self, *names: str, times: str = "1") -> None:
        """tick [n1 n2] [times=3]"""
        for _ in range(int(times)):
            for name in names or [node.name for node in self.network.running]:
                self._watch(lambda name=name: self.network.tick(name))  # type: ignore[misc]

    def do_campaign(self, name: str) -> None:
        """campaign n1: only n1's clock runs until its patience ends."""
        self._watch(lambda: self.network.campaign(name))

    def do_patience(self, name: str, fraction: str) -> None:
        """patience n1 0.5: where in [election_ticks, 2 * election_ticks) the waits drawn from now on lie."""
        self.network[name].patience.fraction = float(fraction)

    def do_elect(self, name: str) -> None:
        """elect n1: the others hear nothing for an election timeout, n1 campaigns, everything settles; prints the outcome only."""
        self.network.elect(name)

    def do_deliver(self, *words: str, **options: str) -> None:
        """deliver [n1 n2 | to=n2 from=n1 kind=Append count=1 newest=yes keep=yes]: these messages arrive, oldest first."""
        count, keep = options.pop("count", None), options.pop("keep", "") == "yes"
        newest = options.pop("newest", "") == "yes"
        flights = self._flights(words, **options)
        if newest:
            flights.reverse()
        for flight in flights[: int(count) if count else None]:
            self._watch(lambda flight=flight: self.network.deliver(flight, keep=keep))  # type: ignore[misc]

    def do_drop(self, *words: str, **options: str) -> None:
        """drop [like deliver]: these messages never arrive."""
        count = options.pop("count", None)
        for flight in self._flights(words, **options)[: int(count) if count else None]:
            self._watch(lambda flight=flight: self.network.drop(flight))  # type: ignore[misc]

    def _flights(self, receivers: tuple[str, ...], /, **options: str) -> list[Flight]:
        wanted = {*receivers, *filter(None, options.pop("to", "").split(","))}
        senders = set(filter(None, options.pop("from", "").split(",")))
        kinds = set(filter(None, options.pop("kind", "").split(",")))
        if options:
            raise BadScript(f"a filter is to=, from=, kind=, not {sorted(options)}")
        return [
            flight
            for flight in self.network.flights
            if (not wanted or flight.message.to in wanted)
            and (not senders or flight.message.sender in senders)
            and (not kinds or type(flight.message).__name__ in kinds)
        ]

    def do_stabilize(self, *names: str) -> None:
        """stabilize [n1 n2]: messages arrive at these nodes (at all) until there are none."""
        for _ in range(5_000):
            flights = self._flights(names)
            if not flights:
                return
            self._watch(lambda flight=flights[0]: self.network.deliver(flight))  # type: ignore[misc]
        raise BadScript("the network never comes to rest")

    def do_inject(self, sender: str, to: str, kind: str, **values: str) -> None:
        """inject n2 n1 AppendResponse term=1 match=5: a message that n2 might have sent, put on its way by hand."""
        cls = getattr(message_classes, kind)
        incarnation = int(values.pop("incarnation", self.network[sender].disk.incarnation))
        message = cls(sender, to, int(values.pop("term")), incarnation, **{key: literal(value) for key, value in values.items()})
        flight = Flight(cast("Message", message))
        self.network.flights.append(flight)
        self.out.append(message_text(flight.message))

    # -- the verbs

    def do_propose(self, name: str, *payloads: str, size: str = "0") -> None:
        """propose n1 a b [size=100]: one entry each, padded to `size` bytes."""
        for payload in payloads:
            data = payload.encode().ljust(int(size), b".")
            self._watch(lambda data=data: void(self.network.propose(name, data)))  # type: ignore[misc]

    def do_read(self, name: str, *contexts: str) -> None:
        """read n1 7 8: ask for linearizable reads."""
        for context in contexts:
            self._watch(lambda context=context: self.network.read(name, int(context)))  # type: ignore[misc]

    def do_transfer(self, name: str, to: str) -> None:
        """transfer n1 n2: the leader n1 hands over to n2."""
        node = self.network[name]
        self._watch(lambda: node.does(lambda raft: raft.transfer_leadership(to)))

    def do_step_down(self, name: str) -> None:
        """step_down n1"""
        node = self.network[name]
        self._watch(lambda: node.does(Raft.step_down))

    def do_peer_lost(self, name: str, peer: str) -> None:
        """peer_lost n2 n1: n2's connection to n1 broke."""
        node = self.network[name]
        self._watch(lambda: node.does(lambda raft: raft.peer_lost(peer)))

    def do_request_snapshot(self, name: str, *reason: str) -> None:
        """request_snapshot n2 state differs"""
        node = self.network[name]
        self._watch(lambda: node.does(lambda raft: raft.request_snapshot(" ".join(reason))))

    def do_compact(self, name: str, index: str) -> None:
        """compact n1 5: the log is cut behind 5."""
        self._watch(lambda: void(self.network[name].compact(int(index))))

    # -- looking

    def do_progress(self, name: str) -> None:
        """progress n1: what the leader knows of its peers."""
        for peer, known in sorted(self.network[name].raft.progress().items()):
            notes = "" if known.recently_active else ", silent"
            notes += "" if known.counts else ", does not count"
            self.out.append(f"{peer}: {known.state} match {known.match} next {known.next}{notes}")

    def do_log(self, *names: str) -> None:
        """log n1: the log in memory."""
        for name in names or sorted(self.network.nodes):
            shadow = self.network.oracle.shadows[name]
            entries = " | ".join(entry_text(entry) for entry in shadow.entries)
            self.out.append(f"{name}: after {entry_id(shadow.begin)}: {entries or 'empty'}")

    def do_flights(self) -> None:
        """flights: the messages on their way."""
        self.out.extend(message_text(flight.message) for flight in self.network.flights)

    def do_state(self, *names: str) -> None:
        """state [n1]: role, term and marks, changed or not."""
        for name in names or sorted(self.network.nodes):
            facts = facts_of(self.network[name], self.seen[name].log)
            self.out.append(f"{name}: " + ", ".join(f"{key} {value}" if key != "role" else value for key, value in facts.items() if value))


def facts_of(node: Node, log: list[EntryId]) -> dict[str, str]:
    """What is worth printing of a node when it changes. The durable and applied marks appear only where they lag."""
    if not node.up:
        return {"down": "down"}
    raft = node.raft
    last = log[-1].index if log else raft.last_index
    return {
        "down": "",
        "role": str(raft.role),
        "term": str(raft.term),
        "vote": node.disk.hard_state.vote or "",
        "leader": raft.leader or "",
        "committed": str(raft.committed),
        "applied": str(raft.applied_index) if raft.applied_index != raft.committed else "",
        "durable": str(raft.persisted_index) if raft.persisted_index != last else "",
        "members": configuration_text(raft.configuration),
        "suspect": str(raft.suspect) if raft.suspect is not None else "",
        "fenced": raft.fenced or "",
        "reads": " ".join(f"{point.context}@{point.index}" for point in node.reads),
    }


def log_changes(name: NodeId, before: list[EntryId], now: list[EntryId], texts: dict[EntryId, str]) -> list[str]:
    """Which entries a log lost and gained."""
    if not before or before == now:
        return []
    lines: list[str] = []
    old, new = set(before), set(now)
    begin = now[0]
    gone = [entry for entry in before if entry not in new and entry.index > begin.index]
    if begin != before[0]:
        lines.append(f"{name}: log begins after {entry_id(begin)}")
    if gone:
        lines.append(f"{name}: log - {', '.join(map(entry_id, gone))}")
    came = [entry for entry in now if entry not in old and entry != begin]
    if came:
        lines.append(f"{name}: log + {', '.join(texts[entry] for entry in came)}")
    return lines


def parse_id(text: str) -> EntryId:
    """``10@1`` as an `EntryId`."""
    index, term = text.split("@")
    return EntryId(int(index), int(term))


def literal(value: str) -> object:
    """A word of a trace as the value it stands for: a number, a truth, a snapshot ``8@2``, entries ``2@1:x,3@1:y`` or ``-`` for none."""
    if value in ("yes", "no"):
        return value == "yes"
    if value == "-":
        return ()
    if ":" in value:
        found = []
        for part in value.split(","):
            name, payload = part.split(":")
            at = parse_id(name)
            found.append(Entry(at.index, at.term, EntryKind.BATCH, payload.encode()))
        return tuple(found)
    if "@" in value:
        at = parse_id(value)
        return SnapshotMeta(at.index, at.term)
    return int(value) if value.lstrip("-").isdigit() else value


def numbers(settings: dict[str, str]) -> dict[str, int]:
    """Settings of a trace as integers."""
    return {key: int(value) for key, value in settings.items()}


def void(_: object) -> None:
    """Discard a result, where a lambda must return nothing."""
