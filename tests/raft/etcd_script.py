"""Replays the interaction scripts of etcd's Raft library on this core, and compares the facts that both must agree on.

A script is a list of commands with the output that etcd's core gave. The commands are translated to what the harness can do; of the
output only facts are read: term, vote, commit index, role and leader, the entries of a log by index and term, and what a leader
knows of its peers. They are compared where the script comes to rest (`stabilize`) or asks (`raft-log`, `raft-state`, `status`), not
message by message: the two cores say the same with different messages.

The translation, where it is not literal:

- Their nodes start behind a snapshot of term 1 while they are in term 0. Here a term never lies behind the log, so the snapshot is of
  term 0; the terms of all later entries come out equal.
- `campaign` without ``prevote=true`` starts a real election at once. Without ``checkquorum=true`` their voters are not sticky, which is
  what a vote request of a transfer asks for here; with PreVote the voters are first let forget their leader.
- A leader here ignores a vote request that would depose it and hears of its successor by the first append, so it may not have voted
  where theirs has: a vote may be missing, it may not differ.
- Here a request for votes leaves when the candidate's own vote is durable, not before, so with a slow disk that write is done at once.
- Their answer to a heartbeat does not wait for the disk, ours does when it shows a new term; with a slow disk it is handed over early.
- With a bound on messages in flight each entry travels alone, because their leader sends each proposal as it comes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from raftkv.raft.config import Config
from raftkv.raft.messages import HeartbeatResponse, InstallSnapshot
from raftkv.raft.ready import Role
from raftkv.raft.types import EntryId
from tests.raft.network import Flight, Network, Node, formed

ROLES = {
    "StateFollower": Role.FOLLOWER,
    "StatePreCandidate": Role.PRE_CANDIDATE,
    "StateCandidate": Role.CANDIDATE,
    "StateLeader": Role.LEADER,
}
MESSAGES = {"MsgApp": "Append", "MsgSnap": "InstallSnapshot"}
ELECTION_TICKS = 3


@dataclass(frozen=True)
class Step:
    """One command of a script and what etcd printed."""

    line: int
    command: str
    output: tuple[str, ...]


def read_script(path: Path) -> list[Step]:
    """The steps of one script."""
    steps: list[Step] = []
    command, output, line_number, in_output = "", [], 0, False
    for number, line in enumerate([*path.read_text(encoding="utf-8").splitlines(), ""], start=1):
        if in_output:
            if line:
                output.append(line)
                continue
            steps.append(Step(line_number, command, tuple(output)))
            command, output, in_output = "", [], False
        elif line == "----":
            in_output = True
        elif line and not line.startswith("#"):
            command, line_number = f"{command} {line}".strip(), (command and line_number) or number
    return steps


@dataclass
class Facts:
    """What etcd's output said last about one node; None where it said nothing since the log was switched off."""

    term: int | None = None
    vote: str | None = None
    commit: int | None = None
    role: Role | None = None
    lead: str | None = None
    entries: dict[int, int] = field(default_factory=dict)


def name_of(number: str) -> str | None:
    """Their node 0 is nobody."""
    return f"n{number}" if number != "0" else None


def numbers(text: str) -> list[str]:
    """``(1,2,3)`` or ``3`` as node names."""
    return [f"n{number}" for number in re.findall(r"\d+", text)]


