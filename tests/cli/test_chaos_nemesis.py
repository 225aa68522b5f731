"""What goes wrong in a tortured cluster: drawn from the seed, undone in the end, and never more than a minority without their state."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftkv_cli.chaos import failing_fsync
from raftkv_cli.chaos.members import Members
from raftkv_cli.chaos.nemesis import HOLD_SECONDS, PAUSE_SECONDS, Action, Kind, Nemesis, draw
from raftkv_cli.chaos.proxy import Links
from raftkv_cli.chaos.small_disk import SmallDisk
from raftkv_cli.processes import Nodes, NodeSpec, Ports, plan
from raftkv_cli.status import ClusterStatus, NodeStatus
from raftkv_cli.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGSTOP")

PATIENCE_SECONDS = 30.0


class Pretended(Members):
    """Nodes without processes: what is done to them is only noted. `n1` leads, and `restoring` nodes do not serve."""

    def __init__(self, count: int) -> None:
        super().__init__(Nodes(plan(Path("nowhere"), Ports.from_base(20_000, count))))
        self.restoring: set[str] = set()
        self.rotten: set[str] = set()
        self.closed = set(self.names)
        """The nodes whose logs have a closed segment."""
        self.failing: set[str] = set()
        self.starting: set[str] = set()
        self.done: list[str] = []
        self.paused: set[str] = set()

    def look(self) -> None:
        """No process ends by itself."""

    def start(self, name: str) -> None:
        self.down.discard(name)

    def kill(self, *names: str) -> None:
        self.done.append(f"kill {' '.join(names)}")
        self.down.update(names)

    def pause(self, name: str) -> None:
        self.done.append(f"pause {name}")
        self.paused.add(name)

    def resume(self, name: str) -> None:
        self.paused.discard(name)

    def ask_to_stop(self, name: str) -> None:
        self.done.append(f"stop {name}")

    def has_stopped(self, name: str) -> bool:
        self.down.add(name)
        return True

    def lose_state(self, name: str) -> None:
        self.done.append(f"lose {name}")
        self.restoring.add(name)

    def fail_fsync(self, name: str) -> None:
        self.done.append(f"fail {name}")
        self.failing.add(name)

    def has_failed(self, name: str) -> bool:
        self.failing.discard(name)
        self.down.add(name)
        return True

    def may_rot(self, name: str) -> bool:
        return name in self.closed

    def rot(self, name: str, rng: random.Random) -> int | None:
        assert name in self.down
        self.done.append(f"rot {name}")
        self.rotten.add(name)
        return 7

    def is_whole(self, name: str) -> bool:
        return self.serves(name) and name not in self.rotten

    def status(self, name: str, timeout_s: float = 0.0) -> ClusterStatus | None:
        return None if name in self.starting else ClusterStatus("c", "n1", 1, [])

    def leader(self) -> str | None:
        return next(iter(self.up), None)

    def serves(self, name: str) -> bool:
        return name not in self.restoring and name not in self.down


class Disk(SmallDisk):
    """A disk that can be filled, as far as the nemesis can see."""

    full = False

    def fill(self, leave_bytes: int) -> None:
        self.full = True

    def release(self) -> None:
        self.full = False


class Stand:
    """A nemesis among five nodes that only pretend."""

    def __init__(self, links: Links) -> None:
        self.links = links
        self.members = Pretended(5)
        self.disk = Disk(Path("nowhere"))
        self.nemesis = Nemesis(self.members, links, self.disk, "n5")

    def act(self, kind: Kind, choice: int = 1) -> bool:
        """Do one thing, to be undone when it is healed."""
        return self.nemesis.act(Action(kind, choice, 3600.0, 0.0))


@pytest.fixture
def stand() -> Iterator[Stand]:
    """Links to where nobody listens."""
    with Links({f"n{number}": f"127.0.0.1:{number}" for number in range(1, 6)}) as links:
        yield Stand(links)


def test_the_seed_decides_the_actions() -> None:
    """The same seed draws the same actions, another one others."""
    first, again, other = (list(itertools.islice(draw(seed), 100)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_actions_are_bounded_and_of_every_kind() -> None:
    """Each kind is drawn before any is drawn twice, and nothing lasts longer than the bounds."""
    actions = list(itertools.islice(draw(3), 20 * len(Kind)))
    for start in range(0, len(actions), len(Kind)):
        assert {action.kind for action in actions[start : start + len(Kind)]} == set(Kind)
    assert all(HOLD_SECONDS[0] <= action.hold_s <= HOLD_SECONDS[1] for action in actions)
    assert all(PAUSE_SECONDS[0] <= action.pause_s <= PAUSE_SECONDS[1] for action in actions)


def test_only_the_kinds_that_are_possible_are_drawn() -> None:
    """What a machine does not allow is left out."""
    kinds = [Kind.DELAY, Kind.STALL]
    assert {action.kind for action in itertools.islice(draw(3, kinds), 50)} == set(kinds)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.TRANSFER])
def test_every_action_does_something_and_is_undone(stand: Stand, kind: Kind) -> None:
    """An action is counted, does something that shows, and `heal` leaves nothing of it."""
    assert stand.act(kind)
    assert stand.nemesis.counts == {kind: 1}
    reset_shows = kind is Kind.RESETS  # there is no connection here to be reset
    assert stand.links.impaired or stand.members.done or stand.disk.full or reset_shows
    stand.nemesis.heal()
    assert stand.links.impaired == []
    assert (stand.members.down, stand.members.paused, stand.members.failing, stand.disk.full) == (set(), set(), set(), False)


@pytest.mark.parametrize("kind", [Kind.KILL_LEADER, Kind.PAUSE_LEADER, Kind.STOP_LEADER])
def test_who_leads_is_found_when_it_happens(stand: Stand, kind: Kind) -> None:
    """An action against the leader hits the node that leads, one against a follower any other."""
    assert stand.act(kind)
    assert stand.members.done == [f"{kind.partition(' ')[0]} n1"]
    assert stand.act(Kind.KILL_FOLLOWER)
    assert stand.members.done[1].split()[1] != "n1"


def test_a_node_that_has_just_begun_may_be_asked_to_stop(stand: Stand) -> None:
    """SIGTERM waits until a process can handle it, so a node is no worse a victim while it starts."""
    stand.members.starting.add("n1")
    assert stand.act(Kind.STOP_LEADER)
    assert stand.members.done == ["stop n1"]


def test_an_isolated_leader_is_cut_off_from_all(stand: Stand) -> None:
    """Nothing passes between the leader and any other, in both directions; between the others everything does."""
    stand.act(Kind.ISOLATE_LEADER)
    assert {pair for pair in stand.links.pairs if "n1" in pair} == set(stand.links.impaired)


@pytest.mark.parametrize("choice", range(20))
def test_a_split_leaves_a_majority_and_a_bridge_joins_the_halves(stand: Stand, choice: int) -> None:
    """In a split some majority has all its links; with a bridge there is one node that reaches all, and others reach some."""
    stand.act(Kind.SPLIT, choice)
    free = set(stand.links.pairs) - set(stand.links.impaired)
    assert any(all(pair in free for pair in itertools.permutations(some, 2)) for some in itertools.combinations(stand.members.names, 3))
    stand.nemesis.heal()
    stand.act(Kind.BRIDGE, choice)
    free = set(stand.links.pairs) - set(stand.links.impaired)
    reach = {name: sum(pair[0] == name for pair in free) for name in stand.members.names}
    assert sorted(reach.values()) == [2, 2, 2, 2, 4]


def test_no_more_than_a_minority_is_without_its_state(stand: Stand) -> None:
    """Of five nodes a third one loses its state only after one of the two before it serves again."""
    for choice in range(50):
        stand.act(Kind.LOSE_STATE, choice)
        stand.nemesis.heal()
        assert len(stand.members.restoring) <= 2
    assert len(stand.members.restoring) == 2
    restored = stand.members.restoring.pop()
    before = set(stand.members.restoring)
    for choice in range(50):
        stand.act(Kind.LOSE_STATE, choice)
        stand.nemesis.heal()
    assert len(stand.members.restoring) == 2
    assert before < stand.members.restoring
    assert restored


def test_one_log_is_rotten_at_a_time(stand: Stand) -> None:
    """Another log, or the same again, rots only after the one before is whole; until then it is told why nothing is done."""
    assert stand.act(Kind.ROT)
    stand.nemesis.heal()
    [name] = stand.members.rotten
    for choice in range(50):
        assert not stand.act(Kind.ROT, choice)
    stand.nemesis.run([Action(Kind.ROT, 1, 0.0, 0.0)], 0.0)
    assert stand.nemesis.skipped == {f"rot log: the log of {name} was not whole again yet": 1}
    stand.members.rotten.clear()
    assert stand.act(Kind.ROT)
    assert stand.nemesis.rotted.total() == stand.nemesis.counts[Kind.ROT] == 2


@pytest.mark.parametrize("choice", range(20))
def test_lost_states_and_rotten_logs_are_a_minority_together(stand: Stand, choice: int) -> None:
    """Of five nodes two may lack something: with one log rotten, one other node may lose its state; with two states lost only a node of
    these may have its log rot."""
    first, then = (Kind.ROT, Kind.LOSE_STATE) if choice % 2 else (Kind.LOSE_STATE, Kind.ROT)
    for kind in (first, then):
        for each in range(50):
            stand.act(kind, choice + each)
            stand.nemesis.heal()
    assert len(stand.members.restoring | stand.members.rotten) == 2
    assert len(stand.members.rotten) == 1


def test_without_a_closed_segment_nothing_rots(stand: Stand) -> None:
    """The node that has one is found among all; when none has, no node is killed for it, and the report says why."""
    stand.members.closed = {"n4"}
    assert stand.act(Kind.ROT)
    assert stand.members.done == ["kill n4", "rot n4"]
    stand.nemesis.heal()
    stand.members.rotten.clear()
    stand.members.closed.clear()
    stand.nemesis.run([Action(Kind.ROT, 1, 0.0, 0.0)], 0.0)
    assert stand.members.done == ["kill n4", "rot n4"]
    assert stand.nemesis.skipped == {"rot log: no node that might had a closed segment with entries that count": 1}
    assert stand.nemesis.in_vain == {Kind.ROT: 1}


def test_nobody_is_ended_on_a_full_disk(stand: Stand) -> None:
    """A node could not start there, so it is spared until there is room, and so are all by the death of all."""
    assert stand.act(Kind.FILL_DISK)
    assert not stand.act(Kind.FILL_DISK)
    assert not stand.act(Kind.KILL_ALL)
    for choice in range(30):
        stand.act(Kind.ROT, choice)
        stand.act(Kind.FAIL_FSYNC, choice)
        stand.act(Kind.KILL_FOLLOWER, choice)
    assert "n5" not in stand.members.down | stand.members.failing | stand.members.rotten


def test_what_finds_no_victim_is_counted_apart(stand: Stand) -> None:
    """When everybody is down already, nothing is done to a leader, and the time that it may be waited for is bounded by the run's."""
    stand.act(Kind.KILL_ALL)
    stand.nemesis.run([Action(Kind.KILL_LEADER, 1, 0.0, 0.0)], 0.0)
    assert stand.nemesis.counts == {Kind.KILL_ALL: 1}
    assert stand.nemesis.in_vain == {Kind.KILL_LEADER: 1}


