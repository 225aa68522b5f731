"""Settings are refused before anything is opened, in words that say what, where and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raftkv.errors import InvalidSettings
from raftkv.server.settings import Address, Limits, NodeSettings, Tuning, parse_cluster

LOCAL = Address("127.0.0.1", 7001)
PUBLIC = Address("10.1.2.3", 7001)
EVERYWHERE = Address("0.0.0.0", 7001)  # noqa: S104 - nothing listens there


def _settings(**changes: Any) -> NodeSettings:
    given: dict[str, Any] = {
        "name": "n1",
        "data_dir": Path("data"),
        "client": LOCAL,
        "peer": Address("127.0.0.1", 7101),
        "cluster": {"n1": Address("127.0.0.1", 7101)},
    }
    return NodeSettings(**{**given, **changes})


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:7001", LOCAL), ("[::1]:80", Address("::1", 80)), ("db-1.example:65535", Address("db-1.example", 65535))],
)
def test_an_address_is_a_host_and_a_port(text: str, address: Address) -> None:
    """Addresses are read as they are written, IPv6 in brackets."""
    assert Address.parse(text, what="--client") == address
    assert str(address) == text


NO_ADDRESSES = ("", "7001", ":7001", "host:", "host:0", "host:65536", "host:-1", "host:7oo1", "::1:80", "host:٧", "a b:1", "h\n:1")


@pytest.mark.parametrize("text", [*NO_ADDRESSES, "[[a]]:1", "h\udcff:1", "h" * 254 + ":1", "h:" + "9" * 5000])
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    """The error names the option and shows what was given."""
    with pytest.raises(InvalidSettings, match="--client"):
        Address.parse(text, what="--client")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("n1", "NAME=HOST:PORT"),
        ("n1=a:1,n1=b:2", "twice"),
        ("n1=a:1,n2=a:1", "same address"),
        ("n 1=a:1", "letters"),
        ("=a:1", "letters"),
        (",".join(f"n{i}=h:{i}" for i in range(1, 9)), "at most 7"),
    ],
)
def test_a_cluster_that_makes_no_sense_is_refused(text: str, complaint: str) -> None:
    """Each rule about the initial members has its own message."""
    with pytest.raises(InvalidSettings, match=complaint):
        parse_cluster(text)


def test_initial_members_come_by_name() -> None:
    """Spaces around the parts do not matter."""
    assert parse_cluster("n1=a:1, n2=b:2") == {"n1": Address("a", 1), "n2": Address("b", 2)}


@pytest.mark.parametrize("option", ["client", "peer", "admin"])
def test_without_a_secret_a_node_stays_on_loopback(option: str) -> None:
    """An address that other machines can reach needs a secret, or the word of whoever starts the node."""
    with pytest.raises(InvalidSettings, match="--secret-file"):
        _settings(**{option: PUBLIC}, cluster=None)
    assert _settings(**{option: PUBLIC}, cluster=None, insecure=True)
    assert _settings(**{option: PUBLIC}, cluster=None, secret=b"0123456789abcdef")


def test_an_address_that_nobody_can_dial_needs_one_to_advertise() -> None:
    """Listening everywhere does not say where others find the node."""
    with pytest.raises(InvalidSettings, match="--advertise-client"):
        _settings(client=EVERYWHERE, insecure=True)
    told = _settings(client=EVERYWHERE, advertise_client=PUBLIC, insecure=True)
    assert told.client_address == PUBLIC


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"name": "n2"}, "--cluster does not list"),
        ({"name": "../n1"}, "--name"),
        ({"cluster": {"n1": Address("127.0.0.1", 1)}}, "--advertise-peer"),
        ({"cluster_name": ""}, "--cluster-name"),
        ({"secret": b"short"}, "fewer than 16"),
        ({"log_format": "xml"}, "--log-format"),
        ({"log_level": "loud"}, "--log-level"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], complaint: str) -> None:
    """The message names the option at fault."""
    with pytest.raises(InvalidSettings, match=complaint):
        _settings(**changes)


def test_bounds_are_at_least_one() -> None:
    """A bound of zero would stop the node from doing anything."""
    with pytest.raises(InvalidSettings, match="max_connections"):
        Limits(max_connections=0)
    with pytest.raises(InvalidSettings, match="tick_ms"):
        Tuning(tick_ms=0)
