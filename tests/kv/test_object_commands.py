"""OBJECT and MEMORY USAGE of values of every type. What is told of strings is compared with a real redis-server in tests/router."""

from __future__ import annotations

import pytest

from raftkv.kv.keyspace import ELEMENTS_PER_TURN, Changes, Keyspace, TakesLong
from raftkv.kv.object_commands import Inspect, MemoryUsage, Question
from raftkv.kv.replies import CommandError
from raftkv.kv.rows import HASH, LIST, SET, SORTED_SET
from tests.kv.driver import empty_store
from tests.kv.test_collections import fill


def filled(kind: int, count: int) -> Changes:
    """Keys with a collection `c` of so many elements, of 100 bytes each."""
    changes = Changes(empty_store(), 1, 0, 1)
    fill(changes, b"c", {b"%03d" % number: b"v" * 97 for number in range(count)}, kind)
    return changes


@pytest.mark.parametrize(("kind", "name"), [(HASH, b"hashtable"), (LIST, b"quicklist"), (SET, b"hashtable"), (SORTED_SET, b"skiplist")])
def test_collections_have_the_encodings_of_large_ones(kind: int, name: bytes) -> None:
    """Each element of a collection is on its own, as in the encodings that Redis uses for large ones; nobody else refers to it."""
    keys = filled(kind, 3)
    assert Inspect(b"c", Question.ENCODING).read(keys) == name
    assert Inspect(b"c", Question.REFCOUNT).read(keys) == 1
    with pytest.raises(CommandError, match="idle times are not kept"):
        Inspect(b"c", Question.IDLETIME).read(keys)


def test_memory_of_a_collection_is_that_of_its_elements() -> None:
    """A sample of equal elements tells what all of them take; in a sorted set each has two rows."""
    one, ten = (MemoryUsage(b"c").read(filled(HASH, count)) for count in (1, 10))
    assert isinstance(one, int)
    assert isinstance(ten, int)
    element = (ten - one) // 9
    assert element >= 100
    assert ten - one == 9 * element
    assert MemoryUsage(b"c", 0).read(filled(HASH, 10)) == ten
    assert MemoryUsage(b"c").read(filled(SORTED_SET, 5)) == ten
    assert MemoryUsage(b"nothing").read(filled(HASH, 1)) is None


def test_a_sample_of_everything_is_for_another_thread() -> None:
    """To look at all elements of a large collection takes longer than a turn of the event loop may."""
    store = empty_store()
    changes = Changes(store, 1, 0, 1)
    fill(changes, b"c", {b"%d" % number: b"" for number in range(ELEMENTS_PER_TURN + 1)}, SET)
    store.write(changes.rows, changes.ranges)
    keys = Keyspace(store, 0, visits=ELEMENTS_PER_TURN)
    assert MemoryUsage(b"c").read(keys)
    with pytest.raises(TakesLong):
        MemoryUsage(b"c", 0).read(keys)
