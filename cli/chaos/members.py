"""The nodes under torture: which of them run, what was done to them, and whether one ended by itself.

What always holds: a node is down only after it was ended here on purpose; one whose process ends otherwise is in `deaths`, and counts as
down from then on. A node that was asked to stop has to end with exit code 0 within the time that nodes have for it.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from pathlib import Path

from raftkv.errors import InvalidSettings
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

    def look(self) -> None:
        """Note the processes that have ended by themselves."""
        for name, process in self.nodes.running.items():
            if process.exit_code is not None and name not in self.down and name not in self._stopping:
                self.deaths.append(f"{name} (pid {process.pid}) ended by itself with exit code {process.exit_code}")
                self.down.add(name)

    @property
    def up(self) -> list[str]:
        """The nodes that run, that nothing was done to."""
        self.look()
        return [name for name in self.names if name not in self.down and name not in self._paused and name not in self._stopping]

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
