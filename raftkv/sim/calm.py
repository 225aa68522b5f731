"""The calm after a storm: what must become true again, and how soon.

Within a bounded time the nodes in question must agree on a leader, must have applied the same log to the same state and have nothing left
to doubt, every request to them must have its reply, and a write and a read at each of them must succeed. In the end the state of every
node is compared with what the log says.
"""

from __future__ import annotations

from collections.abc import Sequence

from raftkv.kv.command import Read
from raftkv.kv.commands import parse_request
from raftkv.kv.list_commands import ListRange
from raftkv.kv.machine import KvMachine
from raftkv.kv.sorted_set import ByRank
from raftkv.kv.sorted_set_ranges import GetRange
from raftkv.kv.string_commands import Get
from raftkv.sim.clock import Schedule
from raftkv.sim.hashes_and_sets import READS, elements_of, normal
from raftkv.sim.model import Model
from raftkv.sim.node import SimNode
from raftkv.sim.trace import Violation
from raftkv.sim.values import SortedSet, Value, value_told
from raftkv.sim.workload import Workload

CALM_MS = 60_000
"""Simulated time within which a cluster must have recovered."""

WINDING_DOWN_MS = 100
"""How long clients go on with what they do."""


class Calm:
    """The calm of one cluster."""

    def __init__(self, schedule: Schedule, workload: Workload) -> None:
        self._schedule = schedule
        self._workload = workload

    def recover(self, nodes: Sequence[SimNode]) -> int:
        """Let time pass until all is well with `nodes`; how long that took, in milliseconds.

        Raises:
            Violation: it took too long.
        """
        begin_us = self._schedule.now_us
        asked = False
        while self._schedule.now_us - begin_us < CALM_MS * 1_000:
            self._schedule.run_until(self._schedule.now_us + 50_000)
            if self._schedule.now_us - begin_us > WINDING_DOWN_MS * 1_000:
                self._workload.stop()
            if not self._troubles(nodes):
                if asked:
                    return (self._schedule.now_us - begin_us) // 1_000
                asked = True
                for node in nodes:
                    self._workload.probe(node)
        names = " ".join(node.name for node in nodes)
        raise Violation("liveness", f"after {CALM_MS} ms of calm for {names}: {'; '.join(self._troubles(nodes))}")

    def _troubles(self, nodes: Sequence[SimNode]) -> list[str]:
        troubles = unsettled(nodes)
        waiting = self._workload.waiting(nodes)
        return [*troubles, f"{waiting} requests wait"] if waiting else troubles


def unsettled(nodes: Sequence[SimNode]) -> list[str]:
    """What is not as it must be in the end: one leads, all have applied the whole log to the same state, and nobody has anything left to
    doubt or to do."""
    troubles = [f"{node.name} is {'in repair' if node.alive else 'down'}" for node in nodes if not node.serves]
    if troubles:
        return troubles
    rafts = [node.replica.raft for node in nodes]
    if len({(raft.term, raft.leader) for raft in rafts}) != 1 or rafts[0].leader is None:
        troubles.append(f"roles are {[f'{raft.role} of term {raft.term} under {raft.leader}' for raft in rafts]}")
    troubles += [f"{raft.node} is fenced: {raft.fenced}" for raft in rafts if raft.fenced is not None]
    troubles += [f"{raft.node} is suspect up to {raft.suspect}" for raft in rafts if raft.suspect is not None]
    applied = [node.replica.applied_index for node in nodes]
    last = [raft.last_index for raft in rafts]
    if len({*applied, *last}) != 1:
        troubles.append(f"applied are {applied} of {last}")
    if len({node.replica.machine.digest for node in nodes}) != 1:
        troubles.append("the digests differ")
    troubles += [f"the router of {node.name} is not idle" for node in nodes if not node.router.idle]
    return troubles


def compare_states(nodes: Sequence[SimNode], model: Model) -> None:
    """Every node's state is what the log says.

    Raises:
        Violation: it is not.
    """
    digests = {node.replica.machine.digest for node in nodes}
    if len(digests) != 1:
        raise Violation("equal states", f"the digests at the end are {sorted(digest.hex() for digest in digests)}")
    for node in nodes:
        machine = node.replica.machine
        if machine.clock_ms != model.clock_ms:
            raise Violation("final state", f"the log's clock is {machine.clock_ms} at {node.name}; the log says {model.clock_ms}")
        for key in sorted(model.versions):
            found, expected = _told(machine, key, model.value(key))
            if found != expected:
                raise Violation("final state", f"{key!r} is {found!r} at {node.name}; the log says {expected!r}")


def _told(machine: KvMachine, key: bytes, value: Value) -> tuple[object, object]:
    """What `machine` tells of the whole value of `key`, and what it has to tell when that is `value`."""
    kind = {b"hash": "hgetall", b"set": "smembers"}.get(key.partition(b":")[0])
    if kind is not None:
        arguments = [kind.encode(), key]
        return normal(machine.read(parse_request(arguments))), READS[kind](elements_of(value), arguments)
    match value:
        case tuple():
            read: Read = ListRange(key, 0, -1)
        case SortedSet():
            read = GetRange(key, ByRank(0, -1), with_scores=True)
        case _:
            read = Get(key)
    return value_told(machine.read(read)), value
