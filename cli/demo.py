"""`raftkv demo`: three nodes on this machine lose a leader and a state store under load, and nothing that was acknowledged.

Everything shown is measured in this run; the exit code is 0 only if all of it holds.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from raftkv_cli.demo_writers import Writers
from raftkv_cli.output import json_option, print_json
from raftkv_cli.processes import Nodes, Ports, plan
from raftkv_cli.resp import Connection, ErrorReply, Unreachable
from raftkv_cli.status import ClusterStatus, cluster_status
from raftkv_cli.waiting import WaitedInVain, wait_until

WRITERS = 6
LOAD_SECONDS = 2.0
STEP_SECONDS = 20.0
"""The longest that any one step may take before the demonstration fails."""
COMPACT_ENTRIES = 400
"""Small, so that the log is cut during a short run and a node without state needs a snapshot."""
NODE_OPTIONS = ("--compact-entries", str(COMPACT_ENTRIES), "--log-format", "json")
VERIFY_BATCH = 500


@dataclass(frozen=True)
class Finding:
    """One row of the table."""

    what: str
    result: str
    ok: bool


@dataclass
class Story:
    """The running demonstration: the nodes, who writes to them, and what was found."""

    nodes: Nodes
    quiet: bool
    findings: list[Finding] = field(default_factory=list)

    @property
    def servers(self) -> str:
        """Client addresses of the nodes that run."""
        running = [name for name, process in self.nodes.running.items() if process.exit_code is None]
        return ",".join(self.nodes.spec(name).client for name in running)

    def tell(self, text: str) -> None:
        """Say what happens now."""
        if not self.quiet:
            click.echo(text)

    def found(self, what: str, result: str, ok: bool) -> None:
        """Note a result."""
        self.findings.append(Finding(what, result, ok))
        self.tell(f"  {what}: {result}")


@click.command()
@json_option
def demo(as_json: bool) -> None:
    """Show a cluster survive: kill its leader, lose a state store, check every acknowledged write. Takes less than a minute."""
    directory = Path(tempfile.mkdtemp(prefix="raftkv-demo-"))
    nodes = Nodes(plan(directory, Ports.free(3), NODE_OPTIONS))
    story = Story(nodes, quiet=as_json)
    began = time.monotonic()
    try:
        with nodes:
            run_story(story)
    except (WaitedInVain, Unreachable, ErrorReply) as error:
        story.found("the demonstration", f"did not come to its end: {error}", False)
    ok = all(finding.ok for finding in story.findings)
    if as_json:
        print_json({"ok": ok, "seconds": round(time.monotonic() - began, 1), "findings": story.findings})
    else:
        _print_findings(story.findings, ok, time.monotonic() - began)
    if ok:
        shutil.rmtree(directory)
    else:
        click.echo(f"the nodes' data and logs are kept in {directory}", err=True)
    sys.exit(0 if ok else 1)


def run_story(story: Story) -> None:
    """All steps, in order. Stops the nodes in order at the end."""
    story.tell("three nodes start in a temporary directory")
    for spec in story.nodes.specs:
        story.nodes.start(spec.name)
    leader = _wait_for_leader(story, but_not=None)
    story.tell(f"  {leader} leads")
    addresses = [spec.client for spec in story.nodes.specs]
    with Writers(addresses, WRITERS) as writers:
        _let_them_write(story, writers)
        _kill_the_leader(story, writers, leader)
        _let_them_write(story, writers)
        _restart_the_dead(story, writers, leader)
        _lose_a_state_store(story, writers)
        _let_them_write(story, writers)
    story.found("writers that gave up", "; ".join(writers.failures()) or "none", not writers.failures())
    _check_every_write(story, writers)
    codes = story.nodes.stop()
    ended = ", ".join(f"{name} exit code {code}" for name, code in codes.items())
    story.found("nodes asked to stop", ended, not any(codes.values()))


def _status(story: Story) -> ClusterStatus | None:
    """What a running node knows, or None when none answers right now."""
    try:
        return cluster_status(story.servers, timeout_s=5.0)
    except (Unreachable, ErrorReply):
        return None


def _wait_for_leader(story: Story, but_not: str | None) -> str:
    def probe() -> str | None:
        status = _status(story)
        return status.leader if status is not None and status.leader != but_not else None

    return wait_until("a leader", probe, STEP_SECONDS)


def _let_them_write(story: Story, writers: Writers) -> None:
    """Let the writers work for a while; returns early when one has failed."""
    began, before = time.monotonic(), writers.count()
    while time.monotonic() < began + LOAD_SECONDS and not writers.failures():
        time.sleep(0.05)
    rate = (writers.count() - before) / (time.monotonic() - began)
    story.tell(f"{WRITERS} clients write, one at a time each: {rate:,.0f} acknowledged writes/s")


def _kill_the_leader(story: Story, writers: Writers, leader: str) -> None:
    story.tell(f"{leader}, the leader, is killed with SIGKILL while the clients write")
    killed = time.monotonic()
    story.nodes.running[leader].kill()
    successor = _wait_for_leader(story, but_not=leader)
    count = writers.count()
    wait_until("writes to be acknowledged by the new leader", lambda: writers.count() > count + 10 * WRITERS, STEP_SECONDS)
    gap = f"longest time without an acknowledged write {writers.longest_gap_ms(killed):.0f} ms"
    story.found("leader killed", f"{successor} leads instead of {leader}; {gap}", True)


def _restart_the_dead(story: Story, writers: Writers, name: str) -> None:
    story.tell(f"{name} is started again while the clients write")
    before = time.monotonic()
    story.nodes.start(name)
    _wait_until_near(story, name)
    seconds = time.monotonic() - before
    with writers.paused():
        index, digest = _wait_for_equal_digests(story)
    story.found("dead node restarted", f"{name} caught up in {seconds:.1f} s; all three hold digest {digest[:16]} at {index}", True)


def _lose_a_state_store(story: Story, writers: Writers) -> None:
    status = wait_until("the status", lambda: _status(story), STEP_SECONDS)
    name = next(spec.name for spec in story.nodes.specs if spec.name != status.leader)
    story.tell(f"{name}, a follower, is killed and its state store deleted while the clients write")
    story.nodes.running[name].kill()
    shutil.rmtree(Path(story.nodes.spec(name).data_dir) / "state")
    log = story.nodes.log_path(name)
    log_begin = log.stat().st_size
    before = time.monotonic()
    story.nodes.start(name)
    _wait_until_near(story, name)
    seconds = time.monotonic() - before
    with writers.paused():
        index, digest = _wait_for_equal_digests(story)
    installed = _snapshot_installed(log, log_begin)
    origin = "the log, not from a snapshot" if installed is None else f"a snapshot at {installed}"
    story.found(
        "state store deleted",
        f"{name} restored in {seconds:.1f} s from {origin}; all three hold digest {digest[:16]} at {index}",
        installed is not None,
    )


def _wait_until_near(story: Story, name: str) -> None:
    """Wait until the node `name` is at most a moment behind the others, which go on meanwhile."""

    def near() -> bool:
        status = _status(story)
        if status is None:
            return False
        node = status.node(name)
        current = node.pid == story.nodes.running[name].pid  # not what is remembered of the process before it
        return current and node.role in ("leader", "follower") and node.lag is not None and node.lag <= 2 * WRITERS

    wait_until(f"{name} to catch up", near, STEP_SECONDS)


def _wait_for_equal_digests(story: Story) -> tuple[int, str]:
    """Wait until all nodes have applied the same entries with the same effects; the index and the digest."""

    def equal() -> tuple[int, str] | None:
        status = _status(story)
        if status is None:
            return None
        [(index, digest), *others] = {(node.applied, node.digest) for node in status.nodes}
        return (index, digest) if index is not None and digest and not others else None

    return wait_until("equal digests on all nodes", equal, STEP_SECONDS)


def _snapshot_installed(log: Path, begin: int) -> int | None:
    """The index of the snapshot that a node's log, from byte `begin` on, says was installed."""
    with log.open("rb") as file:
        file.seek(begin)
        for line in file:
            try:
                event = msgspec.json.decode(line, type=dict[str, object])
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
            index = event.get("index")
            if event.get("event") == "snapshot_installed" and isinstance(index, int):
                return index
    return None


