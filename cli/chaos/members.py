"""The nodes under torture: which of them run, what was done to them, and whether one ended by itself.

What always holds: a node is down only after it was ended here on purpose; one whose process ends otherwise is in `deaths`, and counts as
down from then on. A node that was asked to stop has to end with exit code 0 within the time that nodes have for it, and so has one whose
fsync failed, with exit code 1: what it wrote may not be durable, and it must not go on as if it were.
"""

from __future__ import annotations

import random
import shutil
import signal
import sys
import time
from pathlib import Path

from raftkv.errors import InvalidSettings, StorageError
from raftkv.raft.types import Index
from raftkv_cli.chaos.failing_fsync import FailingFsync
from raftkv_cli.chaos.rot import is_suspect, may_rot, rot
from raftkv_cli.processes import STOP_SECONDS, NodeProcess, Nodes
from raftkv_cli.resp import ErrorReply, Unreachable
from raftkv_cli.status import ClusterStatus, cluster_status

STATUS_SECONDS = 0.5
"""How long a node may take to tell its status before another one is asked."""


class Members:
    """The nodes of one cluster."""

    def __init__(self, nodes: Nodes) -> None:
        if sys.platform == "win32":
            raise InvalidSettings("Windows has no SIGSTOP: chaos runs on Linux and macOS only")
        self.nodes = nodes
        self.names = [spec.name for spec in nodes.specs]
        self.down: set[str] = set()
        self.deaths: list[str] = []
        """Processes that ended and should not have, or not like that."""
        self._paused: dict[str, NodeProcess] = {}
        self._stopping: dict[str, float] = {}
        self._failing: dict[str, FailingFsync] = {}
        self._must_end: dict[str, float] = {}
        """When a node whose fsync was seen to fail has to have ended."""

    def look(self) -> None:
        """Note the processes that have ended by themselves."""
        for name, process in self.nodes.running.items():
            if process.exit_code is not None and not (name in self.down or name in self._stopping or name in self._failing):
                self.deaths.append(f"{name} (pid {process.pid}) ended by itself with exit code {process.exit_code}")
                self.down.add(name)

    @property
    def up(self) -> list[str]:
        """The nodes that run, that nothing was done to."""
        self.look()
        hit = self.down | self._paused.keys() | self._stopping.keys() | self._failing.keys()
        return [name for name in self.names if name not in hit]

    def start(self, name: str) -> None:
        """Start a node; does nothing if it runs."""
        if name in self.down or name not in self.nodes.running:
            self.nodes.start(name)
            self.down.discard(name)

    def kill(self, *names: str) -> None:
        """SIGKILL to all of them, and gone when this returns."""
        self.look()
        alive = [name for name in names if name not in self.down]
        for name in alive:
            self.nodes.running[name].signal(signal.SIGKILL)
        for name in alive:
            self.nodes.running[name].kill()
            self.down.add(name)
            self._paused.pop(name, None)
            self._stopping.pop(name, None)
            self._let_go(name)

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        self._paused[name] = self.nodes.running[name]
        self._paused[name].signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT, if the process that was paused is still there."""
        process = self._paused.pop(name, None)
        if process is not None:
            process.signal(signal.SIGCONT)

    def ask_to_stop(self, name: str) -> None:
        """SIGTERM; `has_stopped` says when it is gone."""
        self._stopping[name] = time.monotonic() + STOP_SECONDS
        self.nodes.running[name].ask_to_stop()

    def has_stopped(self, name: str) -> bool:
        """Whether a node that was asked to stop is gone. One that takes too long is killed, which is a finding."""
        deadline = self._stopping.get(name)
        if deadline is None:  # it was killed meanwhile
            return True
        process = self.nodes.running[name]
        code = process.exit_code
        if code is None and time.monotonic() < deadline:
            return False
        if code is None:
            self.deaths.append(f"{name} (pid {process.pid}) was asked to stop and had not after {STOP_SECONDS:g} s")
            process.kill()
        elif code != 0:
            self.deaths.append(f"{name} (pid {process.pid}) was asked to stop and ended with exit code {code}")
        del self._stopping[name]
        self.down.add(name)
        return True

    def lose_state(self, name: str) -> None:
        """Delete the state store of a node that is down; its log stays."""
        if name not in self.down:
            raise ValueError(f"{name} is not down")
        shutil.rmtree(Path(self.nodes.spec(name).data_dir) / "state", ignore_errors=True)

    # Disks.

    def fail_fsync(self, name: str) -> None:
        """From now on every fsync of the node fails; `has_failed` ends that."""
        process = self.nodes.running[name]
        self._failing[name] = FailingFsync(process.pid, self.nodes.log_path(name).with_suffix(f".strace-{process.pid}"))

    def has_failed(self, name: str) -> bool:
        """Whether it is over with a node whose fsyncs fail: it did none, or it has ended. One that goes on for long is a finding."""
        fault = self._failing.get(name)
        if fault is None:  # it was killed meanwhile
            return True
        process = self.nodes.running[name]
        if process.exit_code is not None or not fault.failed:
            fault.end()
        code = process.exit_code
        if code is None and not fault.failed:
            self._let_go(name)
            return True
        deadline = self._must_end.setdefault(name, time.monotonic() + STOP_SECONDS)
        if code is None and time.monotonic() < deadline:
            return False
        if code is None:
            self.deaths.append(f"{name} (pid {process.pid}) went on for {STOP_SECONDS:g} s after an fsync had failed: see {fault.record}")
            process.kill()
        elif code != 1 or not fault.failed:
            self.deaths.append(f"{name} (pid {process.pid}), whose fsyncs were to fail, ended with exit code {code}: see {fault.record}")
        self.down.add(name)
        self._let_go(name)
        return True

    def _let_go(self, name: str) -> None:
        fault = self._failing.pop(name, None)
        if fault is not None:
            fault.end()
        self._must_end.pop(name, None)

    def may_rot(self, name: str) -> bool:
        """Whether the log of a node has an entry that may rot."""
        try:
            return may_rot(Path(self.nodes.spec(name).data_dir))
        except StorageError:  # the log changed while it was looked at: asked again, it will say
            return False

    def rot(self, name: str, rng: random.Random) -> Index | None:
        """Let a byte of the log of a node that is down rot. The index of the entry, or None if there was none that may.

        Raises:
            StorageError: its log cannot be read.
        """
        if name not in self.down:
            raise ValueError(f"{name} is not down")
        return rot(Path(self.nodes.spec(name).data_dir), rng)

    # What they say.

    def status(self, name: str, timeout_s: float = STATUS_SECONDS) -> ClusterStatus | None:
        """What the process of `name` that runs now knows of the cluster; None when it does not answer."""
        try:
            status = cluster_status(self.nodes.spec(name).client, timeout_s=timeout_s)
        except (Unreachable, ErrorReply):
            return None
        return status if status.node(name).pid == self.nodes.running[name].pid else None

    def leader(self) -> str | None:
        """Who leads in the newest term that a node that is up knows of."""
        known = [status for status in map(self.status, self.up) if status is not None and status.leader is not None]
        return max(known, key=lambda status: status.term).leader if known else None

    def serves(self, name: str) -> bool:
        """Whether a node says itself that it takes part, with a state that is not being rebuilt."""
        status = self.status(name)
        return status is not None and status.node(name).role in ("leader", "follower")

    def is_whole(self, name: str) -> bool:
        """Whether a node serves and lacks nothing that it may have promised."""
        try:
            return self.serves(name) and not is_suspect(Path(self.nodes.spec(name).data_dir))
        except StorageError:  # the manifest was being replaced
            return False
