"""CONFIG: the parameters of Redis that mean something here, with the values that are true here.

A node is configured when it starts, so a parameter can be set to the value that it has, and to no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from raftkv.kv.arguments import SYNTAX_ERROR, printable
from raftkv.kv.glob import Pattern
from raftkv.kv.replies import OK, Reply, fail
from raftkv.router.connection import Connection, Handler
from raftkv.router.ports import NodeFacts, ReplicaPort

_FIXED: Final = {
    "activedefrag": "no",
    "appendfsync": "always",
    "appendonly": "yes",
    "cluster-enabled": "yes",
    "daemonize": "no",
    "databases": "1",
    "io-threads": "1",
    "latency-monitor-threshold": "0",
    "logfile": "",
    "masterauth": "",
    "maxmemory": "0",
    "maxmemory-clients": "0",
    "maxmemory-policy": "noeviction",
    "no-appendfsync-on-rewrite": "no",
    "notify-keyspace-events": "",
    "replica-read-only": "no",
    "requirepass": "",
    "save": "",
    "slave-read-only": "no",
    "slowlog-log-slower-than": "-1",
    "slowlog-max-len": "0",
    "timeout": "0",
    "unixsocket": "",
}
"""What is the same on every node: writes are on disk before they are answered, no key is evicted, nothing is recorded of slow commands."""

_LOG_LEVELS: Final = {"debug": "debug", "info": "notice", "warning": "warning", "error": "warning"}


class Configuration:
    """Executes CONFIG.

    Args:
        facts: tells what the server knows.
        replica: tells how many nodes make a majority.
        begin_anew: forgets what was counted.
    """

    def __init__(self, facts: Callable[[], NodeFacts], replica: ReplicaPort, begin_anew: Callable[[], None]) -> None:
        self._facts = facts
        self._replica = replica
        self._begin_anew = begin_anew
        self.handlers: dict[str, Handler] = {
            "config|get": self._get,
            "config|resetstat": self._reset_statistics,
            "config|rewrite": self._rewrite,
            "config|set": self._set,
        }

    def _parameters(self) -> dict[str, str]:
        facts = self._facts()
        others = str(self._replica.majority - 1)
        return dict(
            sorted(
                {
                    **_FIXED,
                    "bind": facts.bound,
                    "client-query-buffer-limit": str(facts.max_request_bytes),
                    "dir": facts.data_dir,
                    "loglevel": _LOG_LEVELS.get(facts.log_level, "notice"),
                    "maxclients": str(facts.max_clients),
                    "min-replicas-to-write": others,
                    "min-slaves-to-write": others,
                    "port": str(facts.tcp_port),
                    "proto-max-bulk-len": str(facts.max_bulk_bytes),
                    "tcp-backlog": str(facts.tcp_backlog),
                    "tcp-keepalive": str(facts.keep_alive_seconds),
                }.items()
            )
        )

    def _get(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        parameters = {name.encode(): value.encode() for name, value in self._parameters().items()}
        found: dict[Reply, Reply] = {}
        for arg in args:
            if not any(special in arg for special in (b"*", b"?", b"[")):  # then it is spelled as it was asked for
                if arg.lower() in parameters and arg.lower() not in found:
                    found[arg] = parameters[arg.lower()]
                continue
            pattern = Pattern(arg.lower())
            found.update((name, value) for name, value in parameters.items() if pattern.matches(name))
        return found

    def _set(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        if len(args) % 2:
            fail(SYNTAX_ERROR)
        parameters = self._parameters()
        names = [arg.lower().decode("utf-8", "surrogateescape") for arg in args[::2]]
        for name, spelled in zip(names, args[::2], strict=True):
            if name not in parameters:
                fail(f"Unknown option or number of arguments for CONFIG SET - '{printable(spelled)}'")
        for position, name in enumerate(names):
            if name in names[:position]:
                _refuse(name, "duplicate parameter")
            if args[2 * position + 1] != parameters[name].encode():
                _refuse(name, "can't set immutable config")
        return OK

    def _reset_statistics(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        self._begin_anew()
        return OK

    def _rewrite(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        fail("The server is running without a config file")


def _refuse(name: str, reason: str) -> None:
    fail(f"CONFIG SET failed (possibly related to argument '{name}') - {reason}")
