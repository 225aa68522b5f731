"""How one command is applied: with a savepoint, so that one that fails leaves nothing behind, and never to the harm of those after it."""

from __future__ import annotations

from raftkv.errors import RaftkvError
from raftkv.kv.command import Read, Write
from raftkv.kv.keyspace import Changes
from raftkv.kv.replies import CommandError, Failure, Reply


def apply_one(command: Read | Write, changes: Changes) -> Reply:
    """Apply `command` to `changes`. A command that is made of others calls this for each of them, and must not fail after that.

    Returns:
        Its reply, or the error that it answers: then it has changed nothing.

    Raises:
        RaftkvError, MemoryError, RecursionError, OSError: what is underneath failed; nothing may be made of `changes`.
    """
    changes.mark()
    try:
        return command.apply(changes)
    except CommandError as error:
        changes.rollback()
        return error.failure
    except (RaftkvError, MemoryError, RecursionError, OSError):
        raise
    except Exception as error:
        # A bug in a command: the same on every replica, so it is an answer like any other, and the cluster goes on.
        changes.rollback()
        changes.faults.append(error)
        return Failure("ERR", "internal error; the command had no effect")
