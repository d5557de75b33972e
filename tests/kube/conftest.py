"""One control plane for all tests of a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kube.cluster import Cluster, missing


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if absent := missing():
        pytest.skip(f"no {absent[0]}: run scripts/setup_kubernetes")
    folder: Path = tmp_path_factory.mktemp("cluster")
    with Cluster(folder) as made:
        yield made
