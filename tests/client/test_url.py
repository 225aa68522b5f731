"""What a URL says, and which URLs are refused."""

from __future__ import annotations

import pytest

from raftkv.client.url import Address, Settings, check_timeout, parse_url
from raftkv.errors import InvalidSettings


def test_a_url_names_nodes_and_settings() -> None:
    """Several nodes, default port, IPv6, options, credentials; both schemes mean the same."""
    settings = parse_url("raftkv://h1:7101,h2,[::1]:7103,[fe80::2]?timeout=2.5&max_connections=4")
    assert settings == Settings(
        addresses=(Address("h1", 7101), Address("h2", 7001), Address("::1", 7103), Address("fe80::2", 7001)),
        timeout_s=2.5,
        max_connections=4,
    )
    assert parse_url("redis://h1:7101/0").addresses == parse_url("raftkv://h1:7101/").addresses
    with_password = parse_url("redis://user:p%40ss@h1")
    assert (with_password.username, with_password.password) == ("user", "p@ss")
    assert parse_url("redis://:secret@h1").username == "default"
    assert parse_url("redis://h1").password is None


def test_an_argument_takes_the_place_of_what_the_url_says() -> None:
    """A program decides over its configuration."""
    settings = parse_url("raftkv://h?timeout=9&max_connections=9", timeout_s=1, max_connections=2)
    assert (settings.timeout_s, settings.max_connections) == (1, 2)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://h1", "must begin with raftkv://"),
        ("h1:7001", "must begin with"),
        ("raftkv://", "names no node"),
        ("raftkv://h1:0", "port must be"),
        ("raftkv://h1:70000", "port must be"),
        ("raftkv://h1:x", "port must be"),
        ("raftkv://:7001", "has no host"),
        ("raftkv://h1/1", "only number 0"),
        ("raftkv://h1?timeout=soon", "must be a number"),
        ("raftkv://h1?timeout=0", "more than 0"),
        ("raftkv://h1?timeout=nan", "more than 0"),
        ("raftkv://h1?max_connections=0", "at least 1"),
        ("raftkv://h1?max_connections=1.5", "must be a number"),
        ("raftkv://h1?tmeout=1", "the option 'tmeout'"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, message: str) -> None:
    """The error says what is wrong with it, before anything is connected."""
    with pytest.raises(InvalidSettings, match=message):
        parse_url(url)


def test_a_call_has_a_time() -> None:
    """No call may take no time, or for ever."""
    assert check_timeout(0.5) == 0.5
    for timeout_s in (0, -1, float("inf")):
        with pytest.raises(InvalidSettings):
            check_timeout(timeout_s)


def test_an_address_is_shown_as_it_is_written() -> None:
    """IPv6 addresses are in brackets."""
    assert [str(address) for address in (Address("h", 1), Address("::1", 2))] == ["h:1", "[::1]:2"]
