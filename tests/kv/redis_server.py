"""A real redis-server to compare with, if one is installed: on a socket of its own, with one database, keeping nothing."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import hiredis

from raftkv.kv.replies import NO_ARRAY, OK, Failure, Reply, Simple


class RedisServer:
    """One server and one connection to it."""

    def __init__(self, directory: Path) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise FileNotFoundError("redis-server is not installed")
        self.path = path = directory / "socket"
        options = f"--port 0 --unixsocket {path} --databases 1 --appendonly no --dir {directory} --save".split()
        self._process = subprocess.Popen([program, *options, ""], stdout=subprocess.PIPE)
        # The server says when it accepts connections; until then there is nothing to connect to.
        for line in self._process.stdout or ():
            if b"ready to accept connections at" in line or b"The server is now ready" in line:
                break
        self._path = path
        self._socket = self._connect()
        self._reader = hiredis.Reader(replyError=RuntimeError)

    def _connect(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(30)
        made.connect(str(self._path))
        return made

    def connection(self) -> RawConnection:
        """Another connection, which gives replies as they are on the wire."""
        return RawConnection(self._connect())

    def ask(self, args: Sequence[bytes]) -> Reply:
        """The reply to one request, of those that RESP2 has."""
        reply, raw = self._ask(args)
        return plain(reply, raw)

    def wire(self, args: Sequence[bytes]) -> bytes:
        """The reply to one request, as it came."""
        return self._ask(args)[1]

    def _ask(self, args: Sequence[bytes]) -> tuple[object, bytes]:
        self._socket.sendall(b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(arg), arg) for arg in args))
        raw = b""
        while True:
            reply = self._reader.gets()
            if reply is not False:
                return reply, raw
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


class RawConnection:
    """One connection to a server. A context manager, which closes it."""

    def __init__(self, made: socket.socket) -> None:
        self._socket = made

    def __enter__(self) -> RawConnection:
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()

    def ask(self, *requests: Sequence[bytes]) -> bytes:
        """The bytes of the replies to some requests, sent in one piece."""
        self._socket.sendall(
            b"".join(
                b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(arg), arg) for arg in args) for args in requests
            )
        )
        reader = hiredis.Reader(replyError=RuntimeError)
        raw = b""
        for _ in requests:
            while reader.gets() is False:
                data = self._socket.recv(1 << 16)
                if not data:
                    return raw
                raw += data
                reader.feed(data)
        return raw


def plain(reply: object, raw: bytes) -> Reply:
    """What hiredis read, in our terms. `raw` tells a status from a bulk string, and one nil from the other."""
    if isinstance(reply, RuntimeError):
        code, _, message = raw[1:].split(b"\r\n")[0].decode("utf-8", "surrogateescape").partition(" ")
        return Failure(code, message)
    if raw.startswith(b"+") and isinstance(reply, bytes):
        return OK if reply == b"OK" else Simple(reply.decode())
    if raw.startswith(b"*-1"):
        return NO_ARRAY
    if isinstance(reply, list):
        return [plain(item, b"") for item in reply]
    if reply is None or isinstance(reply, int | bytes):
        return reply
    raise TypeError(f"Redis answered {reply!r}")
