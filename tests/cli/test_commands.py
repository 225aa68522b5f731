"""The commands as a shell sees them: what they print, and the exit codes 0 done, 1 failed, 2 used wrongly."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import raftkv
from raftkv.server.settings import Address, NodeSettings
from raftkv_cli.main import main
from tests.cli.fake_node import FakeNode, bulk

NODE = ["node", "--name", "n1", "--data-dir", "data", "--client", "127.0.0.1:7001", "--peer", "127.0.0.1:7101"]
STATUS = {
    "cluster": "raftkv",
    "leader": "n2",
    "term": 3,
    "nodes": [
        {
            "name": "n1",
            "role": "unreachable",
            "pid": None,
            "client": None,
            "peer": "127.0.0.1:7101",
            "last": None,
            "committed": None,
            "applied": None,
            "digest": None,
            "lag": None,
        },
        {
            "name": "n2",
            "role": "leader",
            "pid": 42,
            "client": "127.0.0.1:7002",
            "peer": "127.0.0.1:7102",
            "last": 9,
            "committed": 9,
            "applied": 9,
            "digest": "00ff",
            "lag": 0,
        },
    ],
}


def run(*arguments: str) -> Result:
    """What `raftkv` does with `arguments`, in this process."""
    return CliRunner().invoke(main, list(arguments))


def answer_status(request: list[bytes]) -> bytes:
    """What a node answers to RAFTKV.STATUS."""
    return bulk(json.dumps(STATUS).encode()) if request == [b"RAFTKV.STATUS"] else b"-ERR unknown command\r\n"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[NodeSettings]:
    """The settings that `raftkv node` would have run nodes with."""
    settings: list[NodeSettings] = []
    server = types.ModuleType("raftkv.server.node")

    def record(given: NodeSettings) -> int:
        settings.append(given)
        return 0

    vars(server)["run"] = record
    monkeypatch.setitem(sys.modules, "raftkv.server.node", server)
    return settings


def test_the_module_is_the_command() -> None:
    """`python -m raftkv_cli --version` prints the version of the package."""
    command = [sys.executable, "-m", "raftkv_cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, f"raftkv, version {raftkv.__version__}")


def test_a_node_gets_what_the_command_line_says(started: list[NodeSettings], tmp_path: Path) -> None:
    """Every option of `raftkv node` reaches the settings, and the secret loses the newline of its file."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"0123456789abcdef\n")
    result = run(
        *NODE, "--admin", "127.0.0.1:7201", "--advertise-client", "a:1", "--advertise-peer", "b:2", "--cluster-name", "c",
        "--cluster", "n1=b:2,n2=127.0.0.1:7102", "--secret-file", str(secret), "--insecure", "--stop-at-end-of-input",
        "--compact-entries", "9", "--compact-bytes", "99", "--log-format", "json", "--log-level", "debug",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    [settings] = started
    assert settings.cluster == {"n1": Address("b", 2), "n2": Address("127.0.0.1", 7102)}
    assert (settings.name, settings.data_dir, settings.cluster_name) == ("n1", Path("data"), "c")
    assert (settings.client, settings.peer, settings.admin) == tuple(Address("127.0.0.1", port) for port in (7001, 7101, 7201))
    assert (settings.advertise_client, settings.advertise_peer) == (Address("a", 1), Address("b", 2))
    assert (settings.secret, settings.insecure, settings.stop_at_end_of_input) == (b"0123456789abcdef", True, True)
    assert (settings.tuning.compact_entries, settings.tuning.compact_bytes) == (9, 99)
    assert (settings.log_format, settings.log_level) == ("json", "debug")


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--client", "nowhere"], "HOST:PORT"),
        (["--client", "10.0.0.1:7001"], "secret"),
        (["--cluster", "n2=127.0.0.1:7102"], "does not list"),
        (["--cluster", "n1"], "NAME=HOST:PORT"),
        (["--name", "a/b"], "--name"),
        (["--secret-file", "no-such-file"], "cannot be read"),
        (["--log-level", "loud"], "--log-level"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_a_node_used_wrongly_says_what_to_do(started: list[NodeSettings], extra: list[str], says: str) -> None:
    """A setting that cannot be used ends the command with exit code 2 and a message that names it, before anything is opened."""
    result = run(*NODE, *extra)
    assert (result.exit_code, started) == (2, [])
    assert says in result.output


def test_a_secret_file_must_be_short(started: list[NodeSettings], tmp_path: Path) -> None:
    """A file that is too large to be a secret is refused and not read to its end."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 5000)
    result = run(*NODE, "--secret-file", str(secret))
    assert (result.exit_code, started) == (2, [])
    assert "4096 bytes" in result.output


def test_status_as_json_is_exactly_what_the_node_knows() -> None:
    """`raftkv status --json` prints the documented fields, as the node that was asked gave them."""
    with FakeNode(answer_status) as node:
        result = run("status", "--server", node.address, "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, STATUS)


def test_status_as_a_table_shows_every_node() -> None:
    """`raftkv status` names the leader and has a row for each node, one that is unreachable too."""
    with FakeNode(answer_status) as node:
        result = run("status", "--server", node.address)
    assert "leader n2" in result.stdout
    assert [line.split()[:2] for line in result.stdout.splitlines()[2:]] == [["n1", "unreachable"], ["n2", "leader"]]


def test_the_next_server_is_asked_when_one_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several servers, here from the environment, the first that answers is asked."""
    with FakeNode(answer_status) as node:
        monkeypatch.setenv("RAFTKV_SERVER", f"127.0.0.1:1,{node.address}")
        assert run("status", "--json").exit_code == 0


def test_status_without_any_node_fails_and_names_each() -> None:
    """When nobody answers, the exit code is 1 and the message names each address and what can be done."""
    result = run("status", "--server", "127.0.0.1:1,127.0.0.1:2")
    assert result.exit_code == 1
    assert all(part in result.output for part in ("127.0.0.1:1", "127.0.0.1:2", "RAFTKV_SERVER"))


NO_STATUS = (b"{}", b"no json", b'{"term":"\xff"}', b'{"x":' + b"[" * 3000)


@pytest.mark.parametrize("reply", [*map(bulk, NO_STATUS), b"+OK\r\n", b"-NOAUTH no\r\n", b"$-1\r\n"])
def test_status_of_something_else_fails(reply: bytes) -> None:
    """What is not a status, or a refusal, is an error in words and never a traceback."""
    with FakeNode(lambda request: reply) as node:
        result = run("status", "--server", node.address)
    assert (result.exit_code, isinstance(result.exception, SystemExit)) == (1, True)
    assert "Error" in result.output


@pytest.mark.parametrize(("arguments", "sent"), [([], [b"RAFTKV.TRANSFER"]), (["--to", "n2"], [b"RAFTKV.TRANSFER", b"n2"])])
def test_a_transfer_is_asked_for(arguments: list[str], sent: list[bytes]) -> None:
    """`raftkv leader transfer` sends RAFTKV.TRANSFER, with the node if one is named, and shows the answer."""
    with FakeNode(lambda request: b"+OK\r\n") as node:
        result = run("leader", "transfer", "--server", node.address, *arguments)
    assert (result.exit_code, result.stdout.strip(), node.requests) == (0, "OK", [sent])


def test_a_refused_transfer_fails() -> None:
    """The leader's refusal is shown, and the exit code is 1."""
    with FakeNode(lambda request: b"-ERR n9 is not a member\r\n") as node:
        result = run("leader", "transfer", "--to", "n9", "--server", node.address)
    assert result.exit_code == 1
    assert "n9 is not a member" in result.output


def write_state(directory: Path, content: Callable[[], bytes] | bytes) -> None:
    """Put a list of running nodes where `cluster ps` looks."""
    (directory / "cluster.json").write_bytes(content if isinstance(content, bytes) else content())


def test_ps_tells_who_answers(tmp_path: Path) -> None:
    """`raftkv cluster ps` lists each node of the state file, and whether it answers PING."""
    with FakeNode(lambda request: b"+PONG\r\n") as node:
        rows = [
            {"name": "n1", "pid": 1, "client": node.address, "peer": "p", "admin": "a"},
            {"name": "n2", "pid": 2, "client": "127.0.0.1:1", "peer": "p", "admin": "a"},
        ]
        write_state(tmp_path, json.dumps(rows).encode())
        result = run("cluster", "ps", "--data-dir", str(tmp_path), "--json")
        table = run("cluster", "ps", "--data-dir", str(tmp_path))
    assert json.loads(result.stdout) == [{**rows[0], "alive": True}, {**rows[1], "alive": False}]
    assert [line.split()[:3] for line in table.stdout.splitlines()[1:]] == [["n1", "1", "True"], ["n2", "2", "False"]]


@pytest.mark.parametrize("content", [None, b"", b"[1]", b"\xff", b'[{"name":"\xff"}]', b'[{"x":' + b"[" * 3000])
def test_ps_without_a_cluster_says_where_it_looked(tmp_path: Path, content: bytes | None) -> None:
    """A directory without a list of nodes, or with something else in its place, is named in the error."""
    if content is not None:
        write_state(tmp_path, content)
    result = run("cluster", "ps", "--data-dir", str(tmp_path))
    assert result.exit_code == 2
    assert "cluster.json" in result.output


def test_a_cluster_does_not_start_on_ports_in_use(tmp_path: Path) -> None:
    """`raftkv cluster start` refuses ports that somebody listens on, and names them."""
    with FakeNode(lambda request: b"+PONG\r\n") as node:
        port = node.address.rpartition(":")[2]
        result = run("cluster", "start", "--data-dir", str(tmp_path), "--base-port", port)
    assert result.exit_code == 2
    assert port in result.output