class Program(NodeSpec, frozen=True, kw_only=True):
    """A process that is no node at all: some lines of Python."""

    code: str = ""

    def command(self, cluster: object) -> list[str]:
        return [sys.executable, "-c", self.code]


def started(directory: Path, code: str) -> Members:
    """A cluster of one process that runs `code`; its output is "ready" when it has got there."""
    [spec] = plan(directory, Ports.free(1))
    program = Program(name="n1", data_dir=spec.data_dir, client=spec.client, peer=spec.peer, admin=spec.admin, code=code)
    members = Members(Nodes([program]))
    members.start("n1")
    return members


def wait_until_ready(members: Members) -> None:
    """The process does what it shall from now on."""
    wait_until("the process", lambda: b"ready" in members.nodes.log_path("n1").read_bytes(), PATIENCE_SECONDS)


ENDS = (
    "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit({})); "
    "from raftkv.server.stop_signals import let_through; let_through(); "
)
WAITS = "import sys; print('ready', flush=True); sys.stdin.read()"


def test_a_process_that_ends_by_itself_is_found(tmp_path: Path) -> None:
    """Nobody ended it, so that is a death, told once, whatever its exit code."""
    members = started(tmp_path, "")
    with members.nodes:
        pid = members.nodes.running["n1"].pid
        wait_until("the end of the process", lambda: "n1" not in members.up, PATIENCE_SECONDS)
        members.look()
    assert members.deaths == [f"n1 (pid {pid}) ended by itself with exit code 0"]


