"""Where the nodes are and how to talk to them, from a URL: ``raftkv://h1:7001,h2:7001?timeout=5``.

Everything is checked here, at the border: what comes out can be used. ``redis://`` means the same.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import Struct

from raftkv.errors import InvalidSettings

DEFAULT_PORT: Final = 7001
DEFAULT_TIMEOUT_S: Final = 5.0
DEFAULT_CONNECTIONS: Final = 16
LONGEST_TIMEOUT_S: Final = 86_400.0

_SCHEMES: Final = ("raftkv", "redis")


class Address(Struct, frozen=True, order=True):
    """Where a node takes clients."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Settings(Struct, frozen=True, kw_only=True):
    """What a client is told.

    Raises:
        InvalidSettings: a value cannot be used.
    """

    addresses: tuple[Address, ...]
    timeout_s: float = DEFAULT_TIMEOUT_S
    max_connections: int = DEFAULT_CONNECTIONS
    username: str = "default"
    password: str | None = None

    def __post_init__(self) -> None:
        check_timeout(self.timeout_s)
        if self.max_connections < 1:
            raise InvalidSettings(f"max_connections is {self.max_connections}; it must be at least 1")
        if not self.addresses:
            raise InvalidSettings("the URL names no node; write raftkv://host:port")


def check_timeout(timeout_s: float) -> float:
    """`timeout_s`, if it is a time that a call may take.

    Raises:
        InvalidSettings: it is not.
    """
    if not 0 < timeout_s <= LONGEST_TIMEOUT_S:
        raise InvalidSettings(f"timeout is {timeout_s}; it must be more than 0 and at most {LONGEST_TIMEOUT_S:g} seconds")
    return timeout_s


def parse_url(url: str, *, timeout_s: float | None = None, max_connections: int | None = None) -> Settings:
    """The settings in `url`; an argument that is not None takes the place of what the URL says.

    Args:
        url: ``raftkv://[user:password@]host[:port][,host[:port]…][/0][?timeout=seconds&max_connections=n]``.
        timeout_s: how long a call may take.
        max_connections: how many connections there may be at a time.

    Raises:
        InvalidSettings: the URL is something else; the message says what.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise InvalidSettings(f"the URL begins with {parts.scheme or url[:20]!r}; it must begin with raftkv:// or redis://")
    if parts.path not in ("", "/", "/0"):
        raise InvalidSettings(f"the URL asks for database {parts.path[1:]!r}; there is only number 0")
    credentials, _, places = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    told_timeout_s = _number("timeout", options.pop("timeout", None), DEFAULT_TIMEOUT_S)
    told_connections = int(_number("max_connections", options.pop("max_connections", None), DEFAULT_CONNECTIONS))
    if options:
        raise InvalidSettings(f"the URL has the option {min(options)!r}; there are timeout and max_connections")
    return Settings(
        addresses=tuple(_address(place) for place in places.split(",") if place),
        timeout_s=told_timeout_s if timeout_s is None else timeout_s,
        max_connections=told_connections if max_connections is None else max_connections,
        username=unquote(user) or "default",
        password=unquote(password) if credentials else None,
    )


def _number(name: str, text: str | None, default: float) -> float:
    if text is None:
        return default
    try:
        number = float(text)
        if name == "max_connections":
            number = int(text)
    except ValueError as error:
        raise InvalidSettings(f"{name} in the URL is {text!r}; it must be a number") from error
    return number


def _address(place: str) -> Address:
    host, colon, port = place.rpartition(":")
    if place.endswith("]") or not colon:  # an IPv6 address alone, or a host alone
        host, port = place, str(DEFAULT_PORT)
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidSettings(f"the URL names the node {place!r}; its port must be from 1 to 65535")
    host = host.removeprefix("[").removesuffix("]")
    if not host:
        raise InvalidSettings(f"the URL names the node {place!r}, which has no host")
    return Address(host, int(port))
