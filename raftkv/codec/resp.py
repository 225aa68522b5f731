"""RESP, the protocol of Redis clients, as pure functions of bytes: requests in, replies out.

`RequestParser` turns what a client sends (arrays of bulk strings, or inline lines) into lists of arguments; `encode_replies` turns
replies into RESP2 or RESP3. What always holds:

- Every count and length is compared with the limits before anything is kept for it. What a parser holds is at most what it was fed.
- The requests found do not depend on how the bytes were cut into pieces.
- The work is linear in the bytes fed, also when a large value arrives in small pieces.
- No reply, whatever it holds, can end a line early: a status or an error never contains CR or LF on the wire.

Texts of protocol errors are Redis's own. This parser is stricter than Redis in two points: the two bytes after a bulk string must be
CR LF (a client that miscounts is told at once, rather than having its data read as commands), and so must the end of a length.

There are no sockets here, and nothing is known of commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct

from raftkv.errors import InvalidSettings
from raftkv.kv.replies import OK, Failure, NoArray, Pairs, Pushes, Reply, SetReply, Simple
from raftkv.kv.scores import spell

ARGUMENT_OVERHEAD_BYTES = 48
"""What an argument is counted as beyond its own bytes, when the size of a request is bounded."""

_SHORT = 4096 + 1
_FEW = 10
_WINDOW = 32 * 1024
_SMALL = 1024
# The lines that begin an argument of each short length, and a request of few arguments. Looking a line up proves it well-formed.
_BULK_LINES = [b"$%d" % length for length in range(_SHORT)]
_LENGTHS = {b"$%d\r" % length: length for length in range(_SHORT)}
_COUNT_LINES = {b"*%d" % count: count for count in range(1, _FEW + 1)}

# What a browser that was tricked into sending a request here begins a line with; Redis closes such connections too.
_HTTP = (b"post ", b"host:")

_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,17}")


class RequestLimits(Struct, frozen=True, kw_only=True):
    """How large a request may be.

    `authenticated` only chooses the wording of errors: Redis words those of small limits before authentication differently.

    Raises:
        InvalidSettings: a limit is below what the smallest useful request needs.
    """

    max_arguments: int = 1024 * 1024
    max_bulk_bytes: int = 512 * 1024 * 1024
    max_request_bytes: int = 1024 * 1024 * 1024
    max_line_bytes: int = 64 * 1024
    authenticated: bool = True

    def __post_init__(self) -> None:
        least = {"max_arguments": _FEW, "max_bulk_bytes": _SHORT, "max_request_bytes": 48 * 1024, "max_line_bytes": 1024}
        for name, minimum in least.items():
            value = getattr(self, name)
            if value < minimum:
                raise InvalidSettings(f"{name} is {value}; it must be at least {minimum}")


BEFORE_AUTHENTICATION = RequestLimits(
    max_arguments=10, max_bulk_bytes=16 * 1024, max_request_bytes=64 * 1024, max_line_bytes=4 * 1024, authenticated=False
)
"""Limits for a client that has not proved who it is: Redis's own for counts and lengths."""


class _Bad(Exception):
    """The bytes are not the protocol; the argument is the text for the client."""


def _integer(text: bytes) -> int | None:
    """`text` as Redis reads an integer: no spaces, signs of plus, leading zeros or underscores."""
    return int(text) if _INTEGER.fullmatch(text) else None


