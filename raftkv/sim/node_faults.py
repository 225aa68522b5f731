"""Faults of processes, machines and clocks, and what operators do at awkward times."""

from __future__ import annotations

import random

from raftkv.kv.sessions import LIMITS
from raftkv.sim.disk import Survival
from raftkv.sim.storm import Storm
from raftkv.sim.swarm import MOST_BEHIND_MS

MINUTE_MS = 60_000
ALL_JUMP = 0.15
"""How often a jump of wall clocks is one of all of them."""
YEAR_MS = 365 * 86_400_000


def kill(storm: Storm, rng: random.Random) -> None:
    """A process dies at once."""
    node = storm.victim(rng)
    if node.alive:
        storm.fired(node, "kill")
        node.kill()


def power(storm: Storm, rng: random.Random) -> None:
    """The power of a machine fails."""
    node = storm.victim(rng)
    if node.alive:
        survival = storm.survival(node, rng)
        storm.fired(node, "power", survival.name)
        node.kill(power=survival)


def blackout(storm: Storm, rng: random.Random) -> None:
    """The power of all machines fails at once."""
    storm.fired("all", "blackout")
    for node in storm.nodes:
        survival = rng.choice((Survival.LOST, Survival.REORDERED))
        if node.alive:
            node.kill(power=survival)


def crash_in_operation(storm: Storm, rng: random.Random) -> None:
    """A node dies in the middle of one of its next operations on the disk, or of those of its next start."""
    node = storm.victim(rng)
    if node.alive and node.crash_in is None:
        node.crash_in = rng.randint(1, 40), rng
        if rng.random() < 0.4:
            node.kill()


def crash_at_point(storm: Storm, rng: random.Random) -> None:
    """The next node that reaches the failure point that the seed aims at dies there."""
    storm.aims.append(rng)


def pause(storm: Storm, rng: random.Random) -> None:
    """A process stands still for a while."""
    node = storm.victim(rng)
    if node.alive and not node.paused:
        storm.fired(node, "pause")
        node.pause()
        storm.undo(rng, rng.choice(((5, 100), (200, 3_000))), node.resume)


def transfer(storm: Storm, rng: random.Random) -> None:
    """An operator has the leadership handed over."""
    for node in storm.nodes:
        if node.serves and node.replica.role == "leader":
            storm.fired(node, "transfer")
            node.run(lambda node=node: node.transfer(None))  # type: ignore[misc]
            return


def compact(storm: Storm, rng: random.Random) -> None:
    """A node cuts its log now, whatever its size."""
    node = storm.victim(rng)
    if node.serves:
        storm.fired(node, "compact")
        node.run(lambda: node.replica.compact())


def clock_jump(storm: Storm, rng: random.Random) -> None:
    """A wall clock jumps, forward or back, by up to a year, but never to far behind the others (see `swarm.MOST_BEHIND_MS`). The clocks of
    a majority stay within a minute of each other: the time in the log is what they agree on. Now and then they all jump ahead together, by
    more than the age of sessions: the next leader takes the log's clock along, and keys expire."""
    node = storm.victim(rng)
    jump_ms = rng.choice((-1, 1)) * rng.randint(1, rng.choice((1_000, 3_600_000, YEAR_MS)))
    if rng.random() < ALL_JUMP:
        ahead_ms = LIMITS.age_ms + rng.randint(1, 3_600_000)
        storm.fired(node, "clock_jump", f"{ahead_ms} ms, all nodes")
        for one in storm.nodes:
            one.wall_offset_ms += ahead_ms
        return
    middle_ms = sorted(one.wall_offset_ms for one in storm.nodes)[len(storm.nodes) // 2]
    wrong = {one.name for one in storm.nodes if abs(one.wall_offset_ms - middle_ms) > MINUTE_MS}
    if abs(node.wall_offset_ms + jump_ms - middle_ms) > MINUTE_MS and len(wrong | {node.name}) > (len(storm.nodes) - 1) // 2:
        jump_ms = rng.choice((-1, 1)) * rng.randint(1, 1_000)
    jump_ms = max(jump_ms, middle_ms - MOST_BEHIND_MS - node.wall_offset_ms)
    storm.fired(node, "clock_jump", f"{jump_ms} ms")
    node.wall_offset_ms += jump_ms


def clock_rate(storm: Storm, rng: random.Random) -> None:
    """A monotonic clock runs faster or slower from now on."""
    node = storm.victim(rng)
    rate = rng.choice((1.0, rng.uniform(0.95, 1.05), rng.uniform(0.8, 1.25)))
    storm.fired(node, "clock_rate", f"{rate:.3f}")
    node.set_rate(rate)
