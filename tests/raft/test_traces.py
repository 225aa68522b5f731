"""The golden traces in ``traces/``: each is a readable proof about the core, and it must come out as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.raft.script import BadScript, Script, parse, run

TRACES = sorted((Path(__file__).parent / "traces").glob("*.txt"))


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_trace(path: Path, rewrite: bool) -> None:
    """What the core does is what the trace says."""
    text = path.read_text(encoding="utf-8")
    expected, differences = run(text)
    if rewrite:
        if expected != text:
            path.write_text(expected, encoding="utf-8")
        return
    told = "\n\n".join(
        "\n".join([*block.commands, "--- expected", *block.output, "--- came", *output]) for block, output in differences
    )
    assert not differences, f"{path.name} came out differently (--rewrite writes it anew):\n{told}"
    assert expected == text, f"{path.name} is not laid out as --rewrite would"


def test_there_are_traces() -> None:
    """The folder was found, so the test above is not empty."""
    assert len(TRACES) >= 20


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_every_step_is_explained(path: Path) -> None:
    """Each step of a trace has prose before it."""
    bare = [block.commands[0] for block in parse(path.read_text(encoding="utf-8")) if block.commands and not block.prose]
    assert not bare, f"no prose before {bare} in {path.name}"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("# no marker\ncluster 3", "no --- line"),
        ("# unknown\nfly n1\n---", "no command 'fly'"),
        ("# no cluster\ntick\n---", "begins with `cluster`"),
        ("# too many words\ncluster 3\nheal n1\n---", "heal n1"),
    ],
)
def test_a_bad_trace_is_refused(text: str, why: str) -> None:
    """A trace that cannot be understood fails with the reason, instead of passing as an empty one."""
    with pytest.raises(BadScript, match=why):
        run(text)


def test_refused_verbs_are_output() -> None:
    """A verb that the core refuses is part of the trace, not an error of it."""
    script = Script()
    assert script.execute(["cluster 3", "propose n1 x"]) == ["! NotLeader: this node is not the leader; the leader is not known"]
