"""What the table knows of the commands that concern a node or the cluster. What they do is not here: the node executes them."""

from __future__ import annotations

from typing import Final

from raftkv.kv.command import Spec, Subcommand, subcommand
from raftkv.kv.connection_commands import NONDETERMINISTIC, node_spec

_FLAGS: Final = "loading stale"
_ADMIN: Final = "admin noscript loading stale"

_AT_ALL_NODES: Final = ("request_policy:all_nodes", "response_policy:all_succeeded")
_OF_ALL_NODES: Final = (*NONDETERMINISTIC, "request_policy:all_nodes", "response_policy:special")

_ACL: Final = (
    subcommand("LIST", 2, "List the users and what they may do", _ADMIN),
    subcommand("USERS", 2, "List the names of the users", _ADMIN),
    subcommand("WHOAMI", 2, "Return the user of this connection", "noscript loading stale"),
)

_CLUSTER: Final = (
    subcommand("COUNTKEYSINSLOT <slot>", 3, "Count the keys of a slot, which is not possible", "stale"),
    subcommand("GETKEYSINSLOT <slot> <count>", 4, "Return keys of a slot, which is not possible", "stale", tips=NONDETERMINISTIC),
    subcommand("INFO", 2, "Describe the cluster", "stale", tips=NONDETERMINISTIC),
    subcommand("KEYSLOT <key>", 3, "Return the slot of a key", "stale"),
    subcommand("MYID", 2, "Return the id of this node", "stale"),
    subcommand("NODES", 2, "Describe the nodes, one a line", "stale", tips=NONDETERMINISTIC),
    subcommand("REPLICAS <node-id>", 3, "Describe the replicas of a node", "admin stale", tips=NONDETERMINISTIC),
    subcommand("SHARDS", 2, "Return the slots and the nodes that have them", "stale", tips=NONDETERMINISTIC),
    subcommand("SLAVES <node-id>", 3, "Describe the replicas of a node", "admin stale", tips=NONDETERMINISTIC),
    subcommand("SLOTS", 2, "Return the slots and the nodes that have them, as older clients expect it", "stale", tips=NONDETERMINISTIC),
)

_COMMAND: Final = (
    subcommand("COUNT", 2, "Count the commands", _FLAGS),
    subcommand("DOCS [<name> ...]", -2, "Tell what commands do", _FLAGS, tips=("nondeterministic_output_order",)),
    subcommand("GETKEYS <command> [<argument> ...]", -4, "Return the keys in a command", _FLAGS),
    subcommand("INFO [<name> ...]", -2, "Describe commands", _FLAGS, tips=("nondeterministic_output_order",)),
    subcommand(
        "LIST [FILTERBY <MODULE|ACLCAT|PATTERN> <value>]", -2, "List the names of commands", _FLAGS, tips=("nondeterministic_output_order",)
    ),
)

_CONFIG: Final = (
    subcommand("GET <pattern> [<pattern> ...]", -3, "Return parameters and their values", _ADMIN),
    subcommand("RESETSTAT", 2, "Begin to count anew what INFO tells", _ADMIN),
    subcommand("REWRITE", 2, "Write the parameters to a file, of which there is none", _ADMIN),
    subcommand(
        "SET <parameter> <value> [<parameter> <value> ...]",
        -4,
        "Set parameters to the values that they have",
        _ADMIN,
        tips=_AT_ALL_NODES,
    ),
)

_LATENCY: Final = (
    subcommand("HISTORY <event>", 3, "Return how long an event took: nothing is recorded", _ADMIN, tips=_OF_ALL_NODES),
    subcommand("LATEST", 2, "Return the latest events: nothing is recorded", _ADMIN, tips=_OF_ALL_NODES),
    subcommand("RESET [<event> ...]", -2, "Forget the events", _ADMIN, tips=_AT_ALL_NODES),
)

