"""Writes docs/commands.md from the table of commands: `python -m tests.documents.commands_table`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from raftkv.kv.command import MAX_KEY_BYTES, Kind, Spec
from raftkv.kv.commands import SPECS
from raftkv.server.settings import Limits

PATH: Final = Path(__file__).parents[2] / "docs" / "commands.md"

_GROUPS: Final = {
    "string": "Strings",
    "generic": "Keys",
    "hash": "Hashes",
    "list": "Lists",
    "set": "Sets",
    "sorted-set": "Sorted sets",
    "bitmap": "Bitmaps",
    "transactions": "Transactions",
    "pubsub": "Publish and subscribe",
    "scripting": "Scripts",
    "connection": "Connections",
    "server": "Server",
    "cluster": "Cluster",
    "raftkv": "Commands of raftkv's own",
}

_REDIS: Final = {
    "string": "append decr decrby get getdel getex getrange getset incr incrby incrbyfloat lcs mget mset msetnx psetex set setex setnx "
    "setrange strlen substr",
    "generic": "copy del dump exists expire expireat expiretime keys migrate move object persist pexpire pexpireat pexpiretime pttl "
    "randomkey rename renamenx restore scan sort sort_ro touch ttl type unlink wait",
    "hash": "hdel hexists hget hgetall hincrby hincrbyfloat hkeys hlen hmget hmset hrandfield hscan hset hsetnx hstrlen hvals",
    "list": "blmove blmpop blpop brpop brpoplpush lindex linsert llen lmove lmpop lpop lpos lpush lpushx lrange lrem lset ltrim rpop "
    "rpoplpush rpush rpushx",
    "set": "sadd scard sdiff sdiffstore sinter sintercard sinterstore sismember smembers smismember smove spop srandmember srem sscan "
    "sunion sunionstore",
    "sorted-set": "bzmpop bzpopmax bzpopmin zadd zcard zcount zdiff zdiffstore zincrby zinter zintercard zinterstore zlexcount zmpop "
    "zmscore zpopmax zpopmin zrandmember zrange zrangebylex zrangebyscore zrangestore zrank zrem zremrangebylex zremrangebyrank "
    "zremrangebyscore zrevrange zrevrangebylex zrevrangebyscore zrevrank zscan zscore zunion zunionstore",
    "bitmap": "bitcount bitfield bitfield_ro bitop bitpos getbit setbit",
    "hyperloglog": "pfadd pfcount pfmerge",
    "geo": "geoadd geodist geohash geopos georadius georadiusbymember geosearch geosearchstore",
    "stream": "xack xadd xautoclaim xclaim xdel xgroup xinfo xlen xpending xrange xread xreadgroup xrevrange xsetid xtrim",
    "transactions": "discard exec multi unwatch watch",
    "pubsub": "psubscribe publish pubsub punsubscribe spublish ssubscribe subscribe sunsubscribe unsubscribe",
    "scripting": "eval eval_ro evalsha evalsha_ro fcall fcall_ro function script",
    "connection": "auth client echo hello ping quit reset select",
    "server": "acl bgrewriteaof bgsave command config dbsize debug failover flushall flushdb info lastsave latency lolwut memory module "
    "monitor replicaof role save shutdown slaveof slowlog swapdb time",
    "cluster": "asking cluster readonly readwrite",
}
"""What Redis 7.0 has."""

_HEAD: Final = f"""# Commands

What a Redis client can ask of a raftkv node, in RESP2 and RESP3. Replies and errors are those of Redis 7.0.15 unless the last column says
otherwise; the test suite compares them with a real `redis-server`. *Write* commands go through the replicated log and are acknowledged
when a majority has them on disk; *read* commands are linearizable, or local on a connection that asked for `READONLY`; *node* commands
concern the connection, or the node that holds it.

A request has at most {Limits.max_request_arguments:,} arguments, where Redis takes 1,048,576: one with more ends its connection, so split
it. A key has at most {MAX_KEY_BYTES:,} bytes, and a write or a whole transaction at most {Limits.max_entry_bytes >> 20} MiB.

This page is made from the table of commands by `python -m tests.documents.commands_table`.
"""

_KINDS: Final = {Kind.READ: "read", Kind.WRITE: "write", Kind.CONNECTION: "node"}


def render() -> str:
    """The page."""
    lines = [_HEAD]
    for group, title in _GROUPS.items():
        specs = [spec for spec in SPECS.values() if _group(spec) == group]
        missing = [name for name in _REDIS.get(group, "").split() if name not in SPECS]
        if not specs and not missing:
            continue
        lines += [f"## {title}", ""]
        if specs:
            lines += ["| command | kind | what it does | unlike Redis |", "|---|---|---|---|"]
            lines += [f"| `{spec.name.upper()}` | {_KINDS[spec.kind]} | {spec.summary} | {spec.differs} |" for spec in specs]
            lines.append("")
        if missing:
            lines += [f"Not there: {_listed(missing)}.", ""]
    lines += ["## What there is nothing of", ""]
    lines += [f"- {group}: {_listed(names.split())}" for group, names in _REDIS.items() if group not in _GROUPS]
    return "\n".join(lines) + "\n"


def _group(spec: Spec) -> str:
    return "raftkv" if spec.name.startswith("raftkv.") else spec.group


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name.upper()}`" for name in names)


if __name__ == "__main__":
    PATH.write_text(render(), encoding="utf-8")
