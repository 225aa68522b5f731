"""What a command sees of the state: keys with values, under the clock of the log.

`Keyspace` reads. `Changes` also writes: it collects what a batch of commands does, as rows, so that all of it goes to the store in
one atomic write. Each command is a savepoint: `rollback` undoes what was done since `mark`.

What always holds: a value whose expiry has passed by the log's clock is not there, whether or not its row has been deleted yet. The
rows of `Changes` depend on the commands and the rows before them only, also in their order, because a digest is taken over them.

A hash, list, set or sorted set is a `Collection`, and each of its elements a row of its own, which only the commands of its type
understand. What is made the value of a key takes the place of whatever was there, also of a collection and its elements, whether or not
it had expired.

No command touches the rows of keys itself, and nothing here knows a command.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NoReturn, cast

from xxhash import xxh3_64_digest

from raftkv.kv.budget import Budget
from raftkv.kv.collection import PREFIX_BYTES, Collection, decode_collection, number_of
from raftkv.kv.edges import Edges, Ends
from raftkv.kv.replies import fail
from raftkv.kv.rows import (
    CLEARED_ROW,
    COLLECTIONS_ROW,
    DELETIONS,
    ELEMENTS,
    ELEMENTS_END,
    EXPIRIES,
    EXPIRIES_END,
    HEADER,
    HEADER_BYTES,
    SORTED_SET,
    STRING,
    TYPE_NAMES,
    VALUES,
    VALUES_END,
    Value,
    cut_off,
    decode_expiry_key,
    decode_header,
    decode_value,
    deletion_key,
    expiry_key,
    header,
    value_key,
    value_start,
)
from raftkv.kv.store import Rows, Writes

WRONG_TYPE: Final = "Operation against a key holding the wrong kind of value"

ELEMENTS_PER_TURN: Final = 2_000
"""So many elements a read may visit on the event loop."""

ELEMENTS_PER_ENTRY: Final = 100_000
"""So many elements may the commands of one entry visit: some tenths of a second of work, and an election begins after a second."""

_STEP_SHIFT: Final = 9
"""An element counts once more for each 512 bytes of it."""

FEW_ELEMENTS: Final = 64
"""Up to so many elements are deleted one by one, rather than as a range, which each later read has to skip for a while."""

_FEW_NAMES: Final = 16
"""Up to so many names are put among sorted ones one by one."""

_CLEARED: Final = (VALUES, ELEMENTS, EXPIRIES)
"""The rows that go away with all keys."""


class TakesLong(Exception):
    """A read visits more elements than one turn of the event loop allows: it is for a view in another thread."""


class _Missing:
    """Says that a row is not among the changes, which None (deleted) does not."""


_MISSING: Final = _Missing()


class Values:
    """The values of keys, under the clock of the log.

    Args:
        rows: the rows of the store.
        clock_ms: the log's clock, which decides what has expired.
    """

    def __init__(self, rows: Rows, clock_ms: int) -> None:
        self._rows = rows
        self.clock_ms = clock_ms

    def row(self, name: bytes) -> bytes | None:
        """The value of a row."""
        return self._rows.get(name)

    def elements(self, start: bytes, end: bytes, *, backwards: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """The rows start <= row < end of elements of one collection, in order, or backwards from the last one."""
        return self._rows.scan(start, end, backwards=backwards)

    def collection(self, key: bytes, kind: int) -> Collection | None:
        """The collection of type `kind` at `key`, or None.

        Raises:
            CommandError: WRONGTYPE.
        """
        value = self.value(key)
        if value is None:
            return None
        if value.type != kind:
            fail(WRONG_TYPE, "WRONGTYPE")
        return decode_collection(key, value)

    def revision(self, key: bytes) -> int:
        """A number that is another one after every change of `key`: the entry that wrote its value; or when it has none, one less than
        zero, that tells when it or another key of its bucket was deleted last, or all were.

        A value that expires was deleted by the entry that wrote it, as it were: so the number is the same before and after its row
        goes away, and a key that came and expired is not taken for one that was never there.
        """
        row = self.row(value_key(key))
        gone = max(self._number(deletion_key(key)), self._number(CLEARED_ROW))
        if row is None:
            return -1 - gone
        _, _, revision, expiry_ms = HEADER.unpack_from(row)
        return -1 - max(gone, revision) if 0 < expiry_ms < self.clock_ms else int(revision)

    def _number(self, name: bytes) -> int:
        row = self.row(name)
        return 0 if row is None else int.from_bytes(row)

    def value(self, key: bytes) -> Value | None:
        """The value of `key`, whatever its type, or None."""
        row = self.row(value_key(key))
        if row is None:
            return None
        value = decode_value(row)
        return None if 0 < value.expiry_ms < self.clock_ms else value

    def string(self, key: bytes) -> bytes | None:
        """The string at `key`, or None.

        Raises:
            CommandError: WRONGTYPE.
        """
        row = self.row(VALUES + xxh3_64_digest(key) + key)
        if row is None:
            return None
        if len(row) < HEADER_BYTES:
            cut_off(row)
        kind, _, _, expiry_ms = HEADER.unpack_from(row)
        if 0 < expiry_ms < self.clock_ms:
            return None
        if kind != STRING:
            fail(WRONG_TYPE, "WRONGTYPE")
        return row[HEADER_BYTES:]


class Keyspace(Values):
    """The keys at one moment, for reading.

    Args:
        rows: the rows of the store.
        clock_ms: the log's clock, which decides what has expired.
        now_ms: the time to tell a client how long a key has left; the later of it and `clock_ms` is used. It decides nothing.
        visits: how many elements may be visited before `TakesLong` is raised; None for as many as there are.
    """

    def __init__(self, rows: Rows, clock_ms: int, now_ms: int = 0, visits: int | None = None) -> None:
        super().__init__(rows, clock_ms)
        self.now_ms = max(clock_ms, now_ms)
        self._visits = visits

    def elements(self, start: bytes, end: bytes, *, backwards: bool = False) -> Iterator[tuple[bytes, bytes]]:
        found = super().elements(start, end, backwards=backwards)
        return found if self._visits is None else self._counted(found)

    def visit(self, size: int = 0) -> None:
        """Another element, of so many bytes, is visited: what goes through elements by their names says so here.

        Raises:
            TakesLong: these are too many.
        """
        if self._visits is not None:
            steps = 1 + (size >> _STEP_SHIFT)
            if self._visits < steps:
                self._refuse()
            self._visits -= steps

    def _counted(self, found: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for row in found:
            self.visit(len(row[0]) + len(row[1]))
            yield row

    def _refuse(self) -> NoReturn:
        raise TakesLong

    def count(self) -> int:
        """How many keys there are. Visits every row, without its value."""
        rows = self._rows
        count = rows.count(VALUES, VALUES_END)
        for row, _ in rows.scan(EXPIRIES, expiry_key(self.clock_ms, b"")):
            due_ms, key = decode_expiry_key(row)
            value = rows.get(value_key(key))
            if value is not None and decode_header(value)[1] == due_ms:
                count -= 1
        return count

    def scan(self, hashed: int) -> Iterator[tuple[bytes, bytes]]:
        """Value rows in the order of the hash of their key, from hash `hashed`, also those that have expired."""
        return self._rows.scan(value_start(hashed), VALUES_END)


class Changes(Keyspace):
    """The keys as a batch changes them. There is no counting and no scanning: no entry of the log may cost a visit of every key.

    Args:
        rows: the rows of the store before the batch.
        index: the index of the entry, which becomes the revision of what it writes.
        clock_ms: the log's clock for this batch.
        version: the version of the machine's rules to follow.
        collections: how many collections there are.
        ends: what `kv.edges` remembers of those before.
    """

    def __init__(
        self, rows: Rows, index: int, clock_ms: int, version: int, collections: int = 0, ends: dict[bytes, Ends] | None = None
    ) -> None:
        super().__init__(rows, clock_ms, visits=ELEMENTS_PER_ENTRY)
        self.index = index
        self.version = version
        self.rows: Writes = {}
        self.faults: list[Exception] = []
        """Commands that failed for a reason that is a bug here."""
        self.cleared = False
        self.first_due_ms: int | None = None
        self.budget = Budget()
        self._collections = collections
        self._made = 0
        """Collections that this batch has made."""
        self._dropped: list[tuple[bytes, bytes]] = []
        """Ranges of elements that go away."""
        self._cut: set[bytes] = set()
        """The prefixes of the collections that had such a range: its rows are still found, so what is left is not gone through."""
        self._names: dict[bytes, list[bytes]] = {}
        """The rows of elements that this batch has touched, in order, by the prefix of their collection."""
        self._unsorted: dict[bytes, list[bytes]] = {}
        """Those of them that have yet to be put among the others."""
        self._undo: list[tuple[bytes, bytes | None] | Callable[[], None]] = []
        self._mark = 0
        self.pushed: dict[bytes, None] = {}
        """Keys of collections that have gained elements, or were moved to, in order: what blocked clients may wait for. It is not undone,
        so that the element may be gone, or never have been there."""
        self._plain_header = header(STRING, index, 0)
        self.edges = Edges(ends or {})

    def row(self, name: bytes) -> bytes | None:
        """The value of a row, as changed so far."""
        changed = self.rows.get(name, _MISSING)
        if changed is not _MISSING:
            return cast("bytes | None", changed)
        return None if self.cleared and name[:1] in _CLEARED else self._rows.get(name)

    def value(self, key: bytes) -> Value | None:
        """As changed so far.

        Raises:
            CommandError: the commands of this entry have read too much of long values.
        """
        self.budget.look(key)
        value = super().value(key)
        if value is not None:
            self.budget.read(key, len(value.data))
        return value

    def string(self, key: bytes) -> bytes | None:
        """As changed so far.

        Raises:
            CommandError: WRONGTYPE; or as `value`.
        """
        self.budget.look(key)
        data = super().string(key)
        if data is not None:
            self.budget.read(key, len(data))
        return data

    def count(self) -> int:
        return fail("the number of keys cannot be told inside of a transaction")

    def scan(self, hashed: int) -> Iterator[tuple[bytes, bytes]]:
        return fail("the keys cannot be visited inside of a transaction")

    # Values of keys.

    def put_string(self, key: bytes, data: bytes) -> None:
        """Make `data` the value of `key`, for ever, whatever was there. Unless there are collections it reads nothing, and calls nothing
        of ours: it is hot."""
        name = VALUES + xxh3_64_digest(key) + key
        rows = self.rows
        if self._collections:
            self._displace(name)
        if name in rows:
            self._undo.append((name, rows[name]))
        rows[name] = self._plain_header + data

    def put(self, key: bytes, kind: int, data: bytes, expiry_ms: int, before: Value | None) -> None:
        """Make `data` of type `kind` the value of `key` until `expiry_ms` (0: for ever). `before` is its value until now. A collection
        that is there stays when it is what is put."""
        name = value_key(key)
        if self._collections:
            self._displace(name, None if kind == STRING else data)
        self.put_row(name, header(kind, self.index, expiry_ms) + data)
        due_before_ms = 0 if before is None else before.expiry_ms
        if due_before_ms == expiry_ms:
            return
        if due_before_ms:
            self.put_row(expiry_key(due_before_ms, key), None)
        if expiry_ms:
            self.put_row(expiry_key(expiry_ms, key), b"")
            if self.first_due_ms is None or expiry_ms < self.first_due_ms:
                self.first_due_ms = expiry_ms

    def put_anew(self, key: bytes, kind: int, data: bytes, expiry_ms: int, before: Value | None) -> None:
        """As `put`, for `data` that was there already, or was made of what was, so that a short command may write a long value.

        Raises:
            CommandError: the commands of this entry have written too much so.
        """
        self.budget.write(key, len(data))
        self.put(key, kind, data, expiry_ms, before)

    def delete(self, key: bytes, before: Value) -> None:
        """Delete `key`, whose value until now is `before`."""
        self.delete_row(value_key(key))
        self.put_row(deletion_key(key), self.index.to_bytes(8))
        if before.expiry_ms:
            self.put_row(expiry_key(before.expiry_ms, key), None)

    def delete_row(self, name: bytes) -> None:
        """Delete the value row `name`, which need not be that of a live key, and what belongs to it."""
        if self._collections:
            self._displace(name)
        self.put_row(name, None)

    def expire(self, key: bytes, row: bytes) -> None:
        """Delete the value row of `key`, which is `row` and has expired. For `revision` nothing changes."""
        _, _, revision, _ = HEADER.unpack_from(row)
        self.delete_row(value_key(key))
        name = deletion_key(key)
        if revision > self._number(name):
            self.put_row(name, int(revision).to_bytes(8))

    def move(self, key: bytes, to: bytes, before: Value, displaced: Value | None) -> None:
        """Make the value `before` of `key` that of `to`, where `displaced` was, with its expiry. Costs the same for every size."""
        name = value_key(key)
        self.put_row(name, None)
        self.put_row(deletion_key(key), self.index.to_bytes(8))
        if before.expiry_ms:
            self.put_row(expiry_key(before.expiry_ms, key), None)
        self.put_anew(to, before.type, before.data, before.expiry_ms, displaced)
        if before.type != STRING:
            self.pushed[to] = None

    def copy(self, to: bytes, before: Value, displaced: Value | None) -> None:
        """Make a copy of the value `before` of another key that of `to`, where `displaced` was, with its expiry.

        Raises:
            CommandError: it is no string. The elements of a collection would have to be visited.
        """
        if before.type != STRING:
            fail(f"COPY takes strings only, and this is a {TYPE_NAMES[before.type]}")
        self.put_anew(to, before.type, before.data, before.expiry_ms, displaced)

    def clear(self) -> None:
        """Delete every key, at the same cost for one and for a million."""
        before = self.rows, self.cleared, self._collections, self._dropped
        empty = self._is_empty()

        def undo() -> None:
            self.rows, self.cleared, self._collections, self._dropped = before

        self._undo.append(undo)
        self.rows = {name: row for name, row in self.rows.items() if name.startswith(DELETIONS) or name == CLEARED_ROW}
        self._dropped = []
        self.cleared = True
        self._count(-self._collections)
        if not empty:
            self.put_row(CLEARED_ROW, self.index.to_bytes(8))

    def _is_empty(self) -> bool:
        """Whether there is no value row. It may say no where only this batch has deleted the last one."""
        changed = any(row is not None and name.startswith(VALUES) for name, row in self.rows.items())
        return not changed and (self.cleared or next(self._rows.scan(VALUES, VALUES_END, limit=1), None) is None)

    # Collections.

    def open(self, key: bytes, kind: int) -> Collection:
        """The collection of type `kind` at `key`, or a new one, which is there when it has elements and has been saved.

        Raises:
            CommandError: WRONGTYPE.
        """
        found = self.collection(key, kind)
        if found is not None:
            return found
        self._made += 1
        return Collection(key, kind, number_of(self.index, self._made), 0, 0, 0)

    def save(self, collection: Collection) -> None:
        """Keep what was done to a collection: its key is written, or deleted with the last element."""
        key = collection.key
        before = self.value(key)
        if collection.count:
            if before is None:
                self._count(1)
            self.put(key, collection.kind, collection.encode(), collection.expiry_ms, before)
        elif before is not None:
            self._count(-1)
            self.put_row(value_key(key), None)
            self.put_row(deletion_key(key), self.index.to_bytes(8))
            if before.expiry_ms:
                self.put_row(expiry_key(before.expiry_ms, key), None)

    def put_element(self, collection: Collection, name: bytes, value: bytes | None) -> None:
        """Change the row `name` of an element of `collection`; None deletes it."""
        if name not in self.rows:
            self._unsorted.setdefault(collection.prefix, []).append(name)
        self.put_row(name, value)
        if value is not None and collection.kind == SORTED_SET:
            self._remember(self.edges.added(name))

    def _remember(self, undo: Callable[[], None] | None) -> None:
        if undo is not None:
            self._undo.append(undo)

    def put_elements(self, collection: Collection, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """As `put_element` for each of `rows`."""
        for name, value in rows:
            self.put_element(collection, name, value)

    def _touched(self, prefix: bytes) -> list[bytes]:
        """The rows of elements of a collection that this batch has touched, in order."""
        names = self._names.get(prefix, [])
        new = self._unsorted.pop(prefix, None)
        if new is None:
            return names
        if len(new) < _FEW_NAMES:
            for name in new:
                if (at := bisect_left(names, name)) == len(names) or names[at] != name:
                    names.insert(at, name)
        else:
            names = sorted({*names, *new})
        self._names[prefix] = names
        return names

    def drop_elements(self, collection: Collection) -> None:
        """Delete the rows of all elements of `collection`, at the same cost for many and for a million."""
        start, end = collection.prefix, collection.end
        if collection.count > FEW_ELEMENTS or collection.prefix in self._cut:
            self.drop_range(collection, start, end)
            return
        for name, _ in list(self.walk(start, end)):
            self.put_row(name, None)

    def drop_range(self, collection: Collection, start: bytes, end: bytes) -> None:
        """Delete the rows start <= row < end of elements of `collection`, at the same cost for few and for a million. None of them may
        be looked for by this batch, until it is put again."""
        names = self._touched(collection.prefix)
        for name in names[bisect_left(names, start) : bisect_left(names, end)]:
            if name in self.rows:
                self.put_row(name, None)  # ranges go away before rows are written
        self._cut.add(collection.prefix)
        dropped = self._dropped
        dropped.append((start, end))
        self._undo.append(lambda: dropped.remove((start, end)))

    def elements(self, start: bytes, end: bytes, *, backwards: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """As changed so far, and also by what is done to rows while they are gone through.

        Raises:
            CommandError: while it goes through them: the commands of this entry have visited too many.
        """
        return self._counted(self.walk(start, end, backwards=backwards))

    def _refuse(self) -> NoReturn:
        fail(f"commands that are applied together visited more than {ELEMENTS_PER_ENTRY} elements; try again, or with fewer")

    def walk(self, start: bytes, end: bytes, *, backwards: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """As `elements`, uncounted: for what is bounded otherwise, so that nothing counts twice."""
        looking = self.edges.looking(start, end)
        if looking is not None:
            return self._from_edge(looking, start, self._walk(*self.edges.within(start, end), backwards), backwards)
        return self._walk(*self.edges.within(start, end), backwards)

    def _from_edge(
        self, looking: int, area: bytes, found: Iterator[tuple[bytes, bytes]], backwards: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        for row in found:
            self._remember(self.edges.found(looking, area, row[0], backwards=backwards))
            yield row
            break
        yield from found

    def _walk(self, start: bytes, end: bytes, backwards: bool) -> Iterator[tuple[bytes, bytes]]:
        stored = iter(()) if self.cleared or start >= end else self._rows.scan(start, end, backwards=backwards)
        names = self._touched(start[:PREFIX_BYTES])
        if not names:
            return stored
        touched = names[bisect_left(names, start) : bisect_left(names, end)]
        if backwards:
            touched.reverse()
        return self._merged(stored, touched, backwards)

    def _merged(
        self, stored: Iterator[tuple[bytes, bytes]], touched: list[bytes], backwards: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        at = 0
        for name, value in stored:
            while at < len(touched) and (touched[at] > name if backwards else touched[at] < name):
                new = self.rows.get(touched[at])
                if new is not None:
                    yield touched[at], new
                at += 1
            if at < len(touched) and touched[at] == name:
                at += 1
            now = self.rows.get(name, _MISSING)
            if now is _MISSING:
                yield name, value
            elif now is not None:
                yield name, cast("bytes", now)
        for name in touched[at:]:
            new = self.rows.get(name)
            if new is not None:
                yield name, new

    def _displace(self, name: bytes, stays: bytes | None = None) -> None:
        """The value row `name` is about to be written: if it is that of a collection other than `stays`, its elements go away."""
        row = self.row(name)
        if row is None or row[0] == STRING:
            return
        value = decode_value(row)
        collection = decode_collection(b"", value)
        if stays is None or not stays.startswith(collection.number):
            self.drop_elements(collection)
            self._count(-1)

    def _count(self, difference: int) -> None:
        """There are more or fewer collections."""
        before = self._collections

        def undo() -> None:
            self._collections = before

        self._undo.append(undo)
        self._collections += difference
        self.put_row(COLLECTIONS_ROW, self._collections.to_bytes(8) if self._collections else None)

    # Rows.

    def put_row(self, name: bytes, value: bytes | None) -> None:
        """Change a row; None deletes it."""
        rows = self.rows
        if name in rows:
            self._undo.append((name, rows[name]))
        rows[name] = value

    def mark(self) -> None:
        """Here is where `rollback` goes back to."""
        if self._undo:
            self._undo.clear()
        self._mark = len(self.rows)

    def rollback(self) -> None:
        """Undo every change since `mark`. Rows are in the order in which they were first changed, so the new ones are the last."""
        while self._undo:
            last = self._undo.pop()
            if callable(last):
                last()
            else:
                self.rows[last[0]] = last[1]
        while len(self.rows) > self._mark:
            self.rows.popitem()

    @property
    def collections(self) -> int:
        """How many collections there are now."""
        return self._collections

    @property
    def ranges(self) -> tuple[tuple[bytes, bytes], ...]:
        """The ranges of rows that go away before `rows` are written."""
        cleared = ((VALUES, VALUES_END), (ELEMENTS, ELEMENTS_END), (EXPIRIES, EXPIRIES_END)) if self.cleared else ()
        return (*cleared, *self._dropped)


def string_of(value: Value) -> bytes:
    """The string that `value` is.

    Raises:
        CommandError: WRONGTYPE.
    """
    if value.type != STRING:
        fail(WRONG_TYPE, "WRONGTYPE")
    return value.data
