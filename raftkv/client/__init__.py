"""The Python clients: `Client` for threads, `AsyncClient` for asyncio, and what both are made of.

::

    url.py           what a URL says: the nodes, and settings
    command.py       a command as a value; a method that is written once for clients, pipelines and transactions
    strings.py  keys.py  server.py      the methods, by families of commands
    replies.py       bytes to answers, answers to what a method returns
    session.py       the numbers of the writes of one connection, which make a retry happen once
    routes.py        which node to ask
    call.py          the fate of the commands of one call: what an answer means, what is sent (again), what is told in the end
    core.py          one call from its first byte to its outcome, as steps that a shell carries out
    transaction.py   WATCH, MULTI and EXEC in the same way
    queue.py         commands that wait to be sent together
    client.py  aio.py                   the shells: sockets and threads, asyncio

All decisions are in the modules without sockets; they read no clock and wait for nothing by themselves. The two shells differ only in how
they open a connection, move bytes and wait.
"""

from __future__ import annotations

from raftkv.client.aio import AsyncClient, AsyncPipeline, AsyncTransaction
from raftkv.client.client import Client, Pipeline, Transaction
from raftkv.client.command import Command, Kind

__all__ = ["AsyncClient", "AsyncPipeline", "AsyncTransaction", "Client", "Command", "Kind", "Pipeline", "Transaction"]
