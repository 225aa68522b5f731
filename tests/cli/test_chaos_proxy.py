"""The links between tortured nodes: what passes, what is held, and how a connection ends, under each impairment."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from raftkv_cli.chaos.proxy import CHUNK_BYTES, HELD_CHUNKS, Impairment
from raftkv_cli.waiting import wait_until
from tests.cli.chaos_links import PATIENCE_SECONDS, Peers, nothing_came, receive

HOUR = 3600.0


@pytest.fixture
def peers() -> Iterator[Peers]:
    """Three nodes; whatever a test does, nothing may go wrong in the proxies themselves."""
    with Peers() as peers:
        yield peers
    assert peers.links.errors == []


def test_bytes_pass_in_both_directions(peers: Peers) -> None:
    """Without an impairment everything arrives, in order, and the end of the connection behind it."""
    near, far = peers.connect("a", "b")
    data = bytes(range(256)) * 4_000
    near.sendall(data[:1000])
    far.sendall(b"back")
    assert receive(near, 4) == b"back"
    assert receive(far, 1000) == data[:1000]
    near.sendall(data[:100_000])
    near.close()
    assert receive(far, 100_000) == data[:100_000]
    assert far.recv(1) == b""


@pytest.mark.parametrize("impairment", [Impairment(stall=True), Impairment(delay_s=HOUR)], ids=["stall", "delay"])
def test_what_is_held_passes_when_it_ends(peers: Peers, impairment: Impairment) -> None:
    """A stall, or a delay that nobody waits for, holds one direction; the other passes; in the end everything arrives."""
    near, far = peers.connect("a", "b")
    peers.links.impose(impairment, [("a", "b")])
    near.sendall(b"held")
    far.sendall(b"passes")
    assert receive(near, 6) == b"passes"
    peers.wait_until_held("a", "b", 4)
    assert nothing_came(far)
    peers.links.lift(impairment)
    assert receive(far, 4) == b"held"


def test_both_directions_can_be_stalled(peers: Peers) -> None:
    """A path belongs to who says something, whoever dialed: what the dialed node answers can be held too."""
    near, far = peers.connect("a", "b")
    stall = Impairment(stall=True)
    peers.links.impose(stall, [("a", "b"), ("b", "a")])
    near.sendall(b"there")
    far.sendall(b"back")
    peers.wait_until_held("a", "b", 5)
    peers.wait_until_held("b", "a", 4)
    assert nothing_came(near)
    assert nothing_came(far)
    peers.links.lift(stall)
    assert (receive(far, 5), receive(near, 4)) == (b"there", b"back")


def test_a_cut_keeps_the_connection_and_loses_what_was_said(peers: Peers) -> None:
    """While a path is cut nothing passes and nothing breaks; when it ends, the connection is reset at both ends, and nothing of it
    arrives. Others are not touched."""
    near, far = peers.connect("a", "b")
    other_near, other_far = peers.connect("a", "c")
    cut = Impairment(cut=True)
    peers.links.impose(cut, [("a", "b")])
    near.sendall(b"lost")
    peers.wait_until_held("a", "b", 4)
    assert nothing_came(near)
    assert nothing_came(far)
    peers.links.lift(cut)
    for end in (near, far):
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    other_near.sendall(b"unharmed")
    assert receive(other_far, 8) == b"unharmed"
    assert peers.links.held_bytes("a", "b") == 0


@pytest.mark.parametrize("pair", [("a", "b"), ("b", "a")], ids=["forward", "backward"])
def test_no_connection_is_made_over_a_blocked_path(peers: Peers, pair: tuple[str, str]) -> None:
    """Who dials while one of the two paths is stalled reaches the other node when that ends."""
    stall = Impairment(stall=True)
    peers.links.impose(stall, [pair])
    near = peers.dial("a", "b")
    peers.connect("c", "b")  # behind it, and accepted first: the other one has not come
    peers.links.lift(stall)
    far = peers.accept("a", "b")
    near.sendall(b"now")
    assert receive(far, 3) == b"now"


def test_the_end_of_a_connection_waits_behind_its_bytes(peers: Peers) -> None:
    """A node that goes away behind a stall is not missed before the stall ends."""
    near, far = peers.connect("a", "b")
    stall = Impairment(stall=True)
    peers.links.impose(stall, [("a", "b")])
    near.sendall(b"last words")
    near.close()
    peers.wait_until_held("a", "b", 10)
    assert nothing_came(far)
    peers.links.lift(stall)
    assert receive(far, 10) == b"last words"
    assert far.recv(1) == b""


def test_what_is_held_is_bounded(peers: Peers) -> None:
    """Who says more than fits into a stalled path is not read from any more; nothing of it is lost."""
    near, far = peers.connect("a", "b")
    stall = Impairment(stall=True)
    peers.links.impose(stall, [("a", "b")])
    near.setblocking(False)
    data, sent = bytes(range(251)) * 4_000, 0

    def full() -> bool:
        nonlocal sent
        try:
            sent += near.send(data[sent % len(data) :])
        except BlockingIOError:
            return peers.links.held_bytes("a", "b") >= CHUNK_BYTES
        return False

    wait_until("the sender to be blocked", full, PATIENCE_SECONDS)
    assert peers.links.held_bytes("a", "b") <= (HELD_CHUNKS + 2) * CHUNK_BYTES
    peers.links.lift(stall)
    arrived = receive(far, sent)
    assert arrived == (data * (sent // len(data) + 1))[:sent]


def test_a_throttled_path_lets_a_part_through(peers: Peers) -> None:
    """Of more than a path lets through in an hour, the beginning arrives, the rest is held, and passes when the throttle ends."""
    near, far = peers.connect("a", "b")
    throttle = Impairment(bytes_per_second=1)
    peers.links.impose(throttle, [("a", "b")])
    near.sendall(b"x" * 1000)
    first = far.recv(1000)
    near.sendall(b"y" * 3000)
    peers.wait_until_held("a", "b", 4000 - len(first))
    assert nothing_came(far)
    peers.links.lift(throttle)
    assert first + receive(far, 4000 - len(first)) == b"x" * 1000 + b"y" * 3000


def test_a_delay_ends_by_itself(peers: Peers) -> None:
    """What is delayed arrives without anybody's doing."""
    near, far = peers.connect("a", "b")
    peers.links.impose(Impairment(delay_s=0.01), peers.links.pairs)
    near.sendall(b"late")
    assert receive(far, 4) == b"late"


