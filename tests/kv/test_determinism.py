"""Replicas that apply the same entries hold the same state: whatever the process, the store, the restarts and the crashes."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.kv.machine import KvMachine
from raftkv.sim.disk import SimDisk
from raftkv.sim.store import ModelStore
from raftkv.storage.store import RocksStore
from tests.kv.driver import Driver, empty_store, rows_of
from tests.kv.replay import LIMITS, history

ROOT = Path(__file__).resolve().parents[2]


def replay(kind: str, directory: Path, hash_seed: str) -> str:
    """What another process makes of the history."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.kv.replay", kind, str(directory)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return result.stdout


def test_processes_with_different_hash_seeds_agree(tmp_path: Path) -> None:
    """The same entries give the same digest and the same rows, byte for byte, in processes with other hash seeds and other stores."""
    outputs = [replay("model", tmp_path, "1"), replay("model", tmp_path, "4242"), replay("rocks", tmp_path, "0")]
    assert outputs[0].count("\n") > 20
    assert outputs[0] == outputs[1] == outputs[2]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_model_and_rocksdb_hold_the_same_rows(tmp_path: Path, seed: int) -> None:
    """A history on RocksDB, flushed and reopened in between, and on the model gives equal rows, digests and next expiries."""
    model = Driver(empty_store(), LIMITS)
    history(model, seed=seed)
    for length in range(0, len(model.log) + 40, 40):
        store = RocksStore(tmp_path / "live")
        rocks = Driver(store, LIMITS)
        rocks.follow(model.log[:length])
        if length >= len(model.log):
            assert rows_of(store) == rows_of(model.store)
            assert rocks.machine.position == model.machine.position
            assert rocks.machine.next_expiry_ms == model.machine.next_expiry_ms
        store.flush()
        store.close()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_replaying_after_a_crash_gives_the_same_state(seed: int) -> None:
    """A crash loses a suffix of the applied entries; applying the log again from where the store stands gives the same rows and digest
    as never having crashed, however often it happens."""
    rng = random.Random(seed)
    steady = Driver(limits=LIMITS)
    history(steady, entries=40, seed=seed)
    log = steady.log
    digests = {0: KvMachine(empty_store()).digest, **dict(steady.machine.digest_ring.pairs())}
    disk = SimDisk(rng)
    reached = 0
    while reached < len(log):
        store = ModelStore(disk, "store")
        crashing = Driver(store, LIMITS)
        assert crashing.machine.applied_index <= reached
        assert crashing.machine.digest == digests[crashing.machine.applied_index]
        reached = min(len(log), crashing.machine.applied_index + rng.randint(1, 30))
        durable = rng.randint(crashing.machine.applied_index, reached)
        crashing.follow(log[:durable])
        if rng.random() < 0.5:
            store.flush()
        crashing.follow(log[:reached])
        assert crashing.machine.digest == digests[reached]
        if reached < len(log):
            store.crash(rng)
    assert rows_of(store) == rows_of(steady.store)
    assert crashing.machine.position == steady.machine.position
    # Where the next expiry is looked for may lie before it: a value that was to expire may have been deleted, or made to stay.
    first, other = (machine.next_expiry_ms or math.inf for machine in (steady.machine, crashing.machine))
    assert first <= other
