"""The three scripts of redis-py's `Lock`, as commands: EVAL and EVALSHA of one of them, and of nothing else.

There is no interpreter here. A script is recognised by the SHA1 of its text, and what it does is done by a command of ours, like any other
in the log. A lock is a string key whose value is the token of its owner. Each script first compares the token, and
answers 0 if it is not the owner's; else it changes the key and answers 1:

- release deletes the key;
- extend adds milliseconds to the time that the key has left, or, unless its third argument is 0, makes them the time that it has left. It
  answers 0 of a key that stays for ever;
- reacquire makes its second argument the time that the key has left.

Errors are those of Redis, which names the script and its line. What is added has to be an integer; Redis also takes what C calls a number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from raftkv.kv.arguments import INT64_MAX, NOT_AN_INTEGER, integer, parse_integer
from raftkv.kv.command import MAX_KEY_BYTES, Command, Kind, Spec, Write
from raftkv.kv.keyspace import Changes, string_of
from raftkv.kv.replies import CommandError, Reply, fail
from raftkv.kv.rows import Value

RELEASE: Final = "c3f8721cbb97f72bc19e972846bd7aaf91901658"
EXTEND: Final = "a4e8783852e6b949f9ef3a97212805108459a890"
REACQUIRE: Final = "1cac51482acf5858da00f6d685d68f886cd6b6b2"

POSSIBLE: Final = "only the three scripts of redis-py's Lock can be run here; MULTI with WATCH does what other scripts do"
"""What to tell who asks for more."""

_NO_ARGUMENT: Final = "Lua redis lib command arguments must be strings or integers"
_EXACT: Final = 10.0**17
"""From here on a number of the scripts is no integer when it is written down."""


class _OwnerOnly(Write, frozen=True, array_like=True, gc=False):
    """A change of the lock at `key` that only the owner of `token` may make. None is what was not given."""

    key: bytes
    token: bytes | None

    def _held(self, changes: Changes, script: str) -> Value | None:
        """The lock, if it is the owner's."""
        value = changes.value(self.key)
        try:
            owner = None if value is None else string_of(value)
        except CommandError as error:
            _refuse(error.failure.message, script, 2, error.failure.code)
        return None if owner is None or owner != self.token else value

    def _keep(self, changes: Changes, value: Value, ttl_ms: int) -> Reply:
        """Let the lock live for `ttl_ms` from now."""
        due_ms = changes.clock_ms + ttl_ms
        if due_ms <= changes.clock_ms:
            changes.delete(self.key, value)
        else:
            changes.put(self.key, value.type, value.data, due_ms, value)
        return 1


class ReleaseLock(_OwnerOnly, frozen=True, array_like=True, gc=False, tag=180):
    """Release."""

    def apply(self, changes: Changes) -> Reply:
        value = self._held(changes, RELEASE)
        if value is None:
            return 0
        changes.delete(self.key, value)
        return 1


class ExtendLock(_OwnerOnly, frozen=True, array_like=True, gc=False, tag=181):
    """Extend."""

    ttl: bytes | None
    replace: bool

    def apply(self, changes: Changes) -> Reply:
        value = self._held(changes, EXTEND)
        if value is None or not value.expiry_ms:
            return 0
        if self.replace:
            return self._keep(changes, value, _milliseconds(self.ttl, changes, EXTEND, 18))
        amount = None if self.ttl is None else parse_integer(self.ttl)
        if amount is None:
            kind = "nil" if self.ttl is None else "string"
            _refuse(f"user_script:16: attempt to perform arithmetic on field '?' (a {kind} value)", EXTEND, 16)
        total = float(amount) + (value.expiry_ms - changes.clock_ms)
        if abs(total) >= _EXACT:
            _refuse(NOT_AN_INTEGER, EXTEND, 18)
        return self._keep(changes, value, _milliseconds(b"%d" % int(total), changes, EXTEND, 18))


