"""A real redis-server, which judges what the clients send and what they make of the answers."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftkv_cli.processes import Ports


class Redis:
    """A server on a free port; `stop` and `start` make it fail for a while."""

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._directory = directory
        self.port = Ports.free(1).client[0]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it; it takes connections when this returns."""
        command = [self._program, "--port", str(self.port), "--save", "", "--appendonly", "no", "--dir", str(self._directory)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        for line in self._process.stdout or ():
            if b"ready to accept connections" in line.lower():
                return
        raise ChildProcessError("redis-server ended before it took connections")

    def stop(self) -> None:
        """End it at once, with everything that it holds."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    def client_count(self) -> int:
        """How many connections it has, besides the one that asks."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(b"*2\r\n$6\r\nCLIENT\r\n$4\r\nLIST\r\n")
            data = b""
            while not data.endswith(b"\r\n") or b"\r\n" not in data[:-2]:
                data += connection.recv(1 << 16)
        return data.count(b"addr=") - data.count(b"laddr=") - 1


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Redis]:
    """A server that runs."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    server = Redis(program, tmp_path)
    server.start()
    yield server
    server.stop()
