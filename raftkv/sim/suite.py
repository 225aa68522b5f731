"""Many seeds in several processes, in order: what comes out does not depend on how many processes there are.

Each process is a fresh interpreter (`spawn`) that is given one seed at a time and answers with what came of it, as MessagePack. The
first seed in the order that fails ends the run, unless it is to go on; what later seeds had come to by then is thrown away. The
processes end with their parent, and when it is interrupted.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess

import msgspec
from msgspec import Struct

from raftkv.errors import InvariantBroken
from raftkv.sim.cluster import Cluster, Outcome, Run, simulate
from raftkv.sim.plan import Cut
from raftkv.sim.trace import Violation


class Broken(Struct, frozen=True, kw_only=True, tag="broken"):
    """A seed that broke a rule."""

    seed: int
    rule: str
    what: str


Result = Outcome | Broken


class _Task(Struct, frozen=True):
    seed: int
    cut: Cut


_decoder: msgspec.msgpack.Decoder[Result] = msgspec.msgpack.Decoder(Result)


def run_one(seed: int, cut: Cut) -> Result:
    """What comes of `seed` with only a part of its faults."""
    result = simulate(Cluster(seed, Run(cut=cut)))
    return Broken(seed=seed, rule=result.rule, what=result.what) if isinstance(result, Violation) else result


def run_seeds(seeds: Sequence[int], jobs: int = 1, cut: Cut | None = None, go_on: bool = False) -> Generator[Result, None, None]:
    """What comes of each of `seeds`, in their order, up to the first that fails, or of all if it is to `go_on`."""
    part = cut or Cut()
    results: Iterator[Result] = (run_one(seed, part) for seed in seeds) if jobs == 1 else _in_processes(seeds, jobs, part)
    for result in results:
        yield result
        if isinstance(result, Broken) and not go_on:
            return


def _in_processes(seeds: Sequence[int], jobs: int, cut: Cut) -> Iterator[Result]:
    waiting = list(reversed(seeds))
    done: dict[int, Result] = {}
    with _workers(min(jobs, len(seeds))) as workers:
        busy: dict[Connection, int] = {}
        for connection in workers:
            _give(connection, waiting, cut, busy)
        for seed in seeds:
            while seed not in done:
                for ready in wait(list(busy)):
                    connection = next(one for one in busy if one is ready)
                    number = busy.pop(connection)
                    done[number] = _answer(connection, number)
                    _give(connection, waiting, cut, busy)
            yield done.pop(seed)


def _give(connection: Connection, waiting: list[int], cut: Cut, busy: dict[Connection, int]) -> None:
    if waiting:
        seed = waiting.pop()
        connection.send_bytes(msgspec.msgpack.encode(_Task(seed, cut)))
        busy[connection] = seed


def _answer(connection: Connection, seed: int) -> Result:
    try:
        return _decoder.decode(connection.recv_bytes())
    except (EOFError, OSError) as error:
        raise InvariantBroken(f"the process that simulated seed {seed} has ended without an answer") from error


@contextlib.contextmanager
def _workers(count: int) -> Iterator[list[Connection]]:
    """So many processes, which are gone afterwards, whatever happens."""
    context: SpawnContext = multiprocessing.get_context("spawn")
    connections: list[Connection] = []
    processes: list[SpawnProcess] = []
    try:
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there,), daemon=True)
            process.start()
            there.close()
            processes.append(process)
            connections.append(here)
        yield connections
    finally:
        for connection in connections:
            connection.close()
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _work(connection: Connection) -> None:
    """Simulate what comes, until nothing comes any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process when it is interrupted
    decoder = msgspec.msgpack.Decoder(_Task)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            task = decoder.decode(connection.recv_bytes())
            connection.send_bytes(msgspec.msgpack.encode(run_one(task.seed, task.cut)))
