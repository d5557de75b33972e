"""One control plane for all tests of a session, and another one with a real kubelet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts.build_image.__main__ import made, native
from tests.kube import grouping, kubelet, queueing
from tests.kube.cluster import Cluster, missing
from tests.kube.image import ENGINE, ENGINE_ENV, GATEWAY, engine_command, engine_layer
from tests.kube.needs import need_programs
from tests.kube.training_runs import NAMESPACE


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    need_programs(missing())
    folder: Path = tmp_path_factory.mktemp("cluster")
    with Cluster(folder) as made:
        yield made


@pytest.fixture(scope="session")
def queued(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane with Kueue, JobSet and LeaderWorkerSet, seven GPU nodes, and a queue for all of their GPUs."""
    need_programs([*missing(), *queueing.missing_controllers(), *grouping.missing_lws()])
    with Cluster(tmp_path_factory.mktemp("queued")) as made:
        try:
            made.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
            queueing.add_nodes(made)
            queueing.start_jobset(made)
            grouping.start(made)
            queueing.start_kueue(made)
            queueing.make_topology(made)
            every = queueing.CLUSTER_QUEUE
            queueing.make_queue(made, queueing.QUEUE, of=every, num_gpus=80, namespaces=[NAMESPACE])
            yield made
        finally:
            for name in ("kueue", "lws", "jobset"):
                made.end(name)


@pytest.fixture(scope="session")
def kubelet_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane that soon sees a silent node, for the real one."""
    need_programs(missing())
    if reason := kubelet.missing():
        pytest.skip(reason)
    with Cluster(tmp_path_factory.mktemp("kubelet"), node_grace_s=8) as made:
        yield made


@pytest.fixture(scope="session")
def node(kubelet_cluster: Cluster) -> Iterator[kubelet.RealNode]:
    """With the engine's image, and 8 GPUs as far as the API knows."""
    with kubelet.RealNode(kubelet_cluster) as made:
        made.load(ENGINE, engine_layer(), engine_command(), ENGINE_ENV)
        made.offer("nvidia.com/gpu", 8)
        yield made


@pytest.fixture(scope="session")
def gateway_image(node: kubelet.RealNode, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of the gateway's image, built from this checkout, which the node has."""
    archive = tmp_path_factory.mktemp("image") / "gateway.tar"
    made(archive, native(), [GATEWAY], or_newest=True)
    node.ctr("images", "import", str(archive))
    archive.unlink()
    return GATEWAY
