"""A disk that fails every fsync of one process, which runs as it is: strace stops it at each of them and answers EIO in its place.

What always holds: the process is told of an error for every fsync from some moment after `FailingFsync` was made until `end` returns,
and nothing else of it is changed. Whether it has been told of any is in `failed`. strace ends with the process, or at `end`; the process
goes on. On a machine without strace, or that does not let one process stop another, `why_not` says so.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from raftkv_cli.waiting import WaitedInVain, wait_until

END_SECONDS = 10.0
_CALLS = "fsync,fdatasync"
_INJECTED = b"(INJECTED)"
_PROBE = """
import os, sys, tempfile
with tempfile.TemporaryFile() as file:
    while sys.stdin.readline():
        try:
            os.fsync(file.fileno())
        except OSError:
            sys.exit(5)
        print("ok", flush=True)
"""


class FailingFsync:
    """The fsyncs of one process fail.

    Args:
        pid: the process.
        record: where strace writes each fsync down, with the file that it was for.
    """

    def __init__(self, pid: int, record: Path) -> None:
        self.record = record
        options = ["-f", "-y", "-e", f"trace={_CALLS}", "-e", f"inject={_CALLS}:error=EIO", "-e", "signal=none"]
        self._strace = subprocess.Popen(
            ["strace", *options, "-o", str(record), "-p", str(pid)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def failed(self) -> bool:
        """Whether the process has been told of an error."""
        return self.record.exists() and _INJECTED in self.record.read_bytes()

    @property
    def ended(self) -> bool:
        """Whether strace has let go of the process."""
        return self._strace.poll() is not None

    def end(self) -> None:
        """Let the process go, if it is still there."""
        self._strace.terminate()
        self._strace.wait(END_SECONDS)


def why_not() -> str | None:
    """Why fsyncs cannot be made to fail on this machine; None if they can. It is tried out."""
    if sys.platform != "linux":
        return "only on Linux can strace fail the fsyncs of a process"
    if shutil.which("strace") is None:
        return "strace, which would fail the fsyncs of a process, is not installed"
    with tempfile.TemporaryDirectory(prefix="raftkv-chaos-") as directory:
        process = subprocess.Popen([sys.executable, "-S", "-c", _PROBE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        fault = FailingFsync(process.pid, Path(directory) / "strace")
        try:
            return None if _is_told(process, fault) else "strace may not stop another process here (ptrace is not permitted)"
        finally:
            process.kill()
            process.communicate()
            fault.end()


def _is_told(process: subprocess.Popen[bytes], fault: FailingFsync) -> bool:
    """Whether a process that does nothing but fsync is told of an error."""

    def told() -> bool:
        if process.stdin is not None and process.poll() is None:
            try:
                process.stdin.write(b"\n")
                process.stdin.flush()
            except BrokenPipeError:
                return False
        return process.poll() == 5 or fault.ended

    try:
        wait_until("a failed fsync", told, END_SECONDS)
    except WaitedInVain:
        return False
    return fault.failed
