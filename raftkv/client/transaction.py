"""Transactions, as steps that a shell carries out: WATCH, reads that the transaction rests on, MULTI … EXEC.

What is watched is known to one connection only. So a transaction that watches lives and dies with its connection: when that breaks before
EXEC has been sent, nothing happened, and it has to begin again. One that watches nothing is sent whole, MULTI to EXEC, and begins again by
itself as long as it was refused. After EXEC has been sent, a connection that breaks leaves the outcome open: `Uncertain`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from raftkv.client.call import REFUSALS
from raftkv.client.command import AnyCommand, Kind
from raftkv.client.core import Broken, Core, Effect, Exchange, Lane, Outcome, Pause
from raftkv.client.replies import Answer, encode_request
from raftkv.errors import ProtocolError, RaftkvError, ReplyError, Unavailable, Uncertain, WatchFailed

Outcomes = list[Any]
TransactionFlow = Generator[Effect, Outcome, Outcomes | RaftkvError]
"""Returns the outcome of each command, or the error of the whole."""

_GONE = "the connection that watched is gone, and nothing of the transaction happened"


def watch(core: Core, lane: Lane, keys: Sequence[bytes], timeout_s: float) -> TransactionFlow:
    """Watch `keys` from now on, on whatever connection there is or can be had."""
    deadline_s = core.clock() + timeout_s
    request = encode_request((b"WATCH", *keys))
    reason = "no node was asked"
    failures = 0
    while (left_s := deadline_s - core.clock()) > 0:
        problem = yield from core.connect(lane, left_s)
        if problem is None:
            answer, problem = yield from core.ask(lane, request, left_s)
            if answer == b"OK":
                return []
            if isinstance(answer, ReplyError) and answer.code not in REFUSALS:
                return answer
            problem = problem or str(answer)
        reason = problem
        failures += 1
        seconds = min(core.routes.pause_s(failures, 1.0), deadline_s - core.clock())
        if seconds > 0:
            yield Pause(seconds)
    return Unavailable(f"{reason}; nothing was watched within {timeout_s:g} s")


def look(core: Core, lane: Lane, command: AnyCommand, timeout_s: float) -> TransactionFlow:
    """Do `command` at once, on the connection that watches."""
    if lane.address is None:
        return Unavailable(_GONE)
    outcome = yield Exchange(encode_request(command.args), 1, timeout_s)
    if isinstance(outcome, list):
        return [_looked(command, outcome[0])]
    yield from core.leave(lane)
    if command.kind is Kind.READ:
        return Unavailable(_GONE)
    return Uncertain(f"the connection broke; {command.name} may have happened")


def look_anywhere(core: Core, lane: Lane, command: AnyCommand, timeout_s: float) -> TransactionFlow:
    """Do `command` at once where nothing is watched: as any call does, on whatever connection there is or can be had."""
    return (yield from core.perform(lane, [command], timeout_s))


def unwatch(core: Core, lane: Lane, timeout_s: float) -> TransactionFlow:
    """Watch nothing any more, and leave the connection as it was."""
    if lane.address is not None:
        yield from core.ask(lane, encode_request((b"UNWATCH",)), timeout_s)
    return []


def commit(core: Core, lane: Lane, commands: Sequence[AnyCommand], watching: bool, timeout_s: float) -> TransactionFlow:
    """Do all of `commands`, with nothing in between, or nothing if a watched key was changed."""
    deadline_s = core.clock() + timeout_s
    data = b"".join(encode_request(args) for args in ((b"MULTI",), *(command.args for command in commands), (b"EXEC",)))
    reason = "no node was asked"
    failures = 0
    while (left_s := deadline_s - core.clock()) > 0:
        problem = None if watching else (yield from core.connect(lane, left_s))
        if watching and lane.address is None:
            return Unavailable(_GONE)
        if problem is None:
            outcome = yield Exchange(data, len(commands) + 2, left_s)
            if not isinstance(outcome, list):
                yield from core.leave(lane)
                broken = outcome.reason if isinstance(outcome, Broken) else "there was no answer"
                return Uncertain(f"{broken}; the transaction may have happened")
            result = _result(commands, outcome)
            if not (isinstance(result, ReplyError) and result.code in REFUSALS):
                return result
            problem = str(result)
            yield from core.leave(lane)
        reason = problem
        failures += 1
        seconds = min(core.routes.pause_s(failures, 1.0), deadline_s - core.clock())
        if seconds > 0:
            yield Pause(seconds)
    return Unavailable(f"{reason}; the transaction did not happen within {timeout_s:g} s")


def _result(commands: Sequence[AnyCommand], answers: list[Answer]) -> Outcomes | RaftkvError:
    """What the answers from MULTI to EXEC come to."""
    executed = answers[-1]
    if executed is None:
        return WatchFailed("a watched key has changed, and nothing of the transaction happened")
    if isinstance(executed, ReplyError):
        refused = next((answer for answer in answers[:-1] if isinstance(answer, ReplyError)), executed)
        if executed.code == "UNCERTAIN":
            return Uncertain(str(executed))
        return refused if executed.code == "EXECABORT" else executed
    if not isinstance(executed, list) or len(executed) != len(commands):
        return ProtocolError(f"the node answered {str(executed)[:100]!r} to EXEC")
    return [_outcome_of(command, answer) for command, answer in zip(commands, executed, strict=True)]


def _looked(command: AnyCommand, answer: Answer) -> object:
    """What was done at once has come to this. There is nothing to try again on: what is watched is known to this connection only."""
    if isinstance(answer, ReplyError) and answer.code in REFUSALS:
        return Unavailable(f"{answer}; {command.name} did not happen")
    if isinstance(answer, ReplyError) and answer.code == "UNCERTAIN":
        if command.kind is Kind.READ:
            return Unavailable(str(answer))
        return Uncertain(f"{answer}; {command.name} may have happened")
    return _outcome_of(command, answer)


def _outcome_of(command: AnyCommand, answer: Answer) -> object:
    if isinstance(answer, ReplyError):
        return answer
    try:
        return command.shape(answer)
    except ProtocolError as error:
        return error