class RequestParser:
    """Requests from bytes.

    `limits` may be replaced at any time and holds for what is parsed afterwards. `backlog` says whether the last `feed` stopped at
    `most`, so that more requests may be found without more bytes. `problem` is the error to answer when the bytes
    stopped being the protocol; from then on nothing more is parsed and the connection has to be closed (after the replies to the
    requests before it).
    """

    def __init__(self, limits: RequestLimits) -> None:
        self.limits = limits
        self.problem: Failure | None = None
        self.backlog = False
        self._pending = bytearray()
        self._need = 0  # bytes of `_pending` below which no progress is possible
        self._scanned = -1  # when a line is awaited: bytes of `_pending` known to hold no line feed; else -1
        self._empty = 0  # requests without arguments in this `feed`
        # The request being read: its arguments so far, how many are missing, its size, and the length of the next, if known.
        self._arguments: list[bytes] = []
        self._missing = 0
        self._size = 0
        self._length = -1

    @property
    def pending_bytes(self) -> int:
        """About how many bytes are kept of what was fed and not yet returned as requests."""
        if not self._pending and not self._size:
            return 0
        awaited = self._length + ARGUMENT_OVERHEAD_BYTES if self._length >= 0 else 0
        return len(self._pending) + self._size - awaited

    def feed(self, data: bytes, most: int = 1 << 30) -> list[list[bytes]]:
        """The requests that `data`, after everything fed before, completes: at most `most`.

        When there may be more (`backlog`), `feed(b"")` goes on: at once, or when others have had their turn. Empty requests are not
        returned and count too, so that `most` bounds the work. A request is a list of at least one argument. Never raises: see
        `problem`.
        """
        if self.problem is not None:
            return []
        if self._pending:
            self._pending += data
            if not self._progress_possible():
                return []
            data = bytes(self._pending)
            self._pending = bytearray()
        requests: list[list[bytes]] = []
        if len(data) <= _SMALL and most > _FEW and not self._missing:  # most likely one whole request and nothing else
            pieces = data.split(b"\r\n")
            if not pieces[-1] and _match(pieces, most, requests)[0] == len(pieces) - 1:
                self.backlog = False
                return requests
            requests.clear()
        try:
            position = self._parse(data, most, requests)
        except _Bad as error:
            self.problem = Failure("ERR", f"Protocol error: {error}")
            self._arguments = []
            self._size = 0
            self._length = -1
            self.backlog = False
            return requests
        if position < len(data):
            self._pending = bytearray(data[position:] if position else data)
        return requests

    def _parse(self, data: bytes, most: int, requests: list[list[bytes]]) -> int:
        """Append to `requests` what `data` holds, at most `most`; how far it came.

        Long runs of short requests go through `_parse_short`. Each time that it finds nothing, more requests go through the complete
        parser before it is tried again.
        """
        position = 0
        left = most
        stride = 1
        self._empty = 0
        while True:
            if left > _FEW and not self._missing:
                before = position
                position = _parse_short(data, position, left, requests)
                if position == len(data):
                    self.backlog = False
                    return position
                stride = min(2 * stride, 64) if position == before else 1
                left = most - len(requests) - self._empty
            position = self._parse_any(data, position, min(left, stride), requests)
            left = most - len(requests) - self._empty
            if left <= 0 or not self.backlog:
                return position

    def _progress_possible(self) -> bool:
        """Whether what is pending can now be more than the beginning of a line or of an argument."""
        if self._scanned >= 0:
            if self._pending.find(b"\n", self._scanned) < 0 and len(self._pending) <= self.limits.max_line_bytes:
                self._scanned = len(self._pending)
                return False
            self._scanned = -1
            return True
        return len(self._pending) >= self._need

    def _parse_any(self, data: bytes, position: int, most: int, requests: list[list[bytes]]) -> int:
        """The same from `position` on, for requests of any kind; `backlog` says whether it stopped because of `most`."""
        end = len(data)
        most += len(requests) + self._empty
        self.backlog = False
        self._need = 0
        self._scanned = -1
        while position < end:
            if self._missing == 0:
                if len(requests) + self._empty >= most:
                    self.backlog = True
                    return position
                line_end = self._line_end(data, position)
                if line_end < 0:
                    return position
                if data[position] == 0x2A:
                    self._begin(data[position + 1 : line_end - 1], data[line_end - 1])
                    self._empty += self._missing == 0
                else:
                    arguments = split_inline(data[position:line_end])
                    if arguments:
                        requests.append(arguments)
                    else:
                        self._empty += 1
                position = line_end + 1
                continue
            position = self._parse_arguments(data, position)
            if self._missing:
                return position
            requests.append(self._arguments)
            self._arguments = []
            self._size = 0
        return position

    def _parse_arguments(self, data: bytes, position: int) -> int:
        """Take as many of the missing arguments as `data` holds from `position` on; how far it came."""
        arguments = self._arguments
        length = self._length
        size = self._size
        limits = self.limits
        line_bytes = limits.max_line_bytes + 1
        for _ in range(self._missing):
            if length < 0:
                line_end = data.find(b"\n", position, position + line_bytes)
                if line_end < 0:
                    self._no_line_end(data, position)
                    break
                line = data[position:line_end]
                known = _LENGTHS.get(line)
                length = self._check_argument(line) if known is None else known
                size += length + ARGUMENT_OVERHEAD_BYTES
                if size > limits.max_request_bytes:
                    raise _Bad("too big request")
                position = line_end + 1
            stop = position + length
            after = stop + 2
            if after > len(data):
                self._need = after - position
                break
            if data[stop:after] != b"\r\n":
                raise _Bad("expected CR LF after a bulk string")
            arguments.append(data[position:stop])
            position = after
            length = -1
            self._missing -= 1
        self._length = length
        self._size = size
        return position

    def _line_end(self, data: bytes, position: int) -> int:
        """Where the line feed of the line at `position` is, or -1 when it has not arrived."""
        found = data.find(b"\n", position, position + self.limits.max_line_bytes + 1)
        if found < 0:
            self._no_line_end(data, position)
        return found

    def _no_line_end(self, data: bytes, position: int) -> None:
        """Note that the line has to go on, if it may."""
        if len(data) - position > self.limits.max_line_bytes:
            if self._missing:
                raise _Bad("too big bulk count string")
            raise _Bad("too big mbulk count string" if data[position] == 0x2A else "too big inline request")
        self._scanned = len(data) - position

    def _begin(self, digits: bytes, last: int) -> None:
        """A request of as many arguments as `digits` says begins; none or fewer is no request at all."""
        count = _integer(digits)
        if count is None or last != 0x0D or (count > self.limits.max_arguments and self.limits.authenticated):
            raise _Bad("invalid multibulk length")
        if count > self.limits.max_arguments:
            raise _Bad("unauthenticated multibulk length")
        self._missing = max(count, 0)
        self._size = 0
        self._length = -1

    def _check_argument(self, line: bytes) -> int:
        """The length of an argument that begins with `line` (without its line feed), when it is not a short one."""
        if not line.startswith(b"$"):
            got = line[:1].strip(b"\r") or b" "
            raise _Bad(f"expected '$', got '{got.decode('utf-8', 'surrogateescape')}'")
        length = _integer(line[1:-1]) if line.endswith(b"\r") else None
        if length is None or length < 0 or (length > self.limits.max_bulk_bytes and self.limits.authenticated):
            raise _Bad("invalid bulk length")
        if length > self.limits.max_bulk_bytes:
            raise _Bad("unauthenticated bulk length")
        return length


