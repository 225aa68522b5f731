"""Options of TCP sockets that the client and the peer ports share, set where the system has them.

An option that a system lacks is left out: each only makes a failure noticed sooner or a queue shorter, and nothing relies on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import Any

_KEEP_IDLE = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
_LINUX_NOTSENT_LOWAT = 25  # from <linux/tcp.h>; Python's socket module has no name for it before 3.12


def _tcp_socket(transport: asyncio.BaseTransport) -> Any:
    raw = transport.get_extra_info("socket")
    return raw if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6) else None


def _set(raw: Any, level: int, option: int | None, value: int) -> None:
    if option is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(level, option, value)


def keep_alive(transport: asyncio.BaseTransport, idle_seconds: int) -> None:
    """Let TCP ask, after `idle_seconds` of silence and then a few times, whether the other machine is still there."""
    raw = _tcp_socket(transport)
    if raw is not None:
        _set(raw, socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        _set(raw, socket.IPPROTO_TCP, _KEEP_IDLE, idle_seconds)
        _set(raw, socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPINTVL", None), max(idle_seconds // 3, 1))
        _set(raw, socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPCNT", None), 3)


def send_promptly(transport: asyncio.BaseTransport, unsent_bytes: int, give_up_ms: int) -> None:
    """For a connection on which small messages must not wait behind large ones.

    Args:
        transport: a TCP connection.
        unsent_bytes: the system takes no more than about this many bytes that it cannot send yet; the rest can be overtaken.
        give_up_ms: what was sent and is not acknowledged for so long breaks the connection.
    """
    raw = _tcp_socket(transport)
    if raw is not None:
        _set(raw, socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lowat = _LINUX_NOTSENT_LOWAT if sys.platform == "linux" else getattr(socket, "TCP_NOTSENT_LOWAT", None)
        _set(raw, socket.IPPROTO_TCP, lowat, unsent_bytes)
        _set(raw, socket.IPPROTO_TCP, getattr(socket, "TCP_USER_TIMEOUT", None), give_up_ms)