def test_a_process_that_is_ended_is_no_death(tmp_path: Path) -> None:
    """Killed here, also while it is paused, and started again: nothing to tell."""
    members = started(tmp_path, WAITS)
    with members.nodes:
        members.pause("n1")
        assert members.up == []
        members.kill("n1")
        members.look()
        members.resume("n1")
        members.start("n1")
        assert members.up == ["n1"]
    assert members.deaths == []


@pytest.mark.parametrize(
    ("code", "deaths"),
    [
        (ENDS.format(0) + WAITS, []),
        (ENDS.format(3) + WAITS, ["was asked to stop and ended with exit code 3"]),
    ],
)
def test_a_polite_stop_has_to_end_in_order(tmp_path: Path, code: str, deaths: list[str]) -> None:
    """Exit code 0 is what is expected of a node that was asked to stop; any other is a finding."""
    members = started(tmp_path, code)
    with members.nodes:
        wait_until_ready(members)
        members.ask_to_stop("n1")
        assert members.up == []
        wait_until("the stop", lambda: members.has_stopped("n1"), PATIENCE_SECONDS)
    assert [death.partition(") ")[2] for death in members.deaths] == deaths
    assert members.down == {"n1"}


def test_only_a_node_that_is_down_loses_its_state(tmp_path: Path) -> None:
    """The state store goes, the log stays, and a node that runs is not touched."""
    members = started(tmp_path, WAITS)
    for name in ("state", "log"):
        (tmp_path / "n1" / name).mkdir(parents=True)
    with members.nodes:
        with pytest.raises(ValueError, match="n1 is not down"):
            members.lose_state("n1")
        members.kill("n1")
        members.lose_state("n1")
    assert [path.name for path in (tmp_path / "n1").iterdir()] == ["log"]


