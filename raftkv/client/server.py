"""Commands that concern a node or all of the data. What each does: https://redis.io/docs/latest/commands/ has a page for each."""

from __future__ import annotations

from raftkv.client.command import Command, Value, method, read, write
from raftkv.client.replies import as_done, as_integer, as_string


class ServerCommands:
    """PING, DBSIZE and their like."""

    @method
    def ping(self) -> Command[bytes, str]:
        """PING: ``PONG``, if a node is there."""
        return read(as_string, "PING")

    @method
    def echo(self, message: Value) -> Command[bytes, str]:
        """ECHO: `message`, as a string."""
        return read(as_string, "ECHO", message)

    @method
    def info(self, *sections: str) -> Command[bytes, str]:
        """INFO: what the node that was asked tells of itself, as lines of ``name:value``; `sections` chooses."""
        return read(as_string, "INFO", *sections)

    @method
    def dbsize(self) -> Command[int, int]:
        """DBSIZE: how many keys there are."""
        return read(as_integer, "DBSIZE")

    @method
    def flushall(self) -> Command[bool, bool]:
        """FLUSHALL: delete everything; True."""
        return write(as_done, "FLUSHALL")