def test_a_reset_breaks_all_connections_of_a_pair(peers: Peers) -> None:
    """Both ends are told, whoever dialed, and at once, also behind a stall; other pairs are not touched."""
    ends = [*peers.connect("a", "b"), *peers.connect("b", "a")]
    other_near, other_far = peers.connect("c", "a")
    peers.links.impose(Impairment(stall=True), [("a", "b"), ("b", "a")])
    assert peers.links.reset([("a", "b")]) == 2
    for end in ends:
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    other_near.sendall(b"unharmed")
    assert receive(other_far, 8) == b"unharmed"


def test_the_worst_of_several_impairments_counts(peers: Peers) -> None:
    """A path is free when the last impairment on it is lifted, and not before."""
    near, far = peers.connect("a", "b")
    first, second = Impairment(stall=True), Impairment(stall=True)
    peers.links.impose(first, [("a", "b")])
    peers.links.impose(second, [("a", "b")])
    near.sendall(b"held")
    peers.links.lift(first)
    peers.wait_until_held("a", "b", 4)
    assert nothing_came(far)
    peers.links.lift(second)
    assert receive(far, 4) == b"held"


def test_a_node_that_does_not_listen_resets_whoever_dials(peers: Peers) -> None:
    """A dead node is noticed at once."""
    peers.listeners["b"].close()
    near = peers.dial("a", "b")
    with pytest.raises(ConnectionResetError):
        near.recv(1)


def test_strangers_are_refused(peers: Peers) -> None:
    """Who does not begin with a node's Hello reaches nobody."""
    host, _, port = peers.links.addresses["b"].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as near:
        near.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            near.recv(1)
