"""A disk in memory that keeps only what it was told to keep: `raftkv.storage.disk.Disk` with crashes, errors, rot and a full disk.

The model, which is harsher than a journaling file system on a disk that keeps its promises, and no harsher than POSIX allows:

- A write, a change of length or a change of names is seen at once by the running program and is *pending* until the file (for bytes
  and lengths) or the directory (for names) is synced. Syncing a file does not make its name durable, nor the other way round.
- A crash decides the fate of what is pending (`Survival`). Bytes survive or are lost by sectors of 512 bytes, names one change at a
  time, a rename as one change.
- A failed sync drops what was pending in that file from the set of what will ever be written, while the running program, and the
  next one after a mere restart of the process, goes on seeing it: this is what Linux does.
- Everything that is random comes from the generator that the caller gives.

What it does not do: delay anything (the caller's clock is the caller's), or keep files larger than memory.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable

from raftkv.errors import DirectoryInUse, DiskFull, StorageError

SECTOR_BYTES = 512


class Crashed(BaseException):
    """The machine stopped in the middle of an operation. Not an `Exception`: no program can handle its own crash.

    `survival` is what was planned for what was pending; None leaves it to who owns the disk.
    """

    def __init__(self, what: str, survival: Survival | None = None) -> None:
        super().__init__(what)
        self.survival = survival


class Survival(enum.Enum):
    """What becomes of pending changes in a crash."""

    CLEAN = "all of them survive, as when only the process dies"
    LOST = "none survives"
    TORN = "the oldest survive, up to a random one, of which a random number of bytes does"
    REORDERED = "each sector of each write, and each change of a name, survives or not at random"


class _File:
    """The content of a file, whatever its names."""

    def __init__(self) -> None:
        self.seen = bytearray()
        self.durable = bytearray()
        self.pending: list[_Change] = []
        self.abandoned = False
        """A sync has failed: what is seen may never become durable."""


class _Change:
    """One pending change of a file's content: a write of `data` at `offset`, or (data None) a new length `offset`."""

    def __init__(self, offset: int, data: bytes | None) -> None:
        self.offset = offset
        self.data = data

    def apply(self, content: bytearray) -> None:
        if self.data is None:
            if self.offset <= len(content):
                del content[self.offset :]
            else:
                content.extend(bytes(self.offset - len(content)))
            return
        end = self.offset + len(self.data)
        if end > len(content):
            content.extend(bytes(end - len(content)))
        content[self.offset : end] = self.data

    def pieces(self) -> list[_Change]:
        """The change cut at the boundaries of sectors."""
        if self.data is None:
            return [self]
        parts: list[_Change] = []
        begin = 0
        while begin < len(self.data):
            end = begin + SECTOR_BYTES - (self.offset + begin) % SECTOR_BYTES
            parts.append(_Change(self.offset + begin, self.data[begin:end]))
            begin = end
        return parts


class _Directory:
    """The names in a directory."""

    def __init__(self) -> None:
        self.seen: dict[str, _File | _Directory] = {}
        self.durable: dict[str, _File | _Directory] = {}


class _Naming:
    """One pending change of names: each (directory, name) now means this, or nothing."""

    def __init__(self, *assignments: tuple[_Directory, str, _File | _Directory | None]) -> None:
        self.assignments = assignments

    def touches(self, directory: _Directory) -> bool:
        return any(changed is directory for changed, _, _ in self.assignments)

    def see(self) -> None:
        for directory, name, node in self.assignments:
            _assign(directory.seen, name, node)

    def keep(self) -> None:
        for directory, name, node in self.assignments:
            _assign(directory.durable, name, node)


