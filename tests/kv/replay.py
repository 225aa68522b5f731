"""Replays a fixed history and writes what came of it: run in processes with different hash seeds, to compare.

`python -m tests.kv.replay <model|rocks> <directory>` writes one line for the digest and one for each row.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from raftkv.kv.sessions import Limits
from raftkv.kv.store import Store
from raftkv.storage.store import RocksStore
from tests.kv.driver import START_MS, Driver, Request, empty_store, group, rows_of

LIMITS = Limits(age_ms=30_000)
"""Sessions that age within the few batches of the history."""


def request(rng: random.Random) -> Request:
    """A random write."""
    key = f"key{rng.randrange(60)}"
    choices = [
        f"set {key} {rng.randrange(100)}",
        f"set {key} v px {rng.randrange(1, 400)} {rng.choice(['nx', 'xx', 'get'])}",
        f"incrby {key} {rng.randrange(-9, 9)}",
        f"del {key} key{rng.randrange(60)} key{rng.randrange(60)}",
        f"pexpire {key} {rng.randrange(-50, 400)} {rng.choice(['nx', 'xx', 'gt', 'lt'])}",
        string_request(rng, key),
        key_request(rng, key),
        hash_request(rng, key),
        set_request(rng, key),
    ]
    return "flushall" if rng.random() < 0.003 else rng.choice(choices)


def string_request(rng: random.Random, key: str) -> str:
    """A random write about strings."""
    number = rng.randrange(100)
    choices = [
        f"incrbyfloat {key} {rng.choice(['0.1', '-1.25', '1e-17', '3e20'])}",
        f"append {key} {number}",
        f"setrange {key} {number} {number}",
        f"setbit {key} {number} {number % 2}",
        f"bitop {rng.choice(['and', 'or', 'xor'])} {key} key{number % 60} key{number % 7}",
        f"psetex {key} {number + 1} v",
        f"getex {key} {rng.choice(['persist', f'px {number + 1}', 'pxat 1'])}",
        f"set {key} {number} {rng.choice(['ifeq', 'ifne'])} v",
        f"delex {key} ifne v",
        f"getdel {key}",
        f"mset {key} {number} key{number % 60} v",
        f"msetnx {key} {number} key{number % 60} v",
    ]
    return rng.choice(choices)


def hash_request(rng: random.Random, key: str) -> str:
    """A random write about a hash."""
    name = f"f{rng.randrange(9)}"
    choices = [
        f"hset {key} {name} {rng.randrange(9)} f{rng.randrange(9)} v",
        f"hsetnx {key} {name} v",
        f"hdel {key} {name} f{rng.randrange(9)}",
        f"hincrby {key} {name} {rng.randrange(-9, 9)}",
        f"hincrbyfloat {key} {name} 0.1",
    ]
    return rng.choice(choices)


def set_request(rng: random.Random, key: str) -> str:
    """A random write about sets."""
    member, other = f"m{rng.randrange(9)}", f"key{rng.randrange(60)}"
    choices = [
        f"sadd {key} {member} m{rng.randrange(9)}",
        f"srem {key} {member}",
        f"spop {key}",
        f"spop {key} {rng.randrange(5)}",
        f"smove {key} {other} {member}",
        f"{rng.choice(['sinterstore', 'sunionstore', 'sdiffstore'])} key{rng.randrange(60)} {key} {other}",
    ]
    return rng.choice(choices)


def key_request(rng: random.Random, key: str) -> str:
    """A random write about keys of any type."""
    other = f"key{rng.randrange(60)}"
    while other == key:
        other = f"key{rng.randrange(60)}"
    moment_ms = START_MS + rng.randrange(400)
    choices = [
        f"rename {key} {other}",
        f"renamenx {key} {other}",
        f"copy {key} {other} replace",
        f"persist {key}",
        f"pexpireat {key} {moment_ms}",
    ]
    return rng.choice(choices)


def history(driver: Driver, entries: int = 150, seed: int = 7) -> None:
    """Apply entries of every kind: several sessions, groups sent again, gaps, time that passes, sessions that age."""
    rng = random.Random(seed)
    sessions = [b"session %08d" % number for number in range(6)]
    following = dict.fromkeys(sessions, 1)
    driver.now_ms = START_MS
    for _ in range(entries):
        driver.now_ms += rng.choice([0, 1, 30, 200, 900_000])
        groups = []
        for session in rng.sample(sessions, rng.randrange(4)):
            first = max(1, following[session] + rng.choice([0, 0, 0, -2, 2]))
            groups.append(group(session, first, [request(rng) for _ in range(rng.randrange(5))], floor=first // 2))
        for answer in driver.groups(*groups):
            if answer.problem == "unknown_session":
                following[answer.session] = 1
            elif answer.problem is None:
                following[answer.session] = max(following[answer.session], answer.first + len(answer.replies))
        if rng.random() < 0.05:
            driver.configure(rng.randbytes(5))


def main() -> None:
    """Replay and report."""
    store: Store = RocksStore(Path(sys.argv[2]) / "live") if sys.argv[1] == "rocks" else empty_store()
    driver = Driver(store, LIMITS)
    history(driver)
    sys.stdout.write(driver.machine.digest.hex() + "\n")
    sys.stdout.writelines(f"{name.hex()} {value.hex()}\n" for name, value in rows_of(store))
    store.close()


if __name__ == "__main__":
    main()
