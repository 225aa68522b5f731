"""Settings of one node, checked before anything is opened.

A duration is in milliseconds, a size in bytes. Every rule that two settings share is checked here, so that the rest of the server can
trust what it is given. Nothing here reads a file, the environment or the clock: the command line does.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

from raftkv.errors import InvalidSettings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HOST = re.compile(r"[^\s\[\],=/]{1,253}")


@dataclass(frozen=True, order=True)
class Address:
    """A host and a TCP port. Written ``host:port``, an IPv6 host in square brackets."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, *, what: str) -> Address:
        """The address in `text`.

        Args:
            text: ``host:port``.
            what: the name of the setting, for the error.

        Raises:
            InvalidSettings: `text` is not an address.
        """
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if bracketed:
            host = host[1:-1]
        readable = _HOST.fullmatch(host) and host.isprintable()
        if not colon or not readable or (":" in host and not bracketed) or not re.fullmatch("[0-9]{1,9}", port):
            raise InvalidSettings(f"{what} is {text!r}; write it as HOST:PORT, for example 127.0.0.1:7001")
        number = int(port)
        if not 0 < number < 65536:
            raise InvalidSettings(f"{what} has port {number}; a port is between 1 and 65535")
        return cls(host, number)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_cluster(text: str) -> dict[str, Address]:
    """The initial members in ``n1=HOST:PORT,n2=HOST:PORT,…``, by name.

    Raises:
        InvalidSettings: a part is not NAME=HOST:PORT, or a name or address is there twice.
    """
    members: dict[str, Address] = {}
    for part in text.split(","):
        name, equals, address = part.strip().partition("=")
        if not equals:
            raise InvalidSettings(f"--cluster has the part {part!r}; write it as NAME=HOST:PORT, parts separated by commas")
        check_name(name, what="--cluster")
        if name in members:
            raise InvalidSettings(f"--cluster names {name} twice; every node has one name")
        members[name] = Address.parse(address, what=f"--cluster {name}")
    if len(set(members.values())) != len(members):
        raise InvalidSettings("--cluster gives two nodes the same address")
    if len(members) > 7:
        raise InvalidSettings(f"--cluster names {len(members)} nodes; a cluster votes with at most 7")
    return members


def check_name(name: str, *, what: str) -> None:
    """Refuse a node or cluster name that could not be a file name, a log field and a metric label alike.

    Raises:
        InvalidSettings: `name` is not 1 to 63 letters, digits, dots, underscores and hyphens that begin with a letter or digit.
    """
    if not _NAME.fullmatch(name):
        raise InvalidSettings(
            f"{what} has the name {name!r}; a name is 1 to 63 letters, digits, dots, underscores and hyphens, the first a letter or digit"
        )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The bounds on what one node holds in memory for its clients and peers."""

    max_connections: int = 10_000
    max_request_bytes: int = 16 << 20
    max_request_arguments: int = 65_536
    max_output_bytes: int = 64 << 20
    max_commands_per_connection: int = 10_000
    max_commands_in_flight: int = 200_000
    max_bytes_in_flight: int = 256 << 20
    max_entry_bytes: int = 8 << 20
    request_timeout_ms: int = 5_000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise InvalidSettings(f"{name} is {value}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How often a node does its periodic work, and when it compacts."""

    tick_ms: int = 20
    election_ticks: int = 50
    heartbeat_ticks: int = 5
    compact_bytes: int = 128 << 20
    """The log is cut when its files hold more than this."""
    compact_entries: int = 200_000
    """The log is cut when it holds more entries than this."""
    snapshot_bytes_per_second: int = 128 << 20
    """The rate at which one node sends a snapshot to another."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise InvalidSettings(f"{name} is {value}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """Everything that `raftkv node` is told.

    `cluster` maps the initial members' names to the peer addresses that they advertise, and is read only when the data directory is
    empty. Without `secret` the node talks on loopback addresses only, unless `insecure`. With `stop_at_end_of_input` the end of standard
    input is what SIGTERM is.
    """

    name: str
    data_dir: Path
    client: Address
    peer: Address
    admin: Address | None = None
    advertise_client: Address | None = None
    advertise_peer: Address | None = None
    cluster_name: str = "raftkv"
    cluster: dict[str, Address] | None = None
    secret: bytes | None = None
    insecure: bool = False
    stop_at_end_of_input: bool = False
    log_format: str = "console"
    log_level: str = "info"
    limits: Limits = field(default_factory=Limits)
    tuning: Tuning = field(default_factory=Tuning)

    def __post_init__(self) -> None:
        check_name(self.name, what="--name")
        check_name(self.cluster_name, what="--cluster-name")
        if self.log_format not in ("console", "json"):
            raise InvalidSettings(f"--log-format is {self.log_format!r}; it is console or json")
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise InvalidSettings(f"--log-level is {self.log_level!r}; it is debug, info, warning or error")
        if self.cluster is not None and self.name not in self.cluster:
            raise InvalidSettings(f"--name is {self.name}, which --cluster does not list; it lists {', '.join(sorted(self.cluster))}")
        if self.secret is not None and len(self.secret) < 16:
            raise InvalidSettings("--secret-file holds fewer than 16 bytes; a secret that can be guessed protects nothing")
        self._check_exposure()
        if self.cluster is not None and self.cluster[self.name] != self.peer_address:
            raise InvalidSettings(
                f"--cluster says that the others reach {self.name} at {self.cluster[self.name]}; this node says {self.peer_address} "
                "(--advertise-peer, or else --peer)"
            )

    def _check_exposure(self) -> None:
        listens = {"--client": self.client, "--peer": self.peer, "--admin": self.admin}
        for option, address in listens.items():
            advertised = {"--client": self.advertise_client, "--peer": self.advertise_peer}.get(option)
            if address is None:
                continue
            if advertised is None and address.host in ("0.0.0.0", "::") and option != "--admin":  # noqa: S104 - compared, not bound
                raise InvalidSettings(f"{option} is {address}, which no other machine can dial; say --advertise-{option[2:]} HOST:PORT")
            if not address.is_loopback and self.secret is None and not self.insecure:
                raise InvalidSettings(
                    f"{option} is {address}, which other machines can reach, and there is no cluster secret; "
                    "give --secret-file FILE, or --insecure if the network is trusted"
                )

    @property
    def client_address(self) -> Address:
        """Where clients and other nodes are told to find this node's client port."""
        return self.advertise_client or self.client

    @property
    def peer_address(self) -> Address:
        """Where other nodes are told to find this node's peer port."""
        return self.advertise_peer or self.peer