def _assign(names: dict[str, _File | _Directory], name: str, node: _File | _Directory | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


class SimFile:
    """An open file of a `SimDisk`. It dies with the crash or restart of the disk."""

    def __init__(self, disk: SimDisk, path: str, file: _File) -> None:
        self._disk = disk
        self._path = path
        self._file = file
        self._boot = disk.boot
        self._open = True

    @property
    def path(self) -> str:
        return self._path

    def write_at(self, offset: int, data: bytes) -> None:
        self._check()
        grown = max(0, offset + len(data) - len(self._file.seen))
        change = _Change(offset, bytes(data))
        self._disk.operate("write", self._path, grown, lambda: self._disk.change_file(self._file, change), offset)

    def read_at(self, offset: int, length: int) -> bytes:
        self._check()
        self._disk.observe("read", self._path)
        return bytes(self._file.seen[offset : offset + length])

    def size(self) -> int:
        self._check()
        return len(self._file.seen)

    def preallocate(self, size: int) -> None:
        self._check()
        grown = size - len(self._file.seen)
        if grown > 0:
            self._disk.operate("preallocate", self._path, grown, lambda: self._disk.change_file(self._file, _Change(size, None)))

    def truncate(self, size: int) -> None:
        self._check()
        self._disk.operate("truncate", self._path, 0, lambda: self._disk.change_file(self._file, _Change(size, None)))

    def sync(self) -> None:
        self._check()
        self._disk.sync_file(self._path, self._file)

    def close(self) -> None:
        self._open = False

    def _check(self) -> None:
        if not self._open or self._boot != self._disk.boot:
            raise StorageError(f"{self._path} is not open")


class SimLock:
    """One share of a lock of a `SimDisk`."""

    def __init__(self, disk: SimDisk, path: str) -> None:
        self._disk: SimDisk | None = disk
        self._path = path
        self._boot = disk.boot

    def release(self) -> None:
        disk, self._disk = self._disk, None
        if disk is not None and self._boot == disk.boot:
            disk.locks[self._path] -= 1


class SimDisk:
    """A disk. Operations that change something are counted in `operations`, from 1; errors and crashes are planned by that number.

    `capacity_bytes` bounds the sum of all file lengths; None is no bound. With `lying` set, syncs report success and keep nothing.
    """

    def __init__(self, rng: random.Random, *, capacity_bytes: int | None = None) -> None:
        self.operations = 0
        self.capacity_bytes = capacity_bytes
        self.lying = False
        self.boot = 0
        self.locks: dict[str, int] = {}
        self.locked_elsewhere: set[str] = set()
        """Lock files that another process holds."""
        self.history: list[str] = []
        """What each counted operation was, for messages of tests."""
        self.before_operation: Callable[[str, str], None] | None = None
        """Called with the kind and path of each operation that changes something, before it happens."""
        self.ask_crash: Callable[[str, str, int], Survival | None] | None = None
        """Asked with the kind, path and offset of each such operation: is this where the machine stops, and what survives? The offset
        of a sync is that of the newest write that it would make durable."""
        self._rng = rng
        self._root = _Directory()
        self._naming: list[_Naming] = []
        self._changed: dict[int, _File] = {}  # files of which the durable content may differ from what is seen
        self._crash_at: int | None = None
        self._errors: dict[int, StorageError] = {}
        self._read_errors: set[str] = set()
        self._next_read_error: StorageError | None = None
        self._down = False

    # Faults.

    def crash_at(self, operation: int) -> None:
        """Raise `Crashed` in operation number `operation` instead of finishing it: a write or a change of names is pending then, a
        sync has not happened."""
        self._crash_at = operation

    def fail_at(self, operation: int, error: StorageError) -> None:
        """Raise `error` in operation number `operation`. A failed sync drops what was pending; other operations have no effect."""
        self._errors[operation] = error

    def fail_next_read(self, error: StorageError) -> None:
        """Raise `error` when something is read the next time, whatever it is."""
        self._next_read_error = error

    def disarm(self) -> None:
        """Forget planned crashes and errors."""
        self._crash_at = None
        self._errors.clear()
        self._next_read_error = None

    def fail_reads(self, path: str) -> None:
        """From now on reading the file at `path` is an error of the medium."""
        self._read_errors.add(path)

    def put(self, path: str, content: bytes) -> None:
        """From outside: a durable file with this content, and the directories that it needs. A file that is there is replaced."""
        directory = self._root
        *above, name = path.split("/")
        for part in above:
            below = directory.seen.get(part) or _Directory()
            if not isinstance(below, _Directory):
                raise StorageError(f"cannot put {path}: {part} is a file")
            directory.seen[part] = directory.durable[part] = below
            directory = below
        file = _File()
        file.seen[:] = file.durable[:] = content
        directory.seen[name] = directory.durable[name] = file

    def flip(self, path: str, offset: int, mask: int = 1) -> None:
        """Rot: the byte at `offset` is changed where it lies, in `mask`'s bits."""
        file = self._file(path)
        for content in (file.seen, file.durable):
            if offset < len(content):
                content[offset] ^= mask

    def overwrite(self, path: str, offset: int, data: bytes) -> None:
        """Rot, of a stretch."""
        file = self._file(path)
        for content in (file.seen, file.durable):
            content[offset : offset + len(data)] = data[: max(0, len(content) - offset)]

    def shorten(self, path: str, size: int) -> None:
        """Damage: the file is cut to `size`."""
        file = self._file(path)
        del file.seen[size:]
        del file.durable[size:]

    def delete(self, path: str) -> None:
        """Damage: the file is gone, durably."""
        directory, name = self._parent(path)
        directory.seen.pop(name)
        directory.durable.pop(name, None)

    def forget_pending(self) -> None:
        """A lie: what is pending in files will never be durable, though it goes on being seen."""
        for file in self._changed.values():
            file.pending.clear()
            file.abandoned = True

    def restart(self) -> None:
        """The process dies and the machine goes on: handles and locks are gone, nothing else."""
        self._down = False
        self.disarm()
        self.boot += 1
        self.locks.clear()

    def crash(self, survival: Survival) -> None:
        """The machine loses power and comes back: what was pending survives as `survival` says."""
        if survival is not Survival.CLEAN:
            self._lose_files(survival)
            self._lose_names(survival)
        self.restart()

    @property
    def pending_renames(self) -> int:
        """Renames of which no directory has been synced yet."""
        return sum(len(naming.assignments) > 1 for naming in self._naming)

    def content(self, path: str) -> bytes:
        """What the file at `path` holds as the running program sees it."""
        return bytes(self._file(path).seen)

    def files(self) -> dict[str, bytes]:
        """Every file with its content as the running program sees it."""
        found: dict[str, bytes] = {}
        self._walk(self._root, "", found)
        return found

    # The interface of `Disk`.

    def create(self, path: str) -> SimFile:
        self._observe()
        directory, name = self._parent(path)
        if name in directory.seen:
            raise StorageError(f"cannot create {path}: it exists")
        file = _File()
        self._rename("create", path, _Naming((directory, name, file)))
        return SimFile(self, path, file)

    def open(self, path: str) -> SimFile:
        self._observe()
        return SimFile(self, path, self._file(path))

    def exists(self, path: str) -> bool:
        self._observe()
        return self._find(path) is not None

    def list(self, path: str) -> list[str]:
        self._observe()
        return sorted(self._directory(path).seen)

    def rename(self, source: str, target: str) -> None:
        node = self._find(source)
        if node is None:
            raise StorageError(f"cannot rename {source}: there is no such file")
        from_directory, from_name = self._parent(source)
        to_directory, to_name = self._parent(target)
        self._rename("rename", target, _Naming((from_directory, from_name, None), (to_directory, to_name, node)))

    def hard_link(self, source: str, target: str) -> None:
        directory, name = self._parent(target)
        if name in directory.seen:
            raise StorageError(f"cannot link {target}: it exists")
        self._rename("link", target, _Naming((directory, name, self._file(source))))

    def unlink(self, path: str) -> None:
        self._file(path)
        self._rename("unlink", path, _Naming((*self._parent(path), None)))

    def mkdir(self, path: str) -> None:
        found = self._find(path)
        if isinstance(found, _File):
            raise StorageError(f"cannot create {path}: there is a file")
        if found is None:
            self._rename("mkdir", path, _Naming((*self._parent(path), _Directory())))

    def remove_tree(self, path: str) -> None:
        found = self._find(path)
        if isinstance(found, _Directory):
            for name in list(found.seen):
                below = f"{path}/{name}"
                if isinstance(found.seen[name], _Directory):
                    self.remove_tree(below)
                else:
                    self.unlink(below)
            self._rename("rmdir", path, _Naming((*self._parent(path), None)))

    def sync_directory(self, path: str) -> None:
        directory = self._directory(path)

        def keep() -> None:
            if not self.lying:
                self._keep_names(directory)

        self.operate("sync_directory", path, 0, keep)

    def _keep_names(self, directory: _Directory) -> None:
        """Make the pending changes of names in `directory` durable, and earlier ones of the same names elsewhere: a rename out of it
        must not be undone by what was done to its target before."""
        kept: list[_Naming] = []
        names: set[tuple[int, str]] = set()
        for naming in reversed(self._naming):
            own = {(id(changed), name) for changed, name, _ in naming.assignments}
            if naming.touches(directory) or own & names:
                kept.append(naming)
                names |= own
        for naming in reversed(kept):
            naming.keep()
            self._naming.remove(naming)

    def lock(self, path: str) -> SimLock:
        self._observe()
        if path in self.locked_elsewhere:
            raise DirectoryInUse(f"the directory is in use by another process (it holds {path})")
        self.locks[path] = self.locks.get(path, 0) + 1
        return SimLock(self, path)

    def free_space(self) -> int:
        return 1 << 40 if self.capacity_bytes is None else max(0, self.capacity_bytes - self._used())

    # What the files use.

    def observe(self, kind: str, path: str) -> None:
        """Something is read."""
        self._observe()
        error, self._next_read_error = self._next_read_error, None
        if error is not None:
            raise error
        if path in self._read_errors:
            raise StorageError(f"cannot {kind} {path}: Input/output error")

    def operate(self, kind: str, path: str, grown: int, change: Callable[[], None], offset: int = 0) -> None:
        """Something is changed: count it, and fail, crash or do it."""
        self._observe()
        self.operations += 1
        self.history.append(f"{kind} {path}")
        if self.before_operation is not None:
            self.before_operation(kind, path)
        error = self._errors.pop(self.operations, None)
        if error is not None:
            raise error
        full = grown > 0 and self.capacity_bytes is not None and self._used() + grown > self.capacity_bytes
        survival = self.ask_crash(kind, path, offset) if self.ask_crash is not None else None
        crashing = survival is not None or self.operations == self._crash_at
        if full and not crashing:
            raise DiskFull(f"no space left to {kind} {path}")
        if not full and not (crashing and kind.startswith("sync")):
            change()
        if crashing:
            self._down = True
            raise Crashed(f"in operation {self.operations}: {kind} {path}", survival)

    def change_file(self, file: _File, change: _Change) -> None:
        """Let the running program see a change, and have it pending."""
        change.apply(file.seen)
        file.pending.append(change)
        self._changed[id(file)] = file

    def sync_file(self, path: str, file: _File) -> None:
        """Make what is pending in a file durable."""

        def keep() -> None:
            if self.lying:
                return
            for change in file.pending:
                change.apply(file.durable)
            file.pending.clear()
            if not file.abandoned:
                self._changed.pop(id(file), None)

        try:
            self.operate("sync", path, 0, keep, file.pending[-1].offset if file.pending else 0)
        except StorageError:
            # The kernel forgets which pages it could not write.
            file.pending.clear()
            file.abandoned = True
            raise

    def _observe(self) -> None:
        if self._down:
            raise Crashed("the machine is down")

    def _rename(self, kind: str, path: str, naming: _Naming) -> None:
        def change() -> None:
            naming.see()
            self._naming.append(naming)

        self.operate(kind, path, 0, change)

    def _lose_files(self, survival: Survival) -> None:
        for file in self._changed.values():
            match survival:
                case Survival.TORN if file.pending:
                    whole = self._rng.randrange(len(file.pending))
                    for change in file.pending[:whole]:
                        change.apply(file.durable)
                    torn = file.pending[whole]
                    if torn.data is not None:
                        _Change(torn.offset, torn.data[: self._rng.randrange(len(torn.data) + 1)]).apply(file.durable)
                case Survival.REORDERED:
                    for change in file.pending:
                        for piece in change.pieces():
                            if self._rng.random() < 0.5:
                                piece.apply(file.durable)
                case _:
                    pass
            file.pending.clear()
            file.abandoned = False
            file.seen = bytearray(file.durable)
        self._changed.clear()

    def _lose_names(self, survival: Survival) -> None:
        match survival:
            case Survival.TORN:
                kept = self._naming[: self._rng.randrange(len(self._naming) + 1)]
            case Survival.REORDERED:
                kept = [naming for naming in self._naming if self._rng.random() < 0.5]
            case _:
                kept = []
        for naming in kept:
            naming.keep()
        self._naming.clear()
        self._forget(self._root)

    def _forget(self, directory: _Directory) -> None:
        directory.seen = dict(directory.durable)
        for node in directory.seen.values():
            if isinstance(node, _Directory):
                self._forget(node)

    def _used(self) -> int:
        used, directories = 0, [self._root]
        while directories:
            for node in directories.pop().seen.values():
                if isinstance(node, _Directory):
                    directories.append(node)
                else:
                    used += len(node.seen)
        return used

    def _walk(self, directory: _Directory, path: str, found: dict[str, bytes]) -> None:
        for name in sorted(directory.seen):
            node = directory.seen[name]
            below = f"{path}/{name}" if path else name
            if isinstance(node, _Directory):
                self._walk(node, below, found)
            else:
                found[below] = bytes(node.seen)

    def _find(self, path: str) -> _File | _Directory | None:
        node: _File | _Directory | None = self._root
        for name in path.split("/") if path else []:
            node = node.seen.get(name) if isinstance(node, _Directory) else None
        return node

    def _file(self, path: str) -> _File:
        node = self._find(path)
        if not isinstance(node, _File):
            raise StorageError(f"cannot open {path}: there is no such file")
        return node

    def _directory(self, path: str) -> _Directory:
        node = self._find(path)
        if not isinstance(node, _Directory):
            raise StorageError(f"cannot list {path}: there is no such directory")
        return node

    def _parent(self, path: str) -> tuple[_Directory, str]:
        directory, _, name = path.rpartition("/")
        return self._directory(directory), name
