"""Two ends of one connection through the proxies, for tests: blocking sockets, every wait bounded."""

from __future__ import annotations

import socket
import struct
from types import TracebackType

from raftkv.codec.handshake import PROTOCOL_VERSION, Handshake, Hello
from raftkv_cli.chaos.proxy import Links
from raftkv_cli.waiting import wait_until

PATIENCE_SECONDS = 30.0
SMALL_BUFFER = struct.pack("i", 4096)


def hello(node: str) -> bytes:
    """What the node `node` says first when it dials."""
    return Handshake(Hello(PROTOCOL_VERSION, b"cluster", node, 1, 1, 0, "", "", bytes(32)), b"", "other", lambda _: None).begin()


class Peers:
    """Three nodes that only listen; a context manager that also holds the links between them."""

    def __init__(self) -> None:
        self.listeners = {name: socket.create_server(("127.0.0.1", 0)) for name in ("a", "b", "c")}
        for listener in self.listeners.values():
            listener.settimeout(PATIENCE_SECONDS)
        self.links = Links({name: "{}:{}".format(*listener.getsockname()) for name, listener in self.listeners.items()})
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Peers:
        self.links.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.links.__exit__(kind, error, trace)
        for each in (*self._sockets, *self.listeners.values()):
            each.close()

    def dial(self, dialer: str, dialed: str) -> socket.socket:
        """The near end of a connection that has said who dials."""
        host, _, port = self.links.addresses[dialed].rpartition(":")
        near = socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)
        self._sockets.append(near)
        near.sendall(hello(dialer))
        return near

    def accept(self, dialer: str, dialed: str) -> socket.socket:
        """The far end of it."""
        far, _ = self.listeners[dialed].accept()
        self._sockets.append(far)
        far.settimeout(PATIENCE_SECONDS)
        assert receive(far, len(hello(dialer))) == hello(dialer)
        return far

    def connect(self, dialer: str, dialed: str) -> tuple[socket.socket, socket.socket]:
        """Both ends of a connection."""
        near = self.dial(dialer, dialed)
        return near, self.accept(dialer, dialed)

    def wait_until_held(self, sender: str, receiver: str, size: int) -> None:
        """Wait until the links hold exactly `size` bytes of what `sender` says to `receiver`."""
        wait_until(f"{size} bytes to be held", lambda: self.links.held_bytes(sender, receiver) == size, PATIENCE_SECONDS)


def receive(end: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes."""
    data = b""
    while len(data) < size:
        part = end.recv(size - len(data))
        if not part:
            raise ConnectionResetError(f"the connection ended after {len(data)} bytes of {size}")
        data += part
    return data


def nothing_came(end: socket.socket) -> bool:
    """Whether there is nothing to be read right now."""
    end.setblocking(False)
    try:
        end.recv(1)
    except BlockingIOError:
        return True
    finally:
        end.settimeout(PATIENCE_SECONDS)
    return False
