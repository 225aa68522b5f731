"""The fixtures of the end-to-end tests. A test that fails shows the end of every node's log."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster

MakeCluster = Callable[..., Cluster]


@pytest.fixture
def make_cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeCluster]:
    """Starts clusters; their processes end with the test, however it ends."""
    clusters: list[Cluster] = []
    request.node.stash[CLUSTERS] = clusters
    with ExitStack() as stack:

        def make(count: int = 3, extra: tuple[str, ...] = ()) -> Cluster:
            cluster = Cluster(tmp_path / f"cluster{len(clusters)}", count, extra)
            clusters.append(cluster)
            return stack.enter_context(cluster)

        yield make


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> Cluster:
    """Three nodes with a leader."""
    return make_cluster()


CLUSTERS = pytest.StashKey[list[Cluster]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the logs of the test's nodes to the report of its failure."""
    report = yield
    if report.failed:
        report.sections += [("logs of the nodes", cluster.logs()) for cluster in item.stash.get(CLUSTERS, [])]
    return report