def _check_every_write(story: Story, writers: Writers) -> None:
    """Read every acknowledged write back, a part of them from each node."""
    expected = list(writers.acknowledged().items())
    missing = wrong = 0
    for start in range(0, len(expected), VERIFY_BATCH):
        part = expected[start : start + VERIFY_BATCH]
        spec = story.nodes.specs[start // VERIFY_BATCH % len(story.nodes.specs)]
        with Connection(spec.client, timeout_s=STEP_SECONDS) as connection:
            answers = connection.pipeline([("GET", key) for key, _ in part])
        missing += sum(answer is None for answer in answers)
        wrong += sum(answer is not None and answer != value.encode() for answer, (_, value) in zip(answers, part, strict=True))
    retries = sum(writer.retries for writer in writers.writers)
    result = f"{len(expected):,} checked ({retries} needed another try): {missing} lost, {wrong} wrong"
    story.found("acknowledged writes", result, bool(expected) and not missing and not wrong)


def _print_findings(findings: list[Finding], ok: bool, seconds: float) -> None:
    table = Table(title=f"raftkv demo: {'all of it holds' if ok else 'FAILED'} ({seconds:.0f} s)", title_justify="left")
    for column in ("", "what", "result"):
        table.add_column(column)
    for finding in findings:
        table.add_row("[green]ok[/green]" if finding.ok else "[red]no[/red]", finding.what, finding.result)
    Console(highlight=False).print(table)