class ReacquireLock(_OwnerOnly, frozen=True, array_like=True, gc=False, tag=182):
    """Reacquire."""

    ttl: bytes | None

    def apply(self, changes: Changes) -> Reply:
        value = self._held(changes, REACQUIRE)
        return 0 if value is None else self._keep(changes, value, _milliseconds(self.ttl, changes, REACQUIRE, 6))


def _milliseconds(ttl: bytes | None, changes: Changes, script: str, line: int) -> int:
    """What PEXPIRE, at `line` of `script`, makes of its argument."""
    if ttl is None:
        _refuse(_NO_ARGUMENT, script, line)
    try:
        number = integer(ttl)
    except CommandError as error:
        _refuse(error.failure.message, script, line)
    if changes.clock_ms + number > INT64_MAX:
        _refuse("invalid expire time in 'pexpire' command", script, line)
    return number


def _refuse(message: str, script: str, line: int, code: str = "ERR") -> NoReturn:
    fail(f"{message} script: {script}, on @user_script:{line}.", code)


def _release(key: bytes, args: Sequence[bytes]) -> Command:
    return ReleaseLock(key, _argument(args, 0))


def _extend(key: bytes, args: Sequence[bytes]) -> Command:
    return ExtendLock(key, _argument(args, 0), _argument(args, 1), _argument(args, 2) != b"0")


def _reacquire(key: bytes, args: Sequence[bytes]) -> Command:
    return ReacquireLock(key, _argument(args, 0), _argument(args, 1))


def _argument(args: Sequence[bytes], number: int) -> bytes | None:
    return args[number] if number < len(args) else None


SCRIPTS: Final[dict[str, Callable[[bytes, Sequence[bytes]], Command]]] = {RELEASE: _release, EXTEND: _extend, REACQUIRE: _reacquire}
"""Each script that can be run, by its SHA1: what makes a command of its key and its arguments."""


def sha1_of(text: bytes) -> str:
    """What a script with this text is called."""
    return hashlib.sha1(text, usedforsecurity=False).hexdigest()


def _parse_eval(args: Sequence[bytes]) -> Command:
    count = _key_count(args)
    script = sha1_of(args[1])
    if script not in SCRIPTS:
        fail(f"this script cannot be run: {POSSIBLE}")
    return _call(script, args, count)


def _parse_evalsha(args: Sequence[bytes]) -> Command:
    if len(args[1]) != len(RELEASE):
        fail("No matching script. Please use EVAL.", "NOSCRIPT")
    count = _key_count(args)
    script = args[1].lower().decode("latin-1")
    if script not in SCRIPTS:
        fail("No matching script. Please use EVAL.", "NOSCRIPT")
    return _call(script, args, count)


def _key_count(args: Sequence[bytes]) -> int:
    count = integer(args[2])
    if count > len(args) - 3:
        fail("Number of keys can't be greater than number of args")
    if count < 0:
        fail("Number of keys can't be negative")
    return count


def _call(script: str, args: Sequence[bytes], count: int) -> Command:
    if not count:
        _refuse(_NO_ARGUMENT, script, 2)
    if len(args[3]) > MAX_KEY_BYTES:
        fail(f"key is longer than {MAX_KEY_BYTES} bytes")
    return SCRIPTS[script](args[3], args[3 + count :])


def _spec(name: str, parse: Callable[[Sequence[bytes]], Command], summary: str) -> Spec:
    return Spec(
        name=name,
        arity=-3,
        kind=Kind.WRITE,
        parse=parse,
        summary=summary,
        group="scripting",
        flags=("noscript", "stale", "skip_monitor", "no_mandatory_keys", "movablekeys"),
    )


SPECS: Final = (
    _spec("eval", _parse_eval, "Execute one of the scripts of redis-py's Lock"),
    _spec("evalsha", _parse_evalsha, "Execute one of the scripts of redis-py's Lock, by its SHA1"),
)

COMMANDS: Final = (ReleaseLock, ExtendLock, ReacquireLock)
