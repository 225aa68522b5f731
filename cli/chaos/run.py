"""One run: a cluster starts, clients work and record, the nemesis does its worst, everything is healed, and what was seen is judged.

What always holds: whatever happens, no process, mount or link outlives the run; a run that does not come to its end has failed; the
directory of a run that failed holds the nodes' logs and data and the recorded history. The seed decides the actions and what clients ask
for, not the timing, which is the machine's: a second run of one seed is another run.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial
from itertools import pairwise
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from raftkv.sim.linearizability import Call
from raftkv_cli.chaos import failing_fsync
from raftkv_cli.chaos.judgement import FAILED_FSYNC, Evidence, LogEvent, errors_in_log, judged, recoveries, unnoticed_rot
from raftkv_cli.chaos.members import Members
from raftkv_cli.chaos.nemesis import Action, Kind, Nemesis, draw
from raftkv_cli.chaos.proxy import Links
from raftkv_cli.chaos.recording import Keys, RecordingClient, RecordingClients, write_history
from raftkv_cli.chaos.small_disk import SmallDisk
from raftkv_cli.demo_writers import Writers
from raftkv_cli.processes import HOST, Nodes, Ports, plan
from raftkv_cli.resp import Connection, ErrorReply, Unreachable
from raftkv_cli.waiting import WaitedInVain, wait_until

START_SECONDS = 60.0
SETTLE_SECONDS = 45.0
"""How long a healed cluster may take until every node answers and all hold the same."""
WRITERS = 2
READ_BATCH = 200
NODE_OPTIONS = ("--compact-entries", "3000", "--log-format", "json")
"""The log is cut often, so that nodes that were away or lost their state need snapshots."""
HISTORY_FILE = "history.jsonl"


class Settings(Struct, frozen=True, kw_only=True):
    """What a run is told."""

    seed: int
    seconds: float = 20.0
    nodes: int = 3
    clients: int = 8
    min_rate: float = 50.0


class Report(Struct, frozen=True, kw_only=True):
    """What came of a run. `operations` counts those of the recording clients by what became of them, `recoveries` what nodes did about
    disks that failed them; `findings` say why it failed."""

    seed: int
    ok: bool
    seconds: float
    actions: dict[str, int]
    recoveries: dict[str, int]
    in_vain: dict[str, int]
    skipped: list[str]
    operations: dict[str, int]
    operations_per_second: float
    unique_writes: int
    longest_gap_ms: float
    settled_ms: float | None
    findings: list[str]
    stuck: list[str]
    directory: str | None


class Run:
    """One run below `directory`, which exists and is empty.

    Args:
        settings: how long, how many, how much.
        directory: for the nodes, and the history of a run that failed.
        actions: what to do; drawn from the seed if not given.
    """

    def __init__(self, settings: Settings, directory: Path, actions: Iterable[Action] | None = None) -> None:
        self.settings = settings
        self.directory = directory
        self.nodes_findings: list[str] = []
        self.history: list[Call] = []
        self._ports = Ports.free(settings.nodes)
        self._names = [f"n{number}" for number in range(1, settings.nodes + 1)]
        self._disk = SmallDisk(directory / self._names[-1])
        self._links = Links({name: f"{HOST}:{port}" for name, port in zip(self._names, self._ports.peer, strict=True)})
        self._actions = actions
        self._clients: RecordingClients | None = None
        self._writers: Writers | None = None
        self._nemesis: Nemesis | None = None
        self._tortured_s = 0.0
        self._answered = 0
        self._found: dict[str, list[bytes | None]] = {}
        self._settled_ms: float | None = None
        self._skipped: list[str] = []
        self._recoveries: Counter[str] = Counter()

    def run(self) -> Report:
        """Run and judge."""
        with self._disk:
            with self._links:
                self._run_cluster()
            self.nodes_findings += [f"the links failed: {error}" for error in self._links.errors]
            report = self._report()
            if not report.ok:
                self._disk.keep(self.directory / f"{self._names[-1]}-data")
        return report

    def _run_cluster(self) -> None:
        specs = [
            replace(spec, advertised_peer=self._links.addresses[spec.name])
            for spec in plan(self.directory, self._ports, NODE_OPTIONS)
        ]  # fmt: skip
        with Nodes(specs) as nodes:
            members = Members(nodes)
            try:
                self._torture(members)
                self._settle(members)
                self._stop(members)
            except (WaitedInVain, Unreachable, ErrorReply) as error:
                self.nodes_findings.append(f"the run did not come to its end: {error}")
            members.look()
            self.nodes_findings += members.deaths
            self._read_logs(nodes)

    # The steps.

    def _torture(self, members: Members) -> None:
        """Start everything, let the nemesis work among the clients, heal."""
        settings = self.settings
        for name in members.names:
            members.start(name)
        wait_until("a first leader", members.leader, START_SECONDS)
        addresses = [spec.client for spec in members.nodes.specs]
        self._clients = RecordingClients(addresses, settings.clients, Keys())
        self._writers = Writers(addresses, WRITERS)
        self._nemesis = nemesis = Nemesis(members, self._links, self._disk, members.names[-1])
        kinds = list(Kind)
        if self._disk.problem is not None:
            kinds.remove(Kind.FILL_DISK)
            self._skipped.append(f"{Kind.FILL_DISK}: {self._disk.problem}")
        no_strace = failing_fsync.why_not()
        if no_strace is not None:
            kinds.remove(Kind.FAIL_FSYNC)
            self._skipped.append(f"{Kind.FAIL_FSYNC}: {no_strace}")
        with self._clients as clients, self._writers:
            began = time.monotonic()
            nemesis.run(draw(settings.seed, kinds) if self._actions is None else self._actions, settings.seconds)
            self._answered, self._tortured_s = clients.succeeded, time.monotonic() - began
            nemesis.heal()
            self.nodes_findings += [f"the link from {one} to {other} was not healed" for one, other in self._links.impaired]
            before = clients.succeeded
            wait_until("operations after everything was healed", lambda: clients.succeeded > before + settings.clients, SETTLE_SECONDS)

    def _settle(self, members: Members) -> None:
        """Every node answers, all hold the same, and everything that was recorded is read once more through every node."""
        began = time.monotonic()
        for name in members.names:
            wait_until(f"{name} to answer a write and a read", partial(_answers, members, name), SETTLE_SECONDS)
        wait_until("equal digests on all nodes", lambda: _equal(members), SETTLE_SECONDS)
        self._settled_ms = (time.monotonic() - began) * 1000
        if self._clients is None or self._writers is None:
            raise ValueError("nothing was recorded")
        self.history = self._clients.history()
        keys = sorted({call.operation[1] for call in self.history})
        unique = sorted(self._writers.acknowledged())
        for spec in members.nodes.specs:
            self.history += _read_all(spec.name, spec.client, keys)
            for start in range(0, len(unique), READ_BATCH):
                part = unique[start : start + READ_BATCH]
                with Connection(spec.client, timeout_s=SETTLE_SECONDS) as connection:
                    answers = connection.pipeline([("GET", key) for key in part])
                for key, answer in zip(part, answers, strict=True):
                    self._found.setdefault(key, []).append(answer if isinstance(answer, bytes) else None)

    def _stop(self, members: Members) -> None:
        for name in members.up:
            members.ask_to_stop(name)
        for name in members.names:
            wait_until(f"{name} to stop", partial(members.has_stopped, name), SETTLE_SECONDS)

    def _read_logs(self, nodes: Nodes) -> None:
        done, rotted = (Counter[Kind](), Counter[str]()) if self._nemesis is None else (self._nemesis.counts, self._nemesis.rotted)
        for spec in nodes.specs:
            log = nodes.log_path(spec.name)
            self.nodes_findings += errors_in_log(spec.name, log, lambda event: is_provoked(event, done))
            self.nodes_findings += unnoticed_rot(spec.name, log, rotted[spec.name])
            self._recoveries += recoveries(log)

    # The end.

    def _report(self) -> Report:
        clients, writers, nemesis = self._clients, self._writers, self._nemesis
        if clients is not None and not self.history:
            self.history = clients.history()
        acknowledged = {} if writers is None else writers.acknowledged()
        seconds = max(self._tortured_s, 0.001)
        judgement = judged(
            Evidence(
                answered=self._answered,
                seconds=seconds,
                min_rate=self.settings.min_rate,
                history=self.history,
                surprises=[] if clients is None else clients.surprises,
                acknowledged=acknowledged,
                found=self._found,
                nodes=self.nodes_findings + ([] if writers is None else writers.failures()),
            )
        )
        ok = not judgement.findings
        if not ok:
            write_history(self.directory / HISTORY_FILE, self.history)
        return Report(
            seed=self.settings.seed,
            ok=ok,
            seconds=round(self._tortured_s, 1),
            actions=_by_name(nemesis.counts if nemesis else {}),
            recoveries=dict(sorted(self._recoveries.items())),
            in_vain=_by_name(nemesis.in_vain if nemesis else {}),
            skipped=self._skipped + [f"{reason} ({count})" for reason, count in (nemesis.skipped if nemesis else {}).items()],
            operations=dict(sorted((clients.counts if clients else Counter()).items())),
            operations_per_second=round(self._answered / seconds, 1),
            unique_writes=len(acknowledged),
            longest_gap_ms=round(self._longest_gap_ms()),
            settled_ms=None if self._settled_ms is None else round(self._settled_ms),
            findings=judgement.findings,
            stuck=judgement.stuck,
            directory=None if ok else str(self.directory),
        )

    def _longest_gap_ms(self) -> float:
        """The longest time between two acknowledged writes of anybody."""
        times = [call.end for call in self.history if call.end is not None and call.operation[0] != "GET"]
        if self._writers is not None:
            times += [moment for writer in self._writers.writers for moment in writer.times]
        return max(((later - earlier) * 1000 for earlier, later in pairwise(sorted(times))), default=0.0)


def is_provoked(event: LogEvent, done: Counter[Kind]) -> bool:
    """Whether an error is what a node has to say about what was done to it."""
    match event.event:
        case "store_disk_full":
            return done[Kind.FILL_DISK] > 0
        case "log_rotten":
            return done[Kind.ROT] > 0
        case "node_failed":
            return done[Kind.FAIL_FSYNC] > 0 and event.kind == "StorageError" and FAILED_FSYNC in event.reason
    return False


def _by_name(counts: Counter[Kind] | dict[Kind, int]) -> dict[str, int]:
    return {str(kind): counts[kind] for kind in Kind if counts.get(kind)}


def _answers(members: Members, name: str) -> bool:
    try:
        with Connection(members.nodes.spec(name).client, timeout_s=5.0) as connection:
            key, value = f"settled:{name}", str(time.monotonic_ns())
            return connection.call("SET", key, value) == b"OK" and connection.call("GET", key) == value.encode()
    except (Unreachable, ErrorReply):
        return False


def _equal(members: Members) -> bool:
    """Whether the processes that run now have all applied the same entries with the same effects. Nobody may write meanwhile."""
    held = set()
    for name in members.names:
        status = members.status(name, timeout_s=5.0)
        if status is None or status.leader is None:
            return False
        node = status.node(name)
        held.add((node.applied, node.digest, node.role in ("leader", "follower")))
    [(applied, digest, serving), *others] = held
    return applied is not None and digest is not None and serving and not others


def _read_all(name: str, address: str, keys: list[str]) -> list[Call]:
    """A read of each key through one node: whatever was lost is missed now."""
    reader = RecordingClient(f"reader of {name}", [address], Keys())
    with contextlib.closing(reader):
        for start in range(0, len(keys), READ_BATCH):
            operations = [("GET", key) for key in keys[start : start + READ_BATCH]]
            if not reader.perform(operations, SETTLE_SECONDS):
                raise Unreachable(f"{name} cannot be reached for a last read")
    if len(reader.calls) != len(keys):
        raise Unreachable(f"{name} did not answer {len(keys) - len(reader.calls)} of {len(keys)} last reads")
    return reader.calls