def _parse_short(data: bytes, position: int, most: int, requests: list[list[bytes]]) -> int:
    """Append to `requests` the whole requests from `position` on, while they are made of few short arguments; how far it came.

    Cuts a window of `data` at every CR LF at once, in C, and then checks that the pieces are what the lines before them say. The first
    piece that is not (a long value, a value with CR LF in it, an incomplete request, an error) is left to the complete parser. All
    limits are at least as large as what is accepted here.
    """
    whole = True
    most += len(requests)
    while whole and len(requests) < most and data.startswith(b"*", position):
        window = data[position : position + _WINDOW] if position or len(data) > _WINDOW else data
        pieces = window.split(b"\r\n")
        begin, whole = _match(pieces, most, requests)
        if begin == 0:
            return position
        position += len(window)
        for piece in pieces[begin:-1]:
            position -= len(piece) + 2
        position -= len(pieces[-1])
    return position


def _match(pieces: list[bytes], most: int, requests: list[list[bytes]]) -> tuple[int, bool]:
    """Append the requests that `pieces` are; how many pieces they took, and whether only the end of `pieces` stopped it."""
    last = len(pieces) - 1
    counts = _COUNT_LINES
    lines = _BULK_LINES
    begin = 0
    try:
        while begin < last:
            stop = begin + 1 + 2 * counts[pieces[begin]]
            if stop > last or len(requests) >= most:
                return begin, True
            arguments = pieces[begin + 2 : stop : 2]
            at = begin + 1
            for argument in arguments:
                if lines[len(argument)] != pieces[at]:
                    return begin, False
                at += 2
            requests.append(arguments)
            begin = stop
    except (KeyError, IndexError):
        return begin, False
    return begin, True


_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_SINGLE_QUOTED = re.compile(rb"'((?:[^'\\]|\\'|\\(?!'))*)'")
_BARE = re.compile(rb"[^ \n\r\t\"']+")
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}
_SPACE = b" \t\n\r\v\f"


def _unescape(match: re.Match[bytes]) -> bytes:
    what = match[1]
    return bytes([int(what[1:], 16)]) if len(what) == 3 else _ESCAPED.get(what, what)