class Replay:
    """One script on one network."""

    def __init__(self) -> None:
        self.network_or_none: Network | None = None
        self.facts: dict[str, Facts] = {}
        self.quiet = False
        self.asynchronous = False
        self.prevote = self.checkquorum = False
        self.compared = 0
        self.differences: list[str] = []

    @property
    def network(self) -> Network:
        """The network, after the first `add-nodes`."""
        if self.network_or_none is None:
            raise AssertionError("a script begins with add-nodes")
        return self.network_or_none

    def run(self, steps: list[Step]) -> None:
        """Take all steps; what differs is in `differences`."""
        for step in steps:
            words = step.command.split()
            positional = [word for word in words[1:] if "=" not in word]
            options = dict(word.split("=", 1) for word in words[1:] if "=" in word)
            getattr(self, "do_" + words[0].replace("-", "_"))(step, positional, options)
            self._read_facts(step, words[0], positional)
            if words[0] == "stabilize":
                self._compare_facts(step, [f"n{number}" for number in positional] or list(self.facts))

    # -- commands

    def do_log_level(self, step: Step, words: list[str], options: dict[str, str]) -> None:
        """log-level none: from here on nothing is printed."""
        self.quiet = words == ["none"]

    def do_add_nodes(self, step: Step, words: list[str], options: dict[str, str]) -> None:
        """add-nodes 3 voters=(1,2,3) index=10 …"""
        begin = EntryId(int(options.get("index", "0")), 0)
        if self.network_or_none is None:
            self._create(options, begin)
        network = self.network
        for _ in range(int(words[0])):
            name = f"n{len(network.nodes) + 1}"
            node = network.add(name, 100 + int(name[1:]), begin, fraction=0.99)
            node.held.ready = True
            node.held.persist = node.held.apply = self.asynchronous

    def _create(self, options: dict[str, str], begin: EntryId) -> None:
        self.prevote, self.checkquorum = options.get("prevote") == "true", options.get("checkquorum") == "true"
        self.asynchronous = options.get("async-storage-writes") == "true"
        lease_reads = options.get("read-only") == "lease-based"
        bounded = "inflight" in options
        config = Config(
            election_ticks=ELECTION_TICKS,
            heartbeat_ticks=1,
            lease_ticks=2,
            max_inflight_messages=int(options.get("inflight", "128")),
            max_append_bytes=1 if bounded else 1 << 20,
        )
        configuration = formed(*numbers(options["voters"]), lease_reads=lease_reads)
        self.network_or_none = Network(configuration, config=config, begin=begin, nodes=[])

    def do_campaign(self, step: Step, words: list[str], options: dict[str, str]) -> None:
        """campaign 1"""
        node = self.network[f"n{words[0]}"]
        if node.raft.role is Role.LEADER:
            return
        if not self.prevote:
            node.raft.become_candidate(transfer=not self.checkquorum)
            return
        if not self.checkquorum:
            for other in self.network.running:
                if other is not node and other.raft.role is Role.FOLLOWER:
                    for _ in range(ELECTION_TICKS):
                        other.raft.tick()
        node.raft.become_pre_candidate()

    def do_propose(self, step: Step, words: list[str], options: dict[str, str]) -> None:
        """propose 1 data: their leader sends it at once."""
        node = self.network[f"n{words[0]}"]
        node.raft.propose(" ".join(words[1:]).encode())
        if not self.asynchronous:
            self._settle(node)

    def do_process_ready(self, step: Step, words: list[str], options: dict[str, str]) -> None:
        """process-ready 1 2 3"""
        for number in words:
            node = self.network[f"n{number}"]
            self._settle(node)
            if node.raft.role is Role.CANDIDATE and node.writing:
                node.persist(len(node.writing))
            for message in node.writing[-1].messages_after_persist if node.writing else ():
                if isinstance(message, HeartbeatResponse):
                    self.network.flights.append(Flight(message))

    def _settle(self, node: Node) -> None:
        node.held.ready = False
        node.settle()
        node.held.ready = True

    def do_process_append_thread(self, step: Step, words: list[str], options: dict[str, str]) -> None:
        """process-append-thread 1: one write is done. Ours also number the Readies in which there is nothing to write."""
        for number in words:
            node, done = self.network[f"n{number}"], False
            while node.writing and not (done and node.writing[0].must_persist):
                done = done or node.writing[0].must_persist
                node.persist()

    def do_process_apply_thread(self, step: Step, words: list[str], options: dict[str, str]) -> None:
        """process-apply-thread 1"""
        for number in words:
            if self.network[f"n{number}"].pages:
                self.network[f"n{number}"].apply()

    def do_deliver_msgs(self, step: Step, words: list[str], options: dict[str, str]) -> None:
        """deliver-msgs 1 2 drop=(3) type=MsgApp"""
        network = self.network
        kind = MESSAGES.get(options.get("type", ""))
        to, lose = {f"n{number}" for number in words}, set(numbers(options.get("drop", "")))
        for flight in list(network.flights):
            if kind is not None and type(flight.message).__name__ != kind:
                continue
            if flight.message.to in to:
                network.deliver(flight)
            elif flight.message.to in lose:
                network.drop(flight)

    def do_stabilize(self, step: Step, words: list[str], options: dict[str, str]) -> None:
        """stabilize 1 2"""
        network = self.network
        nodes = [network[f"n{number}"] for number in words] or network.running
        names = {node.name for node in nodes}
        for _ in range(10_000):
            for node in nodes:
                self._settle(node)
                self._storage(node)
            waiting = [flight for flight in network.flights if flight.message.to in names and flight.message.to in network.nodes]
            if not waiting and not any(node.raft.has_ready() or node.writing or node.pages for node in nodes):
                return
            for flight in waiting:
                network.deliver(flight)
        raise AssertionError(f"line {step.line}: the network never comes to rest")

    def _storage(self, node: Node) -> None:
        while node.writing or node.pages:
            if node.writing:
                node.persist()
            if node.pages:
                node.apply()
            self._settle(node)

    def do_tick_election(self, step: Step, words: list[str], options: dict[str, str]) -> None:
        """tick-election 1: the smallest election timeout passes."""
        for _ in range(ELECTION_TICKS):
            self.network[f"n{words[0]}"].raft.tick()

    def do_tick_heartbeat(self, step: Step, words: list[str], options: dict[str, str]) -> None:
        """tick-heartbeat 1"""
        self.network[f"n{words[0]}"].raft.tick()

    def do_set_randomized_election_timeout(self, step: Step, words: list[str], options: dict[str, str]) -> None:
        """Our waits are the longest anyway, so that nobody campaigns of its own accord."""

    def do_report_unreachable(self, step: Step, words: list[str], options: dict[str, str]) -> None:
        """report-unreachable 1 2"""
        self.network[f"n{words[0]}"].raft.peer_lost(f"n{words[1]}")

    def do_forget_leader(self, step: Step, words: list[str], options: dict[str, str]) -> None:
        """forget-leader 2: the nearest that we have is a lost connection."""
        node = self.network[f"n{words[0]}"]
        if node.raft.leader is not None:
            node.raft.peer_lost(node.raft.leader)

    def do_compact(self, step: Step, words: list[str], options: dict[str, str]) -> None:
        """compact 1 11"""
        self.network[f"n{words[0]}"].compact(int(words[1]))

    def do_send_snapshot(self, step: Step, words: list[str], options: dict[str, str]) -> None:
        """send-snapshot 1 3: a snapshot that the core did not ask for."""
        node = self.network[f"n{words[0]}"]
        meta = node.raft.snapshot_meta(node.machine.index)
        message = InstallSnapshot(node.name, f"n{words[1]}", node.raft.term, node.disk.incarnation, meta)
        self.network.flights.append(Flight(message, node.machine))

    # -- questions: compared at once

    def do_raft_log(self, step: Step, words: list[str], options: dict[str, str]) -> None:
        """raft-log 1: what is in the node's storage."""
        theirs = [EntryId(int(index), int(term)) for line in step.output for term, index in re.findall(r"^(\d+)/(\d+) Entry", line)]
        ours = [entry.id for entry in self.network[f"n{words[0]}"].disk.entries]
        self._compare(step, f"n{words[0]}", "log", theirs, ours)

    def do_raft_state(self, step: Step, words: list[str], options: dict[str, str]) -> None:
        """raft-state: role, term and leader of everybody."""
        for line in step.output:
            number, role, term, lead = re.findall(r"^(\d+): (\w+) .*Term:(\d+) Lead:(\d+)", line)[0]
            raft = self.network[f"n{number}"].raft
            self._compare(step, f"n{number}", "state", (ROLES[role], int(term), name_of(lead)), (raft.role, raft.term, raft.leader))

    def do_status(self, step: Step, words: list[str], options: dict[str, str]) -> None:
        """status 1: what the leader knows of its peers; `next` where it says where the pipeline is."""
        known = self.network[f"n{words[0]}"].raft.progress()
        for line in step.output:
            number, state, match, following = re.findall(r"^(\d+): State(\w+) match=(\d+) next=(\d+)", line)[0]
            ours = known.get(f"n{number}")
            if ours is None:
                continue  # they list the leader itself
            self._compare(step, f"n{words[0]} of n{number}", "progress", (state.lower(), int(match)), (str(ours.state), ours.match))
            if state == "Replicate":
                self._compare(step, f"n{words[0]} of n{number}", "next", int(following), ours.next)

    # -- facts

    def _read_facts(self, step: Step, command: str, positional: list[str]) -> None:
        if command in ("raft-log", "raft-state", "status", "log-level"):
            return
        if self.quiet or step.output == ("ok",):
            if command in ("stabilize", "process-ready", "deliver-msgs", "campaign", "tick-election", "tick-heartbeat"):
                self.facts.clear()
            return
        node = f"n{positional[0]}" if len(positional) == 1 else ""
        section = ""
        for line in step.output:
            header = re.match(r"^> (\d+) (.*)", line)
            if header:
                node, section = f"n{header[1]}", ""
                continue
            text = line.strip()
            if text.endswith(":") and " " not in text:
                section = text
            if command in ("stabilize", "process-ready") and node:
                self._read_line(self.facts.setdefault(node, Facts()), section, text)

    def _read_line(self, facts: Facts, section: str, text: str) -> None:
        if found := re.match(r"HardState Term:(\d+)(?: Vote:(\d+))? Commit:(\d+)", text):
            facts.term, facts.commit = int(found[1]), int(found[3])
            facts.vote = name_of(found[2] or "0")
        elif found := re.match(r"Lead:(\d+) State:(\w+)", text):
            facts.lead, facts.role = name_of(found[1]), ROLES[found[2]]
        elif section == "Entries:" and (found := re.match(r"(\d+)/(\d+) Entry", text)):
            term, index = int(found[1]), int(found[2])
            facts.entries = {known: value for known, value in facts.entries.items() if known < index}
            facts.entries[index] = term

    def _compare_facts(self, step: Step, names: list[str]) -> None:
        for name in names:
            facts, raft = self.facts.get(name), self.network[name].raft
            if facts is None:
                continue
            if facts.term is not None:
                self._compare(step, name, "term", facts.term, raft.term)
                self._compare(step, name, "commit", facts.commit, raft.committed)
                if raft.vote is not None:
                    self._compare(step, name, "vote", facts.vote, raft.vote)
            if facts.role is not None:
                self._compare(step, name, "role", (facts.role, facts.lead), (raft.role, raft.leader))
            for index, term in facts.entries.items():
                self._compare(step, name, f"entry {index}", term, self.network.oracle.shadows[name].term_at(index))

    def _compare(self, step: Step, who: str, what: str, theirs: object, ours: object) -> None:
        self.compared += 1
        if theirs != ours:
            self.differences.append(f"line {step.line} ({step.command}): {what} of {who} is {theirs} there and {ours} here")
