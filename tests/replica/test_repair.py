"""Nodes with rotten logs get their entries again from each other, or wait; what nobody has is never dropped."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence

import pytest

from raftkv.codec.peer import EntriesFound, EntriesWant, Lack
from raftkv.errors import Corrupt, DiskFull
from raftkv.raft.types import Entry, EntryId, EntryKind, HardState, SnapshotMeta
from raftkv.repair import ANSWER_BYTES, ASK_AGAIN_MS, LOST_MS, PATIENCE_MS, REPORT_MS, Ending, ReadableLog, Repair, _Member, answer
from raftkv.sim.disk import SimDisk, Survival
from raftkv.storage.damage import ASIDE_PATH
from raftkv.storage.rotten import RottenLog
from raftkv.storage.wal import LogWrite, WalSettings
from tests.storage.log_model import SMALL, Driver, LogModel, entries, entry, observed, same_log
from tests.storage.test_rotten import rot

Groups = Sequence[tuple[Entry, ...]]
FOUR: Groups = (entries(1, 1), entries(2, 2), entries(3, 3), entries(4, 4))
TICK_MS = 100


class Party:
    """The nodes n1, n2, …, each with its log on its disk: in repair if that has rotted, else answering. Background work happens at
    once."""

    def __init__(self, repair_type: type[Repair] = Repair) -> None:
        self._repair_type = repair_type
        self.drivers: dict[str, Driver] = {}
        self.repairs: dict[str, Repair] = {}
        self.endings: dict[str, Ending] = {}
        self.frames: deque[tuple[str, str, object]] = deque()
        self.asked: list[EntriesWant] = []
        self.leader: str | None = None
        self.term = 1
        self.spoil: Callable[[EntriesFound], EntriesFound] = lambda found: found
        self.down: set[str] = set()

    def add(self, name: str, groups: Groups, rotten: Sequence[int] = (), *, term: int = 1, settings: WalSettings = SMALL) -> None:
        """A node whose log was written in `groups`, of which the entries `rotten` have rotted."""
        driver = Driver(SimDisk(random.Random(1)), settings)
        driver.open()
        driver.write(LogWrite(0, HardState(term, None)))
        for number, group in enumerate(groups, 1):
            driver.write(LogWrite(number, None, None, group, 0))
        driver.wal.close()
        driver.disk.crash(Survival.LOST)
        terms = {kept.index: kept.term for kept in driver.acked.entries}
        for index in rotten:
            rot(driver, index, terms[index])
        self.drivers[name] = driver

    def begin(self) -> None:
        """Everybody starts and is connected."""
        for name, driver in self.drivers.items():
            try:
                driver.open()
            except Corrupt:
                log = RottenLog.open(driver.disk, driver.settings)
                others = [other for other in self.drivers if other != name]
                self.repairs[name] = self._repair_type(name, log, others, _now, self._sends(name), self._ends(name, log))
        for name, repair in self.repairs.items():
            for other in self.drivers:
                if other != name and other not in self.down:
                    repair.connected(other)

    def _sends(self, sender: str) -> Callable[[str, object], bool]:
        def send(to: str, frame: object) -> bool:
            if to in self.down:
                return False
            self.frames.append((sender, to, frame))
            if isinstance(frame, EntriesWant):
                self.asked.append(frame)
            return True

        return send

    def _ends(self, name: str, log: RottenLog) -> Callable[[Ending], None]:
        def ended(ending: Ending) -> None:
            self.endings[name] = ending
            log.close()
            self.drivers[name].open()

        return ended

    def deliver(self) -> None:
        while self.frames:
            sender, to, frame = self.frames.popleft()
            if isinstance(frame, EntriesFound):
                frame = self.spoil(frame)
            if to in self.repairs and to not in self.endings:
                self.repairs[to].received(sender, frame)
            elif isinstance(frame, EntriesWant):
                found = answer(self.drivers[to].wal, frame, leads=self.leader == to, term=self.term)
                self.frames.append((to, sender, found))

    def run(self, time_ms: int = 2 * PATIENCE_MS) -> None:
        """Let that much time pass."""
        for _ in range(time_ms // TICK_MS):
            for name, repair in self.repairs.items():
                if name not in self.endings:
                    repair.tick(TICK_MS)
            self.deliver()

    def log(self, name: str) -> LogModel:
        return observed(self.drivers[name].wal)


def _now(work: Callable[[], object], done: Callable[[object], None]) -> None:
    try:
        result = work()
    except Exception as error:  # as the shell does: `done` decides
        done(error)
    else:
        done(result)


def party(*rotten: Sequence[int], groups: Groups = FOUR) -> Party:
    """Nodes with the same log, of which each has rotten entries of its own."""
    made = Party()
    for number, which in enumerate(rotten, 1):
        made.add(f"n{number}", groups, which)
    made.begin()
    return made


def test_rotten_entries_come_from_whoever_has_them() -> None:
    """Each entry is intact on another node only, and two of the three nodes are in repair themselves."""
    made = party([1, 2], [3], [2, 4])
    made.run(500)
    assert made.endings == dict.fromkeys(made.drivers, Ending.MENDED)
    assert all(same_log(made.log(name), made.drivers[name].acked) for name in made.drivers)
    assert all(made.drivers[name].wal.suspect is None for name in made.drivers)


def test_an_entry_that_is_intact_nowhere_is_waited_for() -> None:
    """All who need it wait, whatever they have otherwise, and change nothing of what is intact."""
    made = party([1, 3], [3], [3])
    before = made.drivers["n2"].disk.files()
    made.run(20 * PATIENCE_MS)
    assert made.endings == {}
    assert made.drivers["n2"].disk.files() == before
    assert "n1 has them rotten, too, n3 has them rotten, too" in made.repairs["n2"].describe()
    assert "entry 3 (term 1)" in made.repairs["n2"].describe()
    assert "The way back" in made.repairs["n2"].describe()
    assert made.repairs["n1"].missing == 1


def test_uncommitted_entries_are_given_like_all_others() -> None:
    """The only other copy of an entry is at a node that may never have heard that it is committed, and does not lead."""
    made = Party()
    made.add("n1", FOUR, [4])
    made.add("n2", FOUR[:2])
    made.add("n3", FOUR)
    made.begin()
    made.run(500)
    assert made.endings == {"n1": Ending.MENDED}


def test_another_entry_of_the_same_index_is_not_taken() -> None:
    """A log in which the index has another term holds another entry, and says so."""
    made = Party()
    made.add("n1", FOUR, [4], term=2)
    made.add("n2", (*FOUR[:3], entries(4, 4, 2)), term=2)
    made.begin()
    made.run()
    assert made.endings == {}
    assert "n2 does not hold them" in made.repairs["n1"].describe()


def test_entries_whose_terms_are_not_known_come_from_a_log_that_holds_the_anchor() -> None:
    """Headers and payloads are gone; another node's log holds the last entry of the group, so it holds the others. One that does not
    hold it is not believed."""
    groups = (entries(1, 1), (entry(2, 1), entry(3, 2), entry(4, 3)), entries(5, 5, 3))
    made = Party()
    made.add("n1", groups, term=3)
    made.add("n2", groups, term=3)
    made.add("n3", (entries(1, 3), entries(4, 4, 2)), term=3)
    content = made.drivers["n1"].disk.content("wal/000000000001.log")
    at = content.index(b"2/1 2/1") - 32
    made.drivers["n1"].disk.overwrite("wal/000000000001.log", at, random.Random(1).randbytes(144))
    made.down = {"n2"}
    made.begin()
    made.run()
    assert made.endings == {}
    assert "n3 does not hold them" in made.repairs["n1"].describe()
    made.down = set()
    made.repairs["n1"].connected("n2")
    made.run(500)
    assert made.endings == {"n1": Ending.MENDED}
    assert same_log(made.log("n1"), made.drivers["n1"].acked)


def test_a_node_that_sends_something_else_is_not_believed() -> None:
    """What contradicts a sound header, or the checksum of the group, is not written, and is asked for again."""
    made = Party()
    made.add("n1", FOUR)
    made.add("n2", FOUR)
    content = made.drivers["n1"].disk.content("wal/000000000001.log")
    made.drivers["n1"].disk.flip("wal/000000000001.log", content.index(b"2/1 2/1") - 10)  # in a header
    made.drivers["n1"].disk.flip("wal/000000000001.log", content.index(b"3/1 3/1"))  # in a payload
    honest = made.spoil

    def lie(found: EntriesFound) -> EntriesFound:
        lies = [Entry(entry.index, entry.term, entry.kind, entry.payload[:-1] + b"!") for entry in found.entries]
        return EntriesFound(found.id, tuple(lies), Lack.NONE, False, 1)

    made.spoil = lie
    made.begin()
    before = made.drivers["n1"].disk.files()
    made.run()
    assert made.endings == {}
    assert made.drivers["n1"].disk.files() == before
    made.spoil = honest
    made.run()
    assert made.endings == {"n1": Ending.MENDED}
    assert same_log(made.log("n1"), made.drivers["n1"].acked)


def test_many_entries_and_large_ones_come_in_many_answers() -> None:
    """A question names a bounded number of entries, and an answer holds a bounded number of bytes, but at least one entry."""
    settings = WalSettings(segment_bytes=1 << 22)
    large = tuple(entry(index, size=ANSWER_BYTES * 2 // 3) for index in range(1, 4))
    groups = (large, entries(4, 703), entries(704, 704))
    made = Party()
    for name in ("n1", "n2"):
        made.add(name, groups, settings=settings)
    content = made.drivers["n1"].disk.content("wal/000000000001.log")
    for kept in made.drivers["n1"].acked.entries[:-1]:
        made.drivers["n1"].disk.flip("wal/000000000001.log", content.index(kept.payload[:12]) + 1)
    made.begin()
    assert made.repairs["n1"].missing == 703
    made.run(1_000)
    assert made.endings == {"n1": Ending.MENDED}
    assert same_log(made.log("n1"), made.drivers["n1"].acked)
    assert len(made.asked) == 3 + 3


def test_what_gets_lost_is_asked_for_again() -> None:
    """An answer that does not come, and a member that was not there at first."""
    made = Party()
    made.add("n1", FOUR, [2])
    made.add("n2", FOUR)
    made.down = {"n2"}
    made.begin()
    made.run(1_000)
    assert made.asked == []
    assert "n2 is not connected" in made.repairs["n1"].describe()
    made.down = set()
    made.repairs["n1"].connected("n2")
    made.frames.clear()
    made.run(LOST_MS - TICK_MS)
    assert len(made.asked) == 1
    made.run(2 * TICK_MS)
    assert made.endings == {"n1": Ending.MENDED}


def test_who_has_nothing_is_asked_again_at_a_bearable_rate() -> None:
    """Once a second, and the log says once in a while that the node waits."""
    made = party([2], [2])
    made.run(10 * ASK_AGAIN_MS)
    assert 16 <= len(made.asked) <= 24


def compacted(made: Party, name: str, index: int) -> None:
    """Let the log of a healthy node begin after `index`."""
    made.drivers[name].wal.compact(SnapshotMeta(index, made.drivers[name].acked.term_at(index) or 0))


def test_what_only_the_leaders_state_holds_is_left_to_the_leader() -> None:
    """Everybody has compacted the entry away. The node ends its log before it, suspect up to its old end."""
    made = party([2], [], [])
    for name in ("n2", "n3"):
        compacted(made, name, 3)
    made.leader = "n3"
    made.run(4 * TICK_MS)
    assert made.endings == {"n1": Ending.GIVEN_UP}
    assert made.log("n1").entries == list(entries(1, 1))
    assert made.drivers["n1"].wal.suspect == 4


def test_a_member_that_is_away_is_waited_for_a_while() -> None:
    """It may have what the leader has not; but the leader is enough in the end."""
    made = party([2], [], [])
    made.repairs["n1"].disconnected("n2")
    for name in ("n2", "n3"):
        compacted(made, name, 3)
    made.leader = "n3"
    made.run(PATIENCE_MS - 2 * TICK_MS)
    assert made.endings == {}
    assert "n3 has forgotten them, its state holds them, and leads" in made.repairs["n1"].describe()
    made.run(4 * TICK_MS)
    assert made.endings == {"n1": Ending.GIVEN_UP}
    assert made.log("n1").entries == list(entries(1, 1))
    assert made.drivers["n1"].wal.suspect == 4


def test_what_the_leader_never_had_is_left_to_the_leader() -> None:
    """An entry that no other node holds, and that a leader of a later term has not, was never committed."""
    made = Party()
    made.add("n1", FOUR, [4])
    made.add("n2", (*FOUR[:3], entries(4, 4, 2)), term=2)
    made.begin()
    made.leader, made.term = "n2", 2
    made.run()
    assert made.endings == {"n1": Ending.GIVEN_UP}
    assert made.drivers["n1"].wal.suspect == 4


def check_without_leader(repair_type: type[Repair], *, compact: bool) -> None:
    """Members that follow nobody may lack what is committed."""
    made = Party(repair_type)
    made.add("n1", FOUR, [2, 4])
    made.add("n2", FOUR[:3])
    made.add("n3", FOUR[:3])
    made.begin()
    if compact:
        for name in ("n2", "n3"):
            compacted(made, name, 3)
    made.run(20 * PATIENCE_MS)
    assert made.endings == {}
    assert made.repairs["n1"].missing == (2 if compact else 1)


@pytest.mark.parametrize("compact", [False, True])
def test_without_a_leader_nothing_is_given_up(compact: bool) -> None:
    """Who knows no leader does not know what is committed, so nobody is relieved by him."""
    check_without_leader(Repair, compact=compact)


def check_term(repair_type: type[Repair]) -> None:
    """A leader of an earlier term is not believed."""
    made = Party(repair_type)
    made.add("n1", (*FOUR[:3], entries(4, 4, 5)), [4], term=5)
    made.add("n2", FOUR[:3])
    made.begin()
    made.leader, made.term = "n2", 4
    made.run(20 * PATIENCE_MS)
    assert made.endings == {}
    made.term = 5
    made.run()
    assert made.endings == {"n1": Ending.GIVEN_UP}


def test_the_leader_of_an_earlier_term_relieves_nobody() -> None:
    """A leader that was deposed may lack what this node has acknowledged to a later one."""
    check_term(Repair)


def test_a_leader_that_is_gone_relieves_nobody() -> None:
    """What a member said counts only while it is connected and answers."""
    made = party([2], [], [])
    made.repairs["n1"].disconnected("n3")
    compacted(made, "n2", 3)
    made.leader = "n2"
    made.run(PATIENCE_MS - 10 * TICK_MS)
    made.repairs["n1"].disconnected("n2")
    made.run(4 * PATIENCE_MS)
    assert made.endings == {}


def test_a_leader_that_gives_some_is_waited_for() -> None:
    """As long as entries arrive nothing is given up, and what has arrived is written."""
    made = Party()
    made.add("n1", FOUR, [2, 3, 4])
    made.add("n2", FOUR)
    made.add("n3", FOUR)
    made.down = {"n3"}
    made.begin()
    compacted(made, "n2", 2)
    made.leader = "n2"
    made.run(PATIENCE_MS - TICK_MS)
    assert made.repairs["n1"].missing == 1
    assert made.endings == {}


def test_a_leader_is_asked_for_everything_before_anything_is_given_up() -> None:
    """It has forgotten one entry, which another member has given before it answers, and holds the next, which nobody else does."""
    made = Party()
    made.add("n1", FOUR, [2, 4])
    made.add("n2", FOUR[:3])
    made.add("n3", FOUR)
    made.begin()
    compacted(made, "n3", 3)
    made.leader = "n3"
    made.run()
    assert made.endings == {"n1": Ending.MENDED}


def test_a_full_disk_is_waited_for() -> None:
    """Giving up needs a little space; without it nothing has happened, and it is tried again."""
    made = party([2], [])
    compacted(made, "n2", 3)
    made.leader = "n2"
    disk = made.drivers["n1"].disk
    disk.capacity_bytes = sum(map(len, disk.files().values()))
    before = disk.files()
    made.run(2 * PATIENCE_MS)
    assert made.endings == {}
    assert disk.files() == before
    disk.capacity_bytes = None
    made.run(2 * PATIENCE_MS)
    assert made.endings == {"n1": Ending.GIVEN_UP}


def test_a_damaged_state_that_was_set_aside_makes_room_for_giving_up() -> None:
    """It is only kept, and no reason to wait for space."""
    made = party([2], [])
    compacted(made, "n2", 3)
    made.leader = "n2"
    disk = made.drivers["n1"].disk
    disk.put(f"{ASIDE_PATH}/gen-00000001/ROWS", bytes(1_000_000))
    disk.capacity_bytes = sum(map(len, disk.files().values()))
    made.run()
    assert made.endings == {"n1": Ending.GIVEN_UP}
    assert not disk.exists(ASIDE_PATH)


def test_an_open_log_that_has_rotted_stops_its_node_when_it_is_asked() -> None:
    """A node that finds rot while it runs must not go on: it gets its entries again at its next start."""
    made = party([2], [])
    disk = made.drivers["n2"].disk
    path = "wal/000000000001.log"
    disk.flip(path, disk.content(path).index(b"2/1 2/1"))
    with pytest.raises(Corrupt, match="entry 2"):
        made.run(500)


Want = tuple[EntryId, tuple[EntryId, ...]]
NAMED: list[tuple[Want, list[int], Lack]] = [
    ((EntryId(9, 1), (EntryId(3, 1), EntryId(4, 1))), [3, 4], Lack.NONE),
    ((EntryId(4, 1), (EntryId(3, 0), EntryId(4, 0))), [3, 4], Lack.NONE),
    ((EntryId(4, 1), (EntryId(5, 0),)), [], Lack.NOT_HELD),
    ((EntryId(4, 2), (EntryId(3, 0),)), [], Lack.NOT_HELD),
    ((EntryId(4, 0), (EntryId(3, 0),)), [], Lack.NOT_HELD),
    ((EntryId(9, 1), (EntryId(4, 2), EntryId(9, 1))), [], Lack.NOT_HELD),
    ((EntryId(4, 1), (EntryId(1, 1), EntryId(2, 1), EntryId(3, 1))), [3], Lack.FORGOTTEN),
    ((EntryId(4, 1), (EntryId(-7, 1), EntryId(0, 0), EntryId(1 << 70, 0))), [], Lack.FORGOTTEN),
    ((EntryId(4, 1), ()), [], Lack.NONE),
]


def check_named(answers: Callable[..., EntriesFound], want: Want, indices: list[int], lack: Lack) -> None:
    """By index and term, or by index in a log that holds the anchor, and nothing else; the answer says what is lacking."""
    driver = Driver(SimDisk(random.Random(1)))
    wal = driver.open()
    driver.write(LogWrite(1, None, None, entries(1, 5), 5))
    driver.compact(2)
    found = answers(wal, EntriesWant(8, *want), leads=True, term=6)
    assert [entry.index for entry in found.entries] == indices
    assert all(entry.kind is EntryKind.BATCH for entry in found.entries)
    assert (found.id, found.lack, found.leads, found.term) == (8, lack, True, 6)


@pytest.mark.parametrize(("want", "indices", "lack"), NAMED)
def test_an_open_log_gives_what_it_holds_by_name(want: Want, indices: list[int], lack: Lack) -> None:
    """An entry of the same index and another term is another entry."""
    check_named(answer, want, indices, lack)


def test_planted_an_answer_by_index_alone() -> None:
    """Whoever gives what stands at an index, whatever its term or the anchor, gives other entries than were asked for."""

    def by_index(log: ReadableLog, want: EntriesWant, *, leads: bool, term: int) -> EntriesFound:
        names = tuple([EntryId(wanted.index, log.term_at(wanted.index) or 0) for wanted in want.entries])
        return answer(log, EntriesWant(want.id, want.anchor, names), leads=leads, term=term)

    caught = 0
    for row in NAMED:
        try:
            check_named(by_index, *row)
        except AssertionError:
            caught += 1
    assert caught >= 3


def test_planted_a_leader_of_any_term_is_believed() -> None:
    """A node relieved by a leader that was deposed forgets what it acknowledged to the next one."""

    class Trusting(Repair):
        def _relieves(self, member: _Member) -> bool:
            return member.said is not None and member.said.leads

    with pytest.raises(AssertionError):
        check_term(Trusting)


@pytest.mark.parametrize("compact", [False, True])
def test_planted_what_nobody_has_is_dropped(compact: bool) -> None:
    """A node that gives up what nobody gave, though nobody leads, may drop what is committed."""

    class Impatient(Repair):
        def _relieves(self, member: _Member) -> bool:
            return member.said is not None

    with pytest.raises(AssertionError):
        check_without_leader(Impatient, compact=compact)


def test_a_repair_that_waits_says_so_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    """Once at the beginning, then at a bearable rate, with the entry and what each member said."""
    made = party([2], [2])
    capsys.readouterr()
    made.run(3 * REPORT_MS)
    told = [line for line in capsys.readouterr().out.splitlines() if "log_repair_waits" in line]
    assert len(told) == 2 * 3
    assert "entry 2 (term 1)" in told[0]


def test_a_disk_that_fails_stops_the_node() -> None:
    """An error of the disk while entries are written again is not hidden."""
    made = party([2], [])
    made.drivers["n1"].disk.capacity_bytes = 0
    made.drivers["n1"].disk.fail_at(made.drivers["n1"].disk.operations + 1, DiskFull("no space"))
    with pytest.raises(DiskFull):
        made.run(500)