def split_inline(line: bytes) -> list[bytes]:
    """The arguments in an inline `line`, by Redis's rules of quoting.

    Raises:
        _Bad: quotes are not balanced, a closing quote is followed by something else than a space, or it is a line of an HTTP request.
            Caught by `RequestParser`.
    """
    line = line.partition(b"\0")[0]
    if line[:5].lower() in _HTTP:
        raise _Bad("HTTP is not spoken here")
    if b'"' not in line and b"'" not in line and b"\v" not in line and b"\f" not in line:
        return line.split()
    arguments: list[bytes] = []
    position = 0
    end = len(line)
    while True:
        while position < end and line[position] in _SPACE:
            position += 1
        if position == end:
            return arguments
        parts: list[bytes] = []
        while position < end and line[position] not in b" \n\r\t":
            bare = _BARE.match(line, position)
            if bare:
                parts.append(bare[0])
                position = bare.end()
                continue
            double = line[position] == 0x22
            quoted = (_QUOTED if double else _SINGLE_QUOTED).match(line, position)
            if quoted is None or (quoted.end() < end and line[quoted.end()] not in _SPACE):
                raise _Bad("unbalanced quotes in request")
            parts.append(_ESCAPE.sub(_unescape, quoted[1]) if double else quoted[1].replace(b"\\'", b"'"))
            position = quoted.end()
            break
        arguments.append(b"".join(parts))


# --- replies -------------------------------------------------------------------------------------------------------------------

_LONG = 4096
_INT64 = 1 << 63
_LINE_BREAKS = {0x0D: 0x20, 0x0A: 0x20}


def encode_reply(reply: Reply, protocol: int) -> bytes:
    """`reply` on the wire; `protocol` is 2 or 3."""
    return encode_replies((reply,), protocol)


def encode_replies(replies: Iterable[Reply], protocol: int) -> bytes:
    """`replies`, one after the other, on the wire; `protocol` is 2 or 3."""
    parts: list[bytes] = []
    _append(parts, replies, protocol)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _append(parts: list[bytes], replies: Iterable[Reply], protocol: int) -> None:
    for reply in replies:
        if reply is OK:
            parts.append(b"+OK\r\n")
        elif isinstance(reply, bytes):
            if len(reply) < _LONG:
                parts.append(b"$%d\r\n%b\r\n" % (len(reply), reply))
            else:
                parts += (b"$%d\r\n" % len(reply), reply, b"\r\n")
        elif isinstance(reply, Simple):
            parts.append(b"+%b\r\n" % _line(reply.text))
        elif reply is None:
            parts.append(b"$-1\r\n" if protocol == 2 else b"_\r\n")
        elif type(reply) is int and -_INT64 <= reply < _INT64:
            parts.append(b":%d\r\n" % reply)
        elif isinstance(reply, int):
            parts.append(_unusual_integer(reply, protocol))
        elif isinstance(reply, list):
            parts.append(b"*%d\r\n" % len(reply))
            _append(parts, reply, protocol)
        elif isinstance(reply, Failure):
            parts.append(b"-%b\r\n" % _line(f"{reply.code} {reply.message}"))
        elif isinstance(reply, float):
            text = spell(reply)
            parts.append(b"$%d\r\n%b\r\n" % (len(text), text) if protocol == 2 else b",%b\r\n" % text)
        elif isinstance(reply, NoArray):
            parts.append(b"*-1\r\n" if protocol == 2 else b"_\r\n")
        elif isinstance(reply, Pushes):
            for message in reply.messages:
                parts.append(b"*%d\r\n" % len(message) if protocol == 2 else b">%d\r\n" % len(message))
                _append(parts, message, protocol)
        elif isinstance(reply, SetReply):
            parts.append((b"*%d\r\n" if protocol == 2 else b"~%d\r\n") % len(reply.members))
            _append(parts, reply.members, protocol)
        elif isinstance(reply, dict):
            parts.append(b"*%d\r\n" % (2 * len(reply)) if protocol == 2 else b"%%%d\r\n" % len(reply))
            for pair in reply.items():
                _append(parts, pair, protocol)
        else:
            _append_pairs(parts, reply, protocol)


def _append_pairs(parts: list[bytes], reply: Pairs, protocol: int) -> None:
    parts.append(b"*%d\r\n" % (len(reply.pairs) * (2 if protocol == 2 else 1)))
    for pair in reply.pairs:
        if protocol != 2:
            parts.append(b"*2\r\n")
        _append(parts, pair, protocol)


def _unusual_integer(reply: int, protocol: int) -> bytes:
    """A boolean, or an integer beyond 64 bits."""
    if isinstance(reply, bool):
        return b":%d\r\n" % reply if protocol == 2 else b"#t\r\n" if reply else b"#f\r\n"
    text = b"%d" % reply
    return b"$%d\r\n%b\r\n" % (len(text), text) if protocol == 2 else b"(%b\r\n" % text


def _line(text: str) -> bytes:
    """`text` as the rest of one line: line breaks become spaces, bytes that came in as surrogates go out as they were."""
    try:
        return text.translate(_LINE_BREAKS).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.translate(_LINE_BREAKS).encode("utf-8", "replace")
