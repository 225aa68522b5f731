"""Files: the `Disk` and `File` protocols that all storage code is written against, and `OsDisk`, which is the operating system.

What always holds:

- This is the only module that calls `os` for files, so that the simulator can stand in for all of it (`raftkv.sim.disk`).
- A path is text relative to the root of the disk, its parts joined by ``/``, and never leaves the root.
- Every failure is a `StorageError`; running out of space is a `DiskFull`. Nothing is tried again: after a failed fsync the kernel
  may have dropped the very pages that failed, and a second fsync would report success over a hole.
- What is durable: the bytes of a file after its `sync` returned; its name after `sync_directory` of the directory that holds the
  name returned. A rename is atomic. Nothing else is promised, in particular no order among operations that were not synced.

There is no buffering and no checksum here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from raftkv.errors import Corrupt, DirectoryInUse, DiskFull, StorageError

_ZEROES = bytes(1 << 20)
_NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


class File(Protocol):
    """An open file. One thread writes at a time; reads may run beside it."""

    @property
    def path(self) -> str:
        """Where the file was when it was opened, relative to the disk's root."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of `data` at `offset` (bytes). Durable only after `sync`."""

    def read_at(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`; fewer only where the file ends."""

    def size(self) -> int:
        """The length of the file in bytes."""

    def preallocate(self, size: int) -> None:
        """Make the file `size` bytes long, with space reserved on the disk; what was not written reads as zeroes.

        Raises:
            DiskFull: there is not that much space. The file may have grown and is best removed.
        """

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""

    def sync(self) -> None:
        """Return once the bytes and the length of the file are on the medium."""

    def close(self) -> None:
        """Give up the handle. Makes nothing durable. Closing twice is harmless."""


class DirectoryLock(Protocol):
    """Holds a directory for this process until released."""

    def release(self) -> None:
        """Let others have it. Releasing twice is harmless."""


class Disk(Protocol):
    """A tree of files."""

    def create(self, path: str) -> File:
        """A new empty file, open for reading and writing. `StorageError` if there is something at `path` already."""

    def open(self, path: str) -> File:
        """An existing file, open for reading and writing. `StorageError` if there is none."""

    def exists(self, path: str) -> bool:
        """Whether there is a file or directory at `path`."""

    def list(self, path: str) -> list[str]:
        """The names in a directory, sorted. `StorageError` if there is no such directory."""

    def rename(self, source: str, target: str) -> None:
        """Atomically give a file or directory another name; a file already at `target` is replaced."""

    def hard_link(self, source: str, target: str) -> None:
        """A second name for the same file."""

    def unlink(self, path: str) -> None:
        """Remove a name of a file."""

    def mkdir(self, path: str) -> None:
        """Create one directory, whose parent exists. Harmless if it is there already."""

    def remove_tree(self, path: str) -> None:
        """Remove a directory and all it holds. Harmless if there is none."""

    def sync_directory(self, path: str) -> None:
        """Make creations, renames and removals of names in this directory durable. The root is ``""``."""

    def lock(self, path: str) -> DirectoryLock:
        """Take the lock file at `path`, which keeps other processes and other `Disk` objects out. Taking it again through the same
        `Disk` shares it: it is free when all who took it have released it.

        Raises:
            DirectoryInUse: somebody else holds it.
        """

    def free_space(self) -> int:
        """Bytes that can still be written."""


def read_file(disk: Disk, path: str, max_bytes: int) -> bytes:
    """The whole content of a small file.

    Raises:
        Corrupt: it is larger than `max_bytes`, so it is not what was written there.
    """
    file = disk.open(path)
    try:
        size = file.size()
        if size > max_bytes:
            raise Corrupt(f"{path} has {size} bytes; it never has more than {max_bytes}, so this is not the file that was written")
        return file.read_at(0, size)
    finally:
        file.close()


def replace_file(disk: Disk, path: str, data: bytes) -> None:
    """Atomically and durably make `data` the content of the file at `path`: after a crash it is the old content or the new.

    The steps are the only safe order: write beside it, fsync, rename over it, fsync the directory (without the last the file may be
    gone, or old, after a power loss).

    Raises:
        DiskFull: no space for the new content; the old one is untouched.
        StorageError: anything else; whether the new content is durable is not known.
    """
    directory = path.rpartition("/")[0]
    temporary = path + ".new"
    if disk.exists(temporary):
        disk.unlink(temporary)
    file = disk.create(temporary)
    try:
        file.preallocate(len(data))
        file.write_at(0, data)
        file.sync()
    except DiskFull:
        file.close()
        disk.unlink(temporary)
        raise
    finally:
        file.close()
    try:
        disk.rename(temporary, path)
        disk.sync_directory(directory)
    except DiskFull as error:
        raise StorageError(f"{path} may or may not have been replaced: {error}") from error


@contextlib.contextmanager
def _errors(action: str, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(action, path, error) from error


def storage_error(action: str, path: str, error: OSError) -> StorageError:
    """The error of the tree for an error of the operating system while doing `action` to `path`."""
    reason = error.strerror or str(error)
    if error.errno in _NO_SPACE:
        return DiskFull(f"no space left to {action} {path} ({reason}): free some space on this disk, or raise the quota")
    return StorageError(f"cannot {action} {path}: {reason}")


class OsFile:
    """A file of the operating system."""

    def __init__(self, path: str, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        # Without pread the position of the descriptor is shared, so a seek and the transfer after it must not be parted.
        self._seeking = threading.Lock()

    @property
    def path(self) -> str:
        return self._path

    def write_at(self, offset: int, data: bytes) -> None:
        try:
            written = self._pwrite(data, offset)
            while written < len(data):
                written += self._pwrite(data[written : written + (1 << 30)], offset + written)
        except OSError as error:
            raise storage_error("write", self._path, error) from error

    def read_at(self, offset: int, length: int) -> bytes:
        try:
            data = self._pread(length, offset)
            while data and len(data) < length:
                more = self._pread(length - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise storage_error("read", self._path, error) from error
        return data

    def size(self) -> int:
        with _errors("examine", self._path):
            return os.fstat(self._descriptor).st_size

    def preallocate(self, size: int) -> None:
        with _errors("reserve space for", self._path):
            if hasattr(os, "posix_fallocate") and size > 0:
                try:
                    os.posix_fallocate(self._descriptor, 0, size)
                    return
                except OSError as error:
                    # Some file systems (ZFS, some network ones) cannot reserve; zeroes are then written instead.
                    if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                        raise
            position = os.fstat(self._descriptor).st_size
            while position < size:
                position += self._pwrite(_ZEROES[: size - position], position)

    def truncate(self, size: int) -> None:
        with _errors("truncate", self._path):
            os.ftruncate(self._descriptor, size)

    def sync(self) -> None:
        try:
            _flush(self._descriptor)
        except OSError as error:
            raise storage_error("sync", self._path, error) from error

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with _errors("close", self._path):
                os.close(descriptor)

    def _pwrite(self, data: bytes, offset: int) -> int:
        if sys.platform != "win32":
            return os.pwrite(self._descriptor, data, offset)
        with self._seeking:
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.write(self._descriptor, data)

    def _pread(self, length: int, offset: int) -> bytes:
        if sys.platform != "win32":
            return os.pread(self._descriptor, length, offset)
        with self._seeking:
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.read(self._descriptor, length)


if sys.platform == "darwin":
    import fcntl

    def _flush(descriptor: int) -> None:
        # On macOS fsync leaves the data in the drive's cache; only F_FULLFSYNC empties that. Some file systems do not offer it.
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                raise
            os.fsync(descriptor)

elif sys.platform == "win32":

    def _flush(descriptor: int) -> None:
        os.fsync(descriptor)

else:

    def _flush(descriptor: int) -> None:
        # fdatasync also makes the length durable: it writes whatever metadata is needed to read the data back.
        os.fdatasync(descriptor)


if sys.platform == "win32":
    import msvcrt

    def _take(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _take(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class OsLock:
    """One share of a lock that an `OsDisk` holds."""

    def __init__(self, disk: OsDisk, path: str) -> None:
        self._disk: OsDisk | None = disk
        self._path = path

    def release(self) -> None:
        disk, self._disk = self._disk, None
        if disk is not None:
            disk.release(self._path)


class OsDisk:
    """The files below `root`, a directory that is created if its parent exists."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._locks: dict[str, tuple[int, int]] = {}  # path: (descriptor, shares)
        self._locking = threading.Lock()
        with _errors("create", str(root)):
            root.mkdir(exist_ok=True)

    def create(self, path: str) -> OsFile:
        return self._open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, "create")

    def open(self, path: str) -> OsFile:
        return self._open(path, os.O_RDWR, "open")

    def exists(self, path: str) -> bool:
        with _errors("examine", path):
            return self._resolve(path).exists()

    def list(self, path: str) -> list[str]:
        with _errors("list", path):
            return sorted(os.listdir(self._resolve(path)))

    def rename(self, source: str, target: str) -> None:
        with _errors(f"rename {source} to", target):
            os.replace(self._resolve(source), self._resolve(target))

    def hard_link(self, source: str, target: str) -> None:
        with _errors(f"link {source} to", target):
            os.link(self._resolve(source), self._resolve(target))

    def unlink(self, path: str) -> None:
        with _errors("remove", path):
            os.unlink(self._resolve(path))

    def mkdir(self, path: str) -> None:
        with _errors("create", path):
            self._resolve(path).mkdir(exist_ok=True)

    def remove_tree(self, path: str) -> None:
        with _errors("remove", path), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._resolve(path))

    def sync_directory(self, path: str) -> None:
        if sys.platform == "win32":
            return  # Windows has no handle to sync a directory with; NTFS journals the names.
        with _errors("sync directory", path or "."):
            descriptor = os.open(self._resolve(path), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def lock(self, path: str) -> OsLock:
        with self._locking:
            if path in self._locks:
                descriptor, shares = self._locks[path]
                self._locks[path] = (descriptor, shares + 1)
                return OsLock(self, path)
            with _errors("open", path):
                descriptor = os.open(self._resolve(path), os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
            try:
                _take(descriptor)
            except OSError as error:
                os.close(descriptor)
                raise DirectoryInUse(
                    f"{self.root} is in use by another process (it holds {path}): stop that one first, or give this one its own directory"
                ) from error
            self._locks[path] = (descriptor, 1)
            return OsLock(self, path)

    def release(self, path: str) -> None:
        """Give back one share of the lock at `path`; `OsLock.release` calls it."""
        with self._locking:
            descriptor, shares = self._locks.pop(path)
            if shares > 1:
                self._locks[path] = (descriptor, shares - 1)
            else:
                os.close(descriptor)

    def free_space(self) -> int:
        with _errors("examine", str(self.root)):
            return shutil.disk_usage(self.root).free

    def _open(self, path: str, flags: int, action: str) -> OsFile:
        with _errors(action, path):
            extra = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
            return OsFile(path, os.open(self._resolve(path), flags | extra, 0o644))

    def _resolve(self, path: str) -> Path:
        parts = path.split("/") if path else []
        if any(part in ("", ".", "..") or "\\" in part or ":" in part for part in parts):
            raise StorageError(f"{path!r} is not a path below the data directory")
        return self.root.joinpath(*parts)
