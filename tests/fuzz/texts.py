"""What an operator writes: addresses, lists of members, names, a secret's file, the list of a local cluster's nodes.

The first byte of an input chooses which.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from raftkv.errors import InvalidSettings
from raftkv.raft.types import Member
from raftkv.server.settings import Address, NodeSettings, parse_cluster
from raftkv.storage.identity import cluster_id
from raftkv_cli.cluster import read_state
from raftkv_cli.node import MAX_SECRET_BYTES, read_secret
from tests.fuzz.checks import bounded, expect
from tests.fuzz.target import Target

_DIRECTORY = tempfile.TemporaryDirectory(prefix="raftkv-fuzz-")
_FILE = Path(_DIRECTORY.name) / "file"
_STATE = Path(_DIRECTORY.name) / "cluster.json"


def run(data: bytes) -> None:
    """Each is taken or refused as `InvalidSettings`; what is taken means the same when it is written again."""
    kind, rest = data[:1], data[1:]
    text = rest.decode("utf-8", "surrogateescape")
    try:
        match kind:
            case b"\0":
                bounded(data, lambda: address(text), steps=200, peak_bytes=20_000 + 20 * len(text))
            case b"\1":
                bounded(data, lambda: cluster(text), steps=500 + 60 * len(text), peak_bytes=20_000 + 200 * len(text))
            case b"\2":
                _FILE.write_bytes(rest)
                secret = read_secret(_FILE)
                expect(secret is not None and len(secret) <= MAX_SECRET_BYTES and secret == secret.strip(), "it is no secret")
            case b"\3":
                _STATE.write_bytes(rest)
                read_state(_STATE.parent)
            case _:
                node(text)
    except InvalidSettings as error:
        expect(len(str(error)) <= 400 + 8 * len(text), "an error is far longer than what it is about")


def address(text: str) -> None:
    """One address."""
    found = Address.parse(text, what="--peer")
    expect(Address.parse(str(found), what="again") == found, f"{text!r} is {found!r}, which is written {str(found)!r}")
    expect(0 < found.port < 65536 and len(found.host) <= 253, "a part is out of its range")
    str(found).encode()
    found.is_loopback  # noqa: B018 - it must not raise


def cluster(text: str) -> None:
    """A list of members."""
    members = parse_cluster(text)
    expect(1 <= len(members) <= 7, f"a cluster has {len(members)} members")
    written = ",".join(f"{name}={at}" for name, at in members.items())
    expect(parse_cluster(written) == members, "a list of members does not survive being written")
    expect(len(cluster_id("c", [Member(name, 0, str(at)) for name, at in members.items()])) == 16, "a cluster has no id")


def node(text: str) -> None:
    """The settings of a node, one a line."""
    lines = [*text.split("\n"), *[""] * 6][:6]
    cluster_text = lines[3]
    settings = NodeSettings(
        name=lines[0],
        data_dir=Path("data"),
        client=Address.parse(lines[1], what="--client"),
        peer=Address.parse(lines[2], what="--peer"),
        cluster=parse_cluster(cluster_text) if cluster_text else None,
        cluster_name=lines[4],
        insecure=bool(lines[5]),
    )
    expect(settings.insecure or (settings.client.is_loopback and settings.peer.is_loopback), "an open port without a secret")


def seeds() -> list[bytes]:
    """One of each, as people write them."""
    addresses = [b"127.0.0.1:7001", b"[::1]:65535", b"localhost:1", b"db-1.example:7001", b":7001", b"h:0", b"[fe80::1%eth0]:80", b"::1:80"]
    lists = [b"n1=127.0.0.1:1,n2=[::1]:2, n3=h:3", b"n1=a:1,n1=b:2", b"n1", b"a=h:1,b=h:1"]
    lists.append(b",".join(b"n%d=h:%d" % (n, n) for n in range(1, 9)))
    state = b'[{"name":"n1","pid":7,"client":"127.0.0.1:1","peer":"127.0.0.1:2","admin":"127.0.0.1:3"}]'
    whole = b"n1\n127.0.0.1:1\n127.0.0.1:2\nn1=127.0.0.1:2,n2=127.0.0.1:3\nraftkv\n"
    secrets = [b"a secret of one line\n", b"", b"x" * 5000]
    seeds = [b"\0" + one for one in addresses] + [b"\1" + one for one in lists] + [b"\2" + one for one in secrets]
    return [*seeds, b"\3" + state, b"\4" + whole, b"\4" + whole.replace(b"127.0.0.1:1", b"0.0.0.0:1") + b"yes"]


TARGET = Target("texts", run, seeds)
