"""A real redis-server to compare with, if one is installed: on a free port of this machine, keeping nothing."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import hiredis

from raftkv.kv.replies import OK, Failure, Reply, Simple


class RedisServer:
    """One server, with `options` besides, and one connection to it."""

    def __init__(self, directory: Path, *options: str) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise FileNotFoundError("redis-server is not installed")
        path = directory / "socket"
        self._process = subprocess.Popen(
            [program, "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no", "--dir", str(directory), *options],
            stdout=subprocess.PIPE,
        )
        # The server says when it accepts connections; until then there is nothing to connect to.
        for line in self._process.stdout or ():
            if b"ready to accept connections at" in line or b"The server is now ready" in line:
                break
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(str(path))
        self._reader = hiredis.Reader(replyError=RuntimeError)

    def ask(self, args: Sequence[bytes]) -> Reply:
        """The reply to one request."""
        self._socket.sendall(b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(arg), arg) for arg in args))
        raw = b""
        while True:
            reply = self._reader.gets()
            if reply is not False:
                return plain(reply, raw)
            data = self._socket.recv(1 << 16)
            raw += data
            self._reader.feed(data)

    def close(self) -> None:
        """Stop the server."""
        self._socket.close()
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def plain(reply: object, raw: bytes) -> Reply:
    """What hiredis read, in our terms. `raw` tells a status from a bulk string."""
    if isinstance(reply, RuntimeError):
        code, _, message = raw[1:].split(b"\r\n")[0].decode("utf-8", "surrogateescape").partition(" ")
        return Failure(code, message)
    if raw.startswith(b"+") and isinstance(reply, bytes):
        return OK if reply == b"OK" else Simple(reply.decode())
    if isinstance(reply, list):
        return [plain(item, b"") for item in reply]
    if reply is None or isinstance(reply, int | bytes):
        return reply
    raise TypeError(f"Redis answered {reply!r}")
