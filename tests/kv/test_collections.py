"""Collections: what a batch does to them is what a plain dictionary of dictionaries would come to, and nothing is left of what is gone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.kv.collection import Collection, following
from raftkv.kv.keyspace import ELEMENTS_PER_TURN, FEW_ELEMENTS, Changes, Keyspace, TakesLong
from raftkv.kv.replies import CommandError
from raftkv.kv.rows import COLLECTIONS_ROW, DELETIONS, HASH, SET, STRING, deletion_key
from tests.kv.driver import empty_store

Model = dict[bytes, bytes | dict[bytes, bytes]]

KEYS = [b"a", b"b", b"c"]
NAMES = [b"%d" % number for number in range(5)]


def fill(changes: Changes, key: bytes, elements: dict[bytes, bytes], kind: int = HASH) -> None:
    """Add elements to a collection."""
    collection = changes.open(key, kind)
    for name, value in elements.items():
        row = collection.hashed(name)
        collection.count += changes.row(row) is None
        changes.put_element(collection, row, value)
    changes.save(collection)


def take(changes: Changes, key: bytes, names: Sequence[bytes]) -> None:
    """Remove elements from a collection."""
    collection = changes.open(key, HASH)
    for name in names:
        row = collection.hashed(name)
        if changes.row(row) is not None:
            collection.count -= 1
            changes.put_element(collection, row, None)
    changes.save(collection)


def content(keys: Keyspace, collection: Collection) -> dict[bytes, bytes]:
    """The elements of a collection, and that they are told backwards just as well."""
    found = list(keys.elements(collection.prefix, collection.end))
    assert list(keys.elements(collection.prefix, collection.end, backwards=True)) == found[::-1]
    assert found == sorted(found)
    assert len(found) == collection.count
    return {row.removeprefix(collection.prefix)[8:]: value for row, value in found}


def check(keys: Keyspace, model: Model) -> None:
    """The state is that of the model."""
    for key in KEYS:
        expected = model.get(key)
        if isinstance(expected, dict):
            collection = keys.collection(key, HASH)
            assert collection is not None
            assert content(keys, collection) == expected
        else:
            assert keys.string(key) == expected


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("fill"), st.sampled_from(KEYS), st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=2), min_size=1)),
        st.tuples(st.just("fill many"), st.sampled_from(KEYS), st.integers(FEW_ELEMENTS, FEW_ELEMENTS + 2)),
        st.tuples(st.just("take"), st.sampled_from(KEYS), st.lists(st.sampled_from(NAMES), max_size=5)),
        st.tuples(st.just("set"), st.sampled_from(KEYS), st.binary(max_size=2)),
        st.tuples(st.just("delete"), st.sampled_from(KEYS), st.none()),
        st.tuples(st.just("move"), st.sampled_from(KEYS), st.sampled_from(KEYS)),
        st.tuples(st.just("clear"), st.just(b""), st.none()),
    ),
    max_size=6,
)


def step(changes: Changes, model: Model, what: str, key: bytes, argument: object) -> None:
    """Do one thing to both. What does not fit the type that is there does nothing."""
    value = model.get(key)
    if what in ("fill", "fill many", "take") and isinstance(value, bytes):
        with pytest.raises(CommandError, match="WRONGTYPE"):
            changes.open(key, HASH)
        return
    match what, argument:
        case "fill", dict():
            fill(changes, key, argument)
            model[key] = {**(value or {}), **argument}  # type: ignore[dict-item]  # a dictionary, see above
        case "fill many", int():
            many = {b"many %d" % number: b"" for number in range(argument)}
            fill(changes, key, many)
            model[key] = {**(value or {}), **many}  # type: ignore[dict-item]
        case "take", list():
            take(changes, key, argument)
            left = {name: one for name, one in (value or {}).items() if name not in argument}  # type: ignore[union-attr]
            model[key] = left
            if not left:
                del model[key]
        case "set", bytes():
            changes.put_string(key, argument)
            model[key] = argument
        case "delete", _:
            before = changes.value(key)
            assert (before is None) == (value is None)
            if before is not None:
                changes.delete(key, before)
                del model[key]
        case "move", bytes():
            before = changes.value(key)
            if before is not None and argument != key:
                changes.move(key, argument, before, changes.value(argument))
                model[argument] = model.pop(key)
        case _:
            changes.clear()
            model.clear()


@settings(max_examples=300, deadline=None)
@given(batches=st.lists(st.lists(st.tuples(STEPS, st.booleans()), max_size=3), max_size=4))
def test_batches_do_what_dictionaries_do(batches: list[list[tuple[list[tuple[str, bytes, object]], bool]]]) -> None:
    """Whatever commands do and undo, in one batch and in several, the keys and elements are those of the model; and in the store there is
    no row of an element that is not in a collection."""
    store = empty_store()
    model: Model = {}
    for index, commands in enumerate(batches, 1):
        count = int.from_bytes(store.get(COLLECTIONS_ROW) or b"")
        changes = Changes(store, index, 0, 1, count)
        for steps, fails in commands:
            changes.mark()
            tried = {key: dict(value) if isinstance(value, dict) else value for key, value in model.items()}
            for what, key, argument in steps:
                step(changes, tried, what, key, argument)
            check(changes, tried)
            if fails:
                changes.rollback()
            else:
                model = tried
            check(changes, model)
        store.write(changes.rows, changes.ranges)
        check(Keyspace(store, 0), model)
        made = [value for value in model.values() if isinstance(value, dict)]
        assert store.count(b"e", b"f") == sum(map(len, made))
        assert int.from_bytes(store.get(COLLECTIONS_ROW) or b"") == changes.collections == len(made)


@pytest.mark.parametrize("count", [1, FEW_ELEMENTS + 1])
def test_what_takes_the_place_of_an_expired_collection_takes_that_of_its_elements(count: int) -> None:
    """A collection that has expired and is still in the store leaves nothing behind when a string, or another collection, comes in its
    place."""
    for again in (STRING, HASH):
        store = empty_store()
        changes = Changes(store, 1, 0, 1)
        fill(changes, b"a", {b"%d" % number: b"" for number in range(count)})
        before = changes.value(b"a")
        assert before is not None
        changes.put(b"a", before.type, before.data, 10, before)
        store.write(changes.rows, changes.ranges)
        changes = Changes(store, 2, 11, 1, 1)
        assert changes.collection(b"a", HASH) is None
        if again == HASH:
            fill(changes, b"a", {b"new": b"1"})
        else:
            changes.put_string(b"a", b"")
        store.write(changes.rows, changes.ranges)
        assert store.count(b"e", b"f") == changes.collections == (again == HASH)


def test_the_revision_of_a_key_is_another_one_after_every_change() -> None:
    """Also when the key is gone again, so that a transaction that watches it notices."""
    store = empty_store()
    seen = [Keyspace(store, 0).revision(b"a")]

    def change(index: int, work: str) -> None:
        changes = Changes(store, index, 0, 1, int.from_bytes(store.get(COLLECTIONS_ROW) or b""))
        step(changes, {b"a": {b"1": b""}} if work == "take" else {b"a": b""}, work, b"a", [b"1"] if work == "take" else b"x")
        store.write(changes.rows, changes.ranges)
        seen.append(Keyspace(store, 0).revision(b"a"))

    change(1, "set")
    change(2, "delete")
    changes = Changes(store, 3, 0, 1)
    fill(changes, b"a", {b"1": b""})
    store.write(changes.rows, changes.ranges)
    seen.append(Keyspace(store, 0).revision(b"a"))
    change(4, "take")
    assert Keyspace(store, 0).value(b"a") is None
    assert seen == [-1, 1, -3, 3, -5]
    assert [name for name, _ in store.scan(DELETIONS, b"e")] == [deletion_key(b"a")]


def test_types_are_told_apart() -> None:
    """A set is no hash."""
    changes = Changes(empty_store(), 1, 0, 1)
    fill(changes, b"a", {b"1": b""}, SET)
    with pytest.raises(CommandError, match="WRONGTYPE"):
        changes.open(b"a", HASH)
    with pytest.raises(CommandError, match="WRONGTYPE"):
        changes.string(b"a")


def test_a_read_of_many_elements_is_for_another_thread() -> None:
    """One turn of the event loop visits a bounded number of elements."""
    store = empty_store()
    changes = Changes(store, 1, 0, 1)
    fill(changes, b"a", {b"%d" % number: b"" for number in range(ELEMENTS_PER_TURN + 1)})
    store.write(changes.rows, changes.ranges)
    keys = Keyspace(store, 0, visits=ELEMENTS_PER_TURN)
    collection = keys.collection(b"a", HASH)
    assert collection is not None
    found = keys.elements(collection.prefix, collection.end)
    for _ in range(ELEMENTS_PER_TURN):
        next(found)
    with pytest.raises(TakesLong):
        next(found)


@given(prefix=st.binary(max_size=3))
def test_what_follows_a_prefix_is_behind_all_that_begins_with_it(prefix: bytes) -> None:
    """And nothing else is between them."""
    prefix = b"e" + prefix
    assert prefix + b"\xff" * 9 < following(prefix)
    assert following(prefix)[:-1] == prefix[: len(following(prefix)) - 1]
