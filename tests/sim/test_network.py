"""The simulated network keeps the promises of the product's transport, and breaks everything else."""

from __future__ import annotations

import random

import pytest

from raftkv.codec.frames import Stream
from raftkv.sim.clock import Schedule
from raftkv.sim.network import NetworkFaults, SimNetwork

NAMES = ("a", "b")
SETTLE_US = 2_000_000


class Inbox:
    """A process that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def deliver(self, sender: str, data: bytes) -> None:
        self.told.append(f"{sender}:{data.decode()}")

    def peer_connected(self, node: str) -> None:
        self.told.append(f"+{node}")

    def peer_disconnected(self, node: str) -> None:
        self.told.append(f"-{node}")

    def take(self) -> list[str]:
        """What was told since the last time."""
        told, self.told = self.told, []
        return told


class Pair:
    """Two processes that are connected."""

    def __init__(self, seed: int, faults: NetworkFaults) -> None:
        self.schedule = Schedule()
        self.network = SimNetwork(self.schedule, random.Random(seed), NAMES, faults)
        self.boxes = {name: Inbox() for name in NAMES}
        for name in NAMES:
            self.network.attach(name, 1, self.boxes[name])
        self.pass_time()
        assert [self.boxes[name].take() for name in NAMES] == [["+b"], ["+a"]]

    def pass_time(self, us: int = SETTLE_US) -> None:
        """Let time pass."""
        self.schedule.run_until(self.schedule.now_us + us)

    def send(self, *words: str, loose: bool = False, stream: Stream = Stream.BULK) -> list[bool]:
        """Send from a to b."""
        return [self.network.send("a", "b", stream, word.encode(), loose=loose) for word in words]


SEEDS = pytest.mark.parametrize("seed", range(5))


@SEEDS
def test_values_of_a_stream_arrive_in_order_without_gaps(seed: int) -> None:
    """However nasty the network, what is not loose arrives once, in the order of sending."""
    pair = Pair(seed, NetworkFaults(loss=0.5, duplication=0.5, reordering=0.5, delay_us=(1, 50_000)))
    assert all(pair.send(*map(str, range(50))))
    pair.pass_time()
    assert pair.boxes["b"].take() == [f"a:{number}" for number in range(50)]


def test_loose_values_are_lost_doubled_and_overtaken() -> None:
    """Of loose values some never arrive, some arrive twice, and some arrive after later ones."""
    pair = Pair(1, NetworkFaults(loss=0.2, duplication=0.2, reordering=0.2))
    pair.send(*map(str, range(200)), loose=True)
    pair.pass_time()
    arrived = [int(word[2:]) for word in pair.boxes["b"].take()]
    assert set(arrived) < set(range(200))
    assert len(arrived) > len(set(arrived))
    assert arrived != sorted(arrived)


def test_control_overtakes_bulk() -> None:
    """The two streams of a connection keep no order with each other."""
    pair = Pair(2, NetworkFaults(delay_us=(1, 50_000)))
    for number in range(20):
        pair.send(f"bulk{number}")
        pair.send(f"control{number}", stream=Stream.CONTROL)
    pair.pass_time()
    told = pair.boxes["b"].take()
    assert [word for word in told if "bulk" in word] == [f"a:bulk{number}" for number in range(20)]
    assert told != [f"a:{kind}{number}" for number in range(20) for kind in ("bulk", "control")]


@SEEDS
def test_a_break_loses_what_is_under_way_and_both_ends_are_told(seed: int) -> None:
    """After a break nothing of the old connection arrives; both ends see a disconnection and then a connection."""
    pair = Pair(seed, NetworkFaults(delay_us=(1_000, 2_000)))
    pair.send("lost")
    pair.network.break_connection("a", "b")
    pair.pass_time()
    for name, other in (("a", "b"), ("b", "a")):
        told = pair.boxes[name].take()
        assert told == [f"-{other}", f"+{other}"]
    assert pair.send("after") == [True]
    pair.pass_time()
    assert pair.boxes["b"].take() == ["a:after"]


@SEEDS
def test_what_waits_at_a_cut_arrives_when_it_is_mended_in_order(seed: int) -> None:
    """A short cut delays; what was sent during it and around its end keeps its order."""
    pair = Pair(seed, NetworkFaults(delay_us=(100, 2_000)))
    pair.network.cut("a", "b")
    pair.send("1", "2")
    pair.pass_time(100_000)
    assert pair.boxes["b"].take() == []
    pair.send("3")
    pair.network.mend("a", "b")
    pair.send("4")
    pair.pass_time()
    assert pair.boxes["b"].take() == ["a:1", "a:2", "a:3", "a:4"]


def test_a_long_cut_breaks_the_connection() -> None:
    """When a cut lasts, both ends give the connection up, and nothing that waited at it ever arrives."""
    pair = Pair(3, NetworkFaults())
    pair.network.cut("a", "b")
    pair.send("lost")
    pair.pass_time(10_000_000)
    assert [pair.boxes[name].take() for name in NAMES] == [["-b"], ["-a"]]
    assert pair.send("unsent") == [False]
    pair.network.heal()
    pair.pass_time()
    assert [pair.boxes[name].take() for name in NAMES] == [["+b"], ["+a"]]


@SEEDS
def test_nothing_of_an_older_process_arrives_after_a_newer_one_was_met(seed: int) -> None:
    """A node that restarts is disconnected and connected anew, and what its last life sent late is dropped."""
    pair = Pair(seed, NetworkFaults(reordering=1.0, slow_delay_us=(900_000, 1_000_000)))
    pair.send("old", loose=True)
    pair.network.detach("a", silent=True)
    pair.boxes["a"] = Inbox()
    pair.network.attach("a", 2, pair.boxes["a"])
    pair.pass_time()
    assert pair.boxes["b"].take() == ["-a", "+a"]
    assert pair.boxes["a"].take() == ["+b"]


def test_a_dead_machine_is_noticed_late_and_a_dead_process_soon() -> None:
    """When a process dies its connections are reset within milliseconds; when its machine dies, after seconds."""
    for silent, told in ((False, ["-a"]), (True, [])):
        pair = Pair(4, NetworkFaults())
        pair.network.detach("a", silent=silent)
        pair.pass_time(10_000)
        assert pair.boxes["b"].take() == told
        pair.pass_time(10_000_000)
        assert pair.boxes["b"].take() == ([] if told else ["-a"])
