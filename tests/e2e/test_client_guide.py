"""The examples of docs/client.md run, in their order, against a cluster."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.cluster import DEADLINE_SECONDS, Cluster

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "client.md"
NODES = "127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003"


def test_the_examples_of_the_guide_run(cluster: Cluster, tmp_path: Path) -> None:
    """Every Python block is run as it stands, but for the addresses of the nodes, and what it asserts holds."""
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 5
    with cluster.connect(cluster.names[0]) as connection:
        connection.call("FLUSHALL")
    program = tmp_path / "guide.py"
    program.write_text("\n".join(blocks).replace(NODES, ",".join(map(cluster.address, cluster.names))), encoding="utf-8")
    ended = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)
    assert ended.returncode == 0, ended.stderr
