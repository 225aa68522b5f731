"""The machine against the plainest model of it: a dictionary, a clock, and the rules of each command written out once more."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from raftkv.kv.replies import OK, Failure, Reply
from tests.kv.driver import START_MS, Driver, rows_of

KEYS = st.sampled_from(["a", "b", "c", "d"])
SMALL = st.integers(-3, 6)
MS = st.sampled_from([1, 2, 3, 50, 1000])


class Item(Struct):
    """A value, and when it is due (0: never)."""

    value: str
    due_ms: int = 0


class Expected:
    """The model."""

    def __init__(self) -> None:
        self.now_ms = START_MS
        self.items: dict[str, Item] = {}

    def live(self, key: str) -> Item | None:
        item = self.items.get(key)
        return None if item is None or 0 < item.due_ms < self.now_ms else item

    def set(self, key: str, value: str, condition: str, ms: int, keep: bool) -> Reply:
        old = self.live(key)
        if (condition == "nx" and old) or (condition == "xx" and not old):
            return None
        due_ms = self.now_ms + ms if ms else old.due_ms if keep and old else 0
        self.items[key] = Item(value, due_ms)
        return OK

    def increment(self, key: str, amount: int) -> Reply:
        old = self.live(key) or Item("0")
        try:
            number = int(old.value) + amount
        except ValueError:
            return Failure("ERR", "value is not an integer or out of range")
        self.items[key] = Item(str(number), old.due_ms)
        return number

    def delete(self, keys: list[str]) -> Reply:
        deleted = 0
        for key in keys:
            deleted += self.live(key) is not None
            self.items.pop(key, None)
        return deleted

    def expire(self, key: str, ms: int, condition: str) -> Reply:
        old = self.live(key)
        if old is None:
            return 0
        due_ms = self.now_ms + ms
        before = old.due_ms or 2**63
        allowed = {"": True, "nx": not old.due_ms, "xx": bool(old.due_ms), "gt": due_ms > before, "lt": due_ms < before}
        if not allowed[condition]:
            return 0
        if ms <= 0:
            del self.items[key]
        else:
            old.due_ms = due_ms
        return 1


WRITES = st.one_of(
    st.tuples(st.just("set"), KEYS, st.sampled_from(["1", "x", "7"]), st.sampled_from(["", "nx", "xx"]), st.just(0) | MS, st.booleans()),
    st.tuples(st.just("incrby"), KEYS, SMALL),
    st.tuples(st.just("del"), st.lists(KEYS, min_size=1, max_size=3)),
    st.tuples(st.just("pexpire"), KEYS, SMALL, st.sampled_from(["", "nx", "xx", "gt", "lt"])),
    st.tuples(st.just("flushall")),
)


def request(write: tuple[object, ...]) -> str:
    """The request that a write stands for."""
    match write:
        case ("set", key, value, condition, ms, keep):
            lifetime = f"px {ms}" if ms else "keepttl" if keep else ""
            return f"set {key} {value} {condition} {lifetime}"
        case ("del", list() as keys):
            return "del " + " ".join(map(str, keys))
        case _:
            return " ".join(map(str, write))


def expected_reply(model: Expected, write: tuple[object, ...]) -> Reply:
    """What the model answers."""
    match write:
        case ("set", str(key), str(value), str(condition), int(ms), bool(keep)):
            return model.set(key, value, condition, ms, keep)
        case ("incrby", str(key), int(amount)):
            return model.increment(key, amount)
        case ("del", list() as keys):
            return model.delete([str(key) for key in keys])
        case ("pexpire", str(key), int(ms), str(condition)):
            return model.expire(key, ms, condition)
        case _:
            model.items.clear()
            return OK


@settings(max_examples=120, deadline=None)
@given(entries=st.lists(st.tuples(st.sampled_from([0, 0, 1, 2, 3, 60]), st.lists(WRITES, max_size=5)), max_size=12))
def test_the_machine_is_a_dictionary_with_a_clock(entries: list[tuple[int, list[tuple[object, ...]]]]) -> None:
    """After any writes under any stamps every reply, value, time to live, count and scan is that of the model; when all time has
    passed, no row of a key that expires is left."""
    driver, model = Driver(), Expected()
    for ms, writes in entries:
        driver.now_ms += ms
        model.now_ms += ms
        replies = driver.write(*[request(write) for write in writes]) if writes else driver.groups() and []
        assert replies == [expected_reply(model, write) for write in writes]
        live = {key: item for key in "abcd" if (item := model.live(key)) is not None}
        for key in "abcd":
            item = live.get(key)
            assert driver.read(f"get {key}") == (item and item.value.encode())
            left = -2 if item is None else -1 if not item.due_ms else item.due_ms - model.now_ms
            assert driver.read(f"pttl {key}") == left
        assert driver.read("dbsize") == len(live)
        assert driver.read("exists a b c d a") == len(live) + ("a" in live)
        scanned = driver.read("scan 0 count 100")
        assert isinstance(scanned, list)
        assert isinstance(scanned[1], list)
        assert sorted(key for key in scanned[1] if isinstance(key, bytes)) == sorted(key.encode() for key in live)
    driver.pass_ms(10**6)
    assert {name[9:].decode() for name, _ in rows_of(driver.store) if name.startswith(b"k")} == {
        key for key, item in model.items.items() if not item.due_ms
    }
    assert not [name for name, _ in rows_of(driver.store) if name.startswith(b"x")]
    assert driver.machine.next_expiry_ms is None
