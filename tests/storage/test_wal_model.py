"""The log against a model of it, driven by hypothesis: any sequence of writes, compactions, restarts, crashes and errors."""

from __future__ import annotations

import contextlib
import copy
import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raftkv.errors import DiskFull, StorageError
from raftkv.raft.types import Entry, EntryId, EntryKind, HardState, SnapshotMeta
from raftkv.sim.disk import Crashed, SimDisk, Survival
from raftkv.storage.wal import LogWrite
from tests.storage.log_model import Driver, LogModel, observed, same_log


class LogMachine(RuleBasedStateMachine):
    """`driver.acked` is the model; after each rule the log equals it, or after a crash is one of the states that it allows."""

    @initialize(seed=st.integers(0, 1 << 32))
    def start(self, seed: int) -> None:
        self.driver = Driver(SimDisk(random.Random(seed)))
        self.driver.open()
        self.term = 1

    @property
    def model(self) -> LogModel:
        return self.driver.acked

    def _writes(self, shape: list[tuple[int, int, int, bool]]) -> list[LogWrite]:
        """Writes that a Raft node could ask for: each keeps what is committed, and raises the term where it overwrites."""
        ahead = copy.deepcopy(self.model)
        writes = []
        for number, (back, count, size, vote) in enumerate(shape):
            first = max(ahead.last.index - back, ahead.commit, ahead.begin.index) + 1
            self.term += first <= ahead.last.index
            held = tuple(
                Entry(index, self.term, EntryKind.BATCH, b"%d/%d " % (index, self.term) + b"x" * size)
                for index in range(first, first + count)
            )
            last = held[-1].index if held else ahead.last.index
            state = HardState(self.term, f"n{number}") if vote else None
            write = LogWrite(number, state, None, held, max(ahead.commit, last - 3) if held else ahead.commit)
            ahead.write(write)
            writes.append(write)
        return writes

    shapes = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.sampled_from([0, 30, 700, 3000]), st.booleans()), max_size=3)

    @rule(shape=shapes)
    def write(self, shape: list[tuple[int, int, int, bool]]) -> None:
        self.driver.write(*self._writes(shape))

    @rule(back=st.integers(0, 10))
    def compact(self, back: int) -> None:
        index = min(self.model.commit, self.model.last.index - back)
        if index > self.model.begin.index:
            self.driver.compact(index)

    @rule(beyond=st.integers(-3, 8))
    def install(self, beyond: int) -> None:
        index = self.model.last.index + beyond
        if index > self.model.begin.index:
            term = self.model.term_at(index) if index <= self.model.commit else self.model.last.term + 1
            self.term = max(self.term, term or 0)
            self.driver.write(LogWrite(0, None, SnapshotMeta(index, term or 0), (), index))

    @rule()
    def seal(self) -> None:
        self.driver.seal()

    @rule()
    def restart_in_order(self) -> None:
        self.driver.reopen()

    @rule(survival=st.sampled_from(Survival))
    def crash_between_writes(self, survival: Survival) -> None:
        self.driver.disk.crash(survival)
        self.driver.open()
        self._recovered()

    @rule(survival=st.sampled_from(Survival), after=st.integers(1, 12), shape=shapes)
    def crash_in_a_write(self, survival: Survival, after: int, shape: list[tuple[int, int, int, bool]]) -> None:
        writes = self._writes(shape)
        self.driver.disk.crash_at(self.driver.disk.operations + after)
        with contextlib.suppress(Crashed):
            self.driver.write(*writes)
        self.driver.disk.crash(survival)
        self.driver.open()
        self._recovered()

    @rule(after=st.integers(1, 12), survival=st.sampled_from(Survival), shape=shapes)
    def fail_in_a_write(self, after: int, survival: Survival, shape: list[tuple[int, int, int, bool]]) -> None:
        writes = self._writes(shape)
        self.driver.disk.fail_at(self.driver.disk.operations + after, StorageError("cannot write: Input/output error"))
        with contextlib.suppress(StorageError):
            self.driver.write(*writes)
        self.driver.disk.crash(survival)
        self.driver.open()
        self._recovered()

    @rule(spare=st.integers(0, 6000), shape=shapes)
    def write_on_a_full_disk(self, spare: int, shape: list[tuple[int, int, int, bool]]) -> None:
        writes = self._writes(shape)
        self.driver.disk.capacity_bytes = sum(map(len, self.driver.disk.files().values())) + spare
        try:
            self.driver.wal.write(writes)
        except DiskFull:
            self.driver.disk.capacity_bytes = None
            self.driver.write(*writes)
        else:
            for write in writes:
                self.driver.doing.write(write)
            self.driver.acked = copy.deepcopy(self.driver.doing)
        self.driver.disk.capacity_bytes = None

    def _recovered(self) -> None:
        self.driver.check()
        self.term = max(self.term, self.model.last.term, self.model.hard_state.term) + 1

    @precondition(lambda self: hasattr(self, "driver"))
    @invariant()
    def the_log_equals_the_model(self) -> None:
        found = observed(self.driver.wal)
        assert found.hard_state == self.model.hard_state
        assert same_log(found, self.model)
        assert self.driver.wal.term_at(self.model.last.index) == self.model.last.term
        assert EntryId(found.last.index, found.last.term) == self.model.last


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
