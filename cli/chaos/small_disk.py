"""A small disk of its own for one node, which can be filled: a tmpfs, where this machine lets us mount one (root on Linux).

What always holds: the mount is gone when the context is left; what is written here to fill it is a single file beside the node's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType

SIZE_BYTES = 256 << 20
"""Room for a few log segments and what a node keeps free."""
_FILL = "filled-by-chaos"
_BLOCK = 4096


class SmallDisk:
    """A context manager; `problem` says why there is no such disk, and is None when there is one.

    Args:
        directory: where to mount it; made if it does not exist.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.problem: str | None = None
        self._mounted = False

    def __enter__(self) -> SmallDisk:
        self.problem = self._mount()
        self._mounted = self.problem is None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._mounted:
            subprocess.run(["umount", str(self.directory)], check=True, capture_output=True)

    def _mount(self) -> str | None:
        if sys.platform != "linux" or os.geteuid() != 0:
            return "only root on Linux can mount a small disk"
        self.directory.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES},mode=0700", "raftkv-chaos", str(self.directory)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except FileNotFoundError:
            return "there is no mount command"
        except subprocess.CalledProcessError as error:
            return f"this machine lets nobody mount a small disk: {error.stderr.decode(errors='replace').strip()}"
        return None

    def fill(self, leave_bytes: int) -> None:
        """Take all space but about `leave_bytes`."""
        left = os.statvfs(self.directory)
        take = left.f_bavail * left.f_frsize - leave_bytes
        if take >= _BLOCK:
            with (self.directory / _FILL).open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, take // _BLOCK * _BLOCK)

    def release(self) -> None:
        """Give it back."""
        (self.directory / _FILL).unlink(missing_ok=True)

    def keep(self, to: Path) -> None:
        """Copy what the node wrote to `to`, which outlives the disk. Without a disk there is nothing to do: the directory stays."""
        if self._mounted:
            shutil.copytree(self.directory, to, ignore=shutil.ignore_patterns(_FILL))