def test_a_status_of_a_process_before_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of an earlier process of a node says nothing of the one that runs."""
    members = started(tmp_path, WAITS)

    def tell(pid: int) -> None:
        node = NodeStatus("n1", "leader", pid, None, None, None, None, None, None, None)
        monkeypatch.setattr("raftkv_cli.chaos.members.cluster_status", lambda *_, **__: ClusterStatus("c", "n1", 1, [node]))

    with members.nodes:
        pid = members.nodes.running["n1"].pid
        tell(pid)
        assert members.leader() == "n1"
        tell(pid + 1)
        assert members.leader() is None


FSYNCS = "import os, sys; file = open({path!r}, 'w'); print('ready', flush=True)\nwhile True:\n    {what}"
GOES_ON = "try: os.fsync(file.fileno())\n    except OSError: open({path!r} + '.failed', 'w')"


@pytest.fixture
def strace() -> None:
    """The test needs a machine on which fsyncs can be made to fail."""
    problem = failing_fsync.why_not()
    if problem is not None:
        pytest.skip(problem)


@pytest.mark.usefixtures("strace")
def test_a_process_that_ends_because_its_fsync_failed_is_no_death(tmp_path: Path) -> None:
    """An unmodified process is told of EIO, and its end with exit code 1 is what is expected of a node."""
    path = str(tmp_path / "file")
    members = started(tmp_path, FSYNCS.format(path=path, what="os.fsync(file.fileno())"))
    with members.nodes:
        wait_until_ready(members)
        members.fail_fsync("n1")
        assert members.up == []
        wait_until("the end", lambda: members.nodes.running["n1"].exit_code is not None, PATIENCE_SECONDS)
        assert members.has_failed("n1")
    assert "Input/output error" in members.nodes.log_path("n1").read_text()
    assert (members.deaths, members.down) == ([], {"n1"})


@pytest.mark.usefixtures("strace")
def test_a_process_that_goes_on_after_a_failed_fsync_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a node must never do is a finding, and the process is killed."""
    monkeypatch.setattr("raftkv_cli.chaos.members.STOP_SECONDS", 0.2)
    path = str(tmp_path / "file")
    members = started(tmp_path, FSYNCS.format(path=path, what=GOES_ON.format(path=path)))
    with members.nodes:
        wait_until_ready(members)
        members.fail_fsync("n1")
        wait_until("a failed fsync", (tmp_path / "file.failed").exists, PATIENCE_SECONDS)
        wait_until("the verdict", lambda: members.has_failed("n1"), PATIENCE_SECONDS)
        assert members.nodes.running["n1"].exit_code is not None
    [death] = members.deaths
    assert "went on for 0.2 s after an fsync had failed" in death


@pytest.mark.usefixtures("strace")
def test_a_process_that_syncs_nothing_goes_on(tmp_path: Path) -> None:
    """Nothing of it failed, so it is let go and is a victim as any other."""
    members = started(tmp_path, WAITS)
    with members.nodes:
        wait_until_ready(members)
        members.fail_fsync("n1")
        assert members.has_failed("n1")
        assert (members.up, members.deaths) == (["n1"], [])


def test_a_machine_without_strace_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is named, and nothing is tried."""
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert failing_fsync.why_not() == "strace, which would fail the fsyncs of a process, is not installed"
