"""Whatever nodes and the network do to it, a client tells the truth, in order; and each rule of its core, broken on purpose, is noticed."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.client import call as call_module
from raftkv.client.call import Call
from raftkv.client.command import AnyCommand, Kind, read, write
from raftkv.client.core import Core, Effect, Lane, Outcome
from raftkv.client.replies import Answer, as_integer, as_string_or_none, encode_request
from raftkv.client.session import Session
from raftkv.errors import RaftkvError, Refused, Uncertain
from raftkv.kv.sessions import Limits
from tests.client.network import Flow, Line, World

LANES = 2
CALLS = 25
TIMEOUT_S = 1.0


class Program:
    """What one lane of a client does, call after call, and what it was told."""

    def __init__(self, world: World, core: Core, number: int) -> None:
        self.world = world
        self.core = core
        self.lane: Lane = core.lane()
        self.line = Line(world)
        self.own = f"own:{number}"
        self.number = number
        self.told: list[tuple[str, str, object]] = []
        """Command, key and outcome."""
        self._keys = 0

    def commands(self) -> list[AnyCommand]:
        """The commands of the next call."""
        rng = self.world.rng
        made: list[AnyCommand] = []
        for _ in range(1 if rng.random() < 0.4 else rng.randint(1, 9)):
            if rng.random() < 0.4:
                self._keys += 1
                made.append(write(as_integer, "INCR", f"once:{self.number}:{self._keys}"))
            elif rng.random() < 0.6:
                made.append(write(as_integer, "INCR", self.own))
            else:
                made.append(read(as_string_or_none, "GET", self.own))
        return made

    def steps(self) -> Generator[None, None, None]:
        """All calls, a step at a time. Now and then one is cancelled, and what it asked for may happen."""
        for _ in range(CALLS):
            commands = self.commands()
            patience = self.world.rng.randrange(20) if self.world.unlucky(0.2) else None
            outcomes = yield from self._drive(self.core.perform(self.lane, commands, TIMEOUT_S), patience)
            if outcomes is None:
                outcomes = [Uncertain("cancelled")] * len(commands)
            assert len(outcomes) == len(commands)
            self.told += [
                (command.name, command.args[1].decode(), outcome) for command, outcome in zip(commands, outcomes, strict=True)
            ]

    def _drive(self, flow: Flow, patience: int | None) -> Generator[None, None, list[object] | None]:
        outcome: Outcome = None
        while True:
            try:
                effect: Effect = flow.send(outcome)
            except StopIteration as stop:
                outcomes: list[object] = stop.value
                return outcomes
            outcome = self.line.do(effect)
            yield
            if patience is not None:
                patience -= 1
                if patience < 0:
                    flow.close()
                    self.line.address = None
                    return None

    def complaints(self, final: Callable[[str], int]) -> list[str]:
        """What is wrong with what was told, given what the keys hold in the end."""
        return self._once(final) + self._order(final)

    def _once(self, final: Callable[[str], int]) -> list[str]:
        found = []
        for name, key, outcome in self.told:
            if name == "INCR" and key != self.own:
                allowed = (1,) if outcome == 1 else (0, 1) if isinstance(outcome, Uncertain) else (0,)
                if final(key) not in allowed or not isinstance(outcome, int | Refused | Uncertain):
                    found.append(f"{key} was told {outcome!r} and is {final(key)} in the end")
        return found

    def _order(self, final: Callable[[str], int]) -> list[str]:
        """The program alone changes its counter: nothing is undone, forgotten, counted twice or seen before it happens."""
        found = []
        highest = issued = 0
        for name, _, outcome in [told for told in self.told if told[1] == self.own]:
            issued += name == "INCR" and not isinstance(outcome, Refused)
            if isinstance(outcome, RaftkvError):
                continue
            value = int(outcome or 0) if isinstance(outcome, int | bytes | None) else -1
            if not highest + (name == "INCR") <= value <= issued:
                found.append(f"{name} {self.own} gave {value} after {highest}; {issued} may have happened")
            highest = max(highest, value)
        if not highest <= final(self.own) <= issued:
            found.append(f"{self.own} is {final(self.own)} in the end; {highest} were told and {issued} may have happened")
        return found


def run(seed: int, trouble: float | None = None, sessions: bool = True) -> tuple[list[str], list[Program]]:
    """A run of several programs that share a client; what was wrong, and the programs."""
    rng = random.Random(seed)
    limits = Limits(sessions=rng.choice([1, 10_000]))
    world = World(rng, rng.choice([0.0, 0.1, 0.3, 0.6]) if trouble is None else trouble, sessions, limits)
    core = world.core()
    programs = [Program(world, core, number) for number in range(LANES)]
    running = [program.steps() for program in programs]
    while running:
        steps = rng.choice(running)
        if next(steps, "over") == "over":
            running.remove(steps)
        world.happen()
    for node in world.nodes.values():
        world.settle(node)

    def final(key: str) -> int:
        found = world.apply([b"GET", key.encode()])
        return int(found) if isinstance(found, bytes) else 0

    return [complaint for program in programs for complaint in program.complaints(final)], programs


@given(seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_a_client_tells_the_truth(seed: int) -> None:
    """A write that was answered happened once, one that was refused did not and never will, and what a program sees is in order."""
    assert run(seed)[0] == []


@given(seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_a_client_of_nodes_without_sessions_tells_the_truth(seed: int) -> None:
    """Without sessions less is known, and what is said is as true. (Order is not promised after a failure: the runs have none.)"""
    wrong, programs = run(seed, sessions=False)
    assert [complaint for complaint in wrong if "once:" in complaint] == []
    assert all(not program.lane.session.opened for program in programs)


def test_the_runs_reach_what_they_are_for() -> None:
    """In trouble there is each kind of outcome, and with less of it most calls succeed."""
    told = [outcome for seed in range(20) for program in run(seed, 0.6)[1] for _, _, outcome in program.told]
    assert min(sum(isinstance(outcome, kind) for outcome in told) for kind in (Refused, Uncertain, int)) > 20
    told = [outcome for seed in range(20) for program in run(seed, 0.1)[1] for _, _, outcome in program.told]
    assert sum(isinstance(outcome, RaftkvError) for outcome in told) < len(told) / 10


def test_without_trouble_everything_is_answered() -> None:
    """No error is told when nothing goes wrong."""
    told = [outcome for program in run(1, 0.0)[1] for _, _, outcome in program.told]
    assert [outcome for outcome in told if isinstance(outcome, Exception)] == []


# Faults.

Plant = Callable[[pytest.MonkeyPatch], None]


def go_on_in_a_session_with_open_outcomes(patch: pytest.MonkeyPatch) -> None:
    """The number of a command that may still happen is given to another."""

    def faulty(self: Call) -> None:
        numbers = [item.number for item in self._items if item.number is not None and isinstance(item.outcome, RaftkvError)]
        if numbers and self._session is not None:
            self._session.give_back(min(numbers))

    patch.setattr(Call, "settle", faulty)


def retry_under_a_new_number(patch: pytest.MonkeyPatch) -> None:
    """What is sent again is numbered anew."""
    request = Call.next_request

    def faulty(self: Call) -> tuple[bytes, int]:
        for item in self._items:
            if item.open and item.number is not None:
                item.number = None
        return request(self)

    patch.setattr(Call, "next_request", faulty)


def retry_without_a_session(patch: pytest.MonkeyPatch) -> None:
    """A write is sent again as any client could, without a number."""
    patch.setattr(Call, "needs_session", False)
    patch.setattr(Call, "_may_repeat", lambda self, item: True)
    patch.setattr(Session, "once", lambda self, number, floor, args: encode_request(args))


def call_what_floats_definite(patch: pytest.MonkeyPatch) -> None:
    """At the end of its time a write that was sent is told not to have happened."""
    end = Call.give_up

    def faulty(self: Call, reason: str) -> None:
        for item in self._items:
            item.floating = False
        end(self, reason)

    patch.setattr(Call, "give_up", faulty)


def send_writes_behind_reads(patch: pytest.MonkeyPatch) -> None:
    """A write leaves before the read in front of it has been answered."""
    patch.setattr(call_module, "_follows", lambda before, after: True)


def keep_reads_behind_failed_writes(patch: pytest.MonkeyPatch) -> None:
    """A read is answered by what was there before the write in front of it, which is then sent again."""

    def faulty(self: Call, answers: Sequence[Answer], *, broken: str | None = None) -> str | None:
        problem = broken
        for item, answer in zip(self._sent, answers, strict=False):
            if item.open:
                self._answer(item, answer)
                problem = problem or ("again" if item.open else None)
        for item in self._sent[len(answers) :]:
            item.floating = item.command.kind is not Kind.READ
        self._sent = []
        return problem

    patch.setattr(Call, "answered", faulty)


def use_the_name_of_a_lost_session_again(patch: pytest.MonkeyPatch) -> None:
    """What takes the place of a session that was left behind has its name, and so numbers that mean two commands."""
    draw = Session.renew

    def faulty(self: Session) -> None:
        if not self._name:
            draw(self)
        self.opened = False
        self._next = 1

    patch.setattr(Session, "renew", faulty)


def trust_answers_that_are_missing(patch: pytest.MonkeyPatch) -> None:
    """When a connection breaks, what was not answered is sent again as if it had never left, and may be told not to have happened."""
    answered = Call.answered

    def faulty(self: Call, answers: Sequence[Answer], *, broken: str | None = None) -> str | None:
        sent = list(self._sent)
        problem = answered(self, answers, broken=broken)
        for item in sent:
            item.floating = False
        return problem

    patch.setattr(Call, "answered", faulty)


PLANTS: tuple[Plant, ...] = (
    go_on_in_a_session_with_open_outcomes,
    retry_under_a_new_number,
    retry_without_a_session,
    call_what_floats_definite,
    send_writes_behind_reads,
    keep_reads_behind_failed_writes,
    use_the_name_of_a_lost_session_again,
    trust_answers_that_are_missing,
)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_the_runs_catch_a_broken_rule(monkeypatch: pytest.MonkeyPatch, plant: Plant) -> None:
    """A client with this fault does not pass the runs that the real one passes."""
    plant(monkeypatch)
    assert any(run(seed, 0.6)[0] for seed in range(60))