_SLOWLOG: Final = (
    subcommand(
        "GET [<count>]",
        -2,
        "Return slow commands: none are recorded",
        "admin loading stale",
        tips=("request_policy:all_nodes", *NONDETERMINISTIC),
    ),
    subcommand(
        "LEN",
        2,
        "Count the slow commands that are recorded: none",
        "admin loading stale",
        tips=("request_policy:all_nodes", "response_policy:agg_sum", *NONDETERMINISTIC),
    ),
    subcommand("RESET", 2, "Forget the slow commands", "admin loading stale", tips=_AT_ALL_NODES),
)

_REPLICA: Final = "Refused, as by a node of a Redis cluster."
_SAVES: Final = "Answers an error: every acknowledged write is on disk already, and nothing would be started."


def _container(name: str, summary: str, subcommands: tuple[Subcommand, ...], group: str = "server", differs: str = "") -> Spec:
    return node_spec(name, -2, summary, "", group, differs=differs, subcommands=subcommands)


SPECS: Final = (
    _container("acl", "A container for commands on users", _ACL, differs="There is one user, `default`, who may do everything."),
    node_spec("bgrewriteaof", 1, "Rewrite the append-only file", "admin noscript no_async_loading", "server", differs=_SAVES),
    node_spec("bgsave", -1, "Save the state in the background", "admin noscript no_async_loading", "server", differs=_SAVES),
    _container(
        "cluster",
        "A container for commands on the cluster",
        _CLUSTER,
        "cluster",
        differs="All slots are the leader's, and the other nodes its replicas, but any node takes any command. Keys are not kept by slot, "
        "so those of a slot cannot be counted. Nothing is changed this way.",
    ),
    node_spec(
        "command",
        -1,
        "Get details about commands",
        "loading stale",
        "server",
        tips=("nondeterministic_output_order",),
        differs="DOCS tells summary and group, not arguments; INFO tells no key specifications; GETKEYSANDFLAGS is not there.",
        subcommands=_COMMAND,
    ),
    _container(
        "config",
        "A container for commands on the configuration",
        _CONFIG,
        differs="GET knows the parameters that mean something here. SET refuses to change any: a node is configured when it starts.",
    ),
    node_spec(
        "debug",
        -2,
        "A container for commands of tests",
        "admin noscript loading stale",
        "server",
        differs="SLEEP delays this connection alone; RELOAD, LOADAOF, SET-ACTIVE-EXPIRE and QUICKLIST-PACKED-THRESHOLD change nothing that "
        "can be seen; nothing else is there.",
    ),
    node_spec(
        "info",
        -1,
        "Get information and statistics about the node",
        "loading stale",
        "server",
        tips=(*NONDETERMINISTIC, "request_policy:all_shards", "response_policy:special"),
        differs="Tells what this node knows and counts. It does not count how often each command was executed, nor the keys: see DBSIZE.",
    ),
    node_spec("lastsave", 1, "Tell when the state was saved last", "loading stale fast", "server", tips=NONDETERMINISTIC, differs=_SAVES),
    _container("latency", "A container for commands on latency", _LATENCY, differs="Latency is not recorded."),
    node_spec("raftkv.status", 1, "Describe the cluster as this node sees it, in JSON", "loading stale", "server", tips=NONDETERMINISTIC),
    node_spec("raftkv.transfer", -1, "Hand the leadership to another node", "admin noscript", "server"),
    node_spec("replicaof", 3, "Make the node a replica of another", "admin noscript no_async_loading stale", "server", differs=_REPLICA),
    node_spec("role", 1, "Return the role of the node", "noscript loading stale fast", "server"),
    node_spec("save", 1, "Save the state", "admin noscript no_async_loading no_multi", "server", differs=_SAVES),
    node_spec(
        "shutdown",
        -1,
        "Stop the node",
        "admin noscript loading stale no_multi allow_busy",
        "server",
        differs="Refused: a node is stopped by a signal to its process.",
    ),
    node_spec("slaveof", 3, "Make the node a replica of another", "admin noscript no_async_loading stale", "server", differs=_REPLICA),
    _container("slowlog", "A container for commands on slow commands", _SLOWLOG, differs="Slow commands are not recorded."),
    node_spec("time", 1, "Return the wall clock of the node", "loading stale fast", "server", tips=NONDETERMINISTIC),
)
