"""Services in a queue of the real Kueue: a replica holds quota, zero gives it back to a training gang, and a request
whose pod the queue holds is told so."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.kube import queueing
from tests.kube.cluster import Cluster, free_ports
from tests.kube.engine_pods import EnginePods
from tests.kube.gateway import SHORT, Gateway, apply, replicas, running
from tests.kube.manifests import inference_service
from tests.kube.queueing import LEAF, gpus_used
from tests.kube.test_groups import manifest as over_nodes
from tests.kube.test_training_queue import finish, num_bound, room
from tests.kube.training_runs import NAMESPACE, Command, state, wait_until
from tests.kube.training_runs import manifest as gang

from ironloom.backends.kubernetes.supply import RETRY_AFTER_S

pytestmark = pytest.mark.kube
QUEUE, OF = "shared", "small"
NUM_GPUS = 24
"""Of its quota: three nodes."""
TIMEOUT_S = 5


@pytest.fixture(scope="module")
def gateway(queued: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    queueing.make_queue(queued, QUEUE, of=OF, num_gpus=NUM_GPUS, namespaces=["default", NAMESPACE])
    with running(queued, tmp_path_factory.mktemp("gateway")) as made:
        yield made


@pytest.fixture
def command(queued: Cluster, tmp_path: Path) -> Command:
    return Command(queued, tmp_path)


def service(name: str, port: int, **predictor: Any) -> dict[str, Any]:
    """At zero until it is asked; a replica takes a node."""
    made = inference_service(name, SHORT, port=port, num_gpus=8)
    made["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": QUEUE}
    made["spec"]["predictor"] |= predictor
    return made


def test_a_replica_holds_quota_that_a_gang_waits_for_and_gets_once_the_service_is_at_zero(
    queued: Cluster, gateway: Gateway, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    apply(gateway, service("sharing", port))
    assert gpus_used(queued, OF) == 0
    with EnginePods(queued, "sharing", port, tmp_path / "engine.log"):
        assert gateway.ask("sharing")
        wait_until(lambda: gpus_used(queued, OF) == 8)
        command.train(gang("gang"), "--queue", QUEUE, "--no-wait")
        # Asked again and again it stays: the gang has 16 GPUs left of the 24 that it needs.
        wait_until(lambda: bool(gateway.ask("sharing")) and "quota" in state(queued, "gang").reason)
        held = room(queued, monkeypatch, "gang")
        assert (held.num_left, held.num_wanted) == (16, 24)
        assert num_bound(queued, "gang") == 0

        wait_until(lambda: replicas(queued, "sharing") == 0)
        wait_until(lambda: num_bound(queued, "gang") == 3)
        assert gpus_used(queued, OF) == NUM_GPUS

        # Now the gang has all of it: a request is held until it ends, and then answered.
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(gateway.ask, "sharing")
            wait_until(lambda: "queue shared: " in waits_for(gateway, "sharing"))
            assert not asked.done()
            finish(queued, "gang")
            assert asked.result()
        gateway.call("DELETE", "/api/v1/services/sharing")
        wait_until(lambda: gpus_used(queued, OF) == 0 and no_pods(queued))


def test_a_request_that_waited_in_vain_for_its_queue_is_told_what_the_queue_is_short_of(
    queued: Cluster, gateway: Gateway, command: Command
) -> None:
    command.train(gang("before"), "--queue", QUEUE, "--no-wait")
    wait_until(lambda: num_bound(queued, "before") == 3)
    apply(gateway, service("queued", 8000, timeout=TIMEOUT_S))
    with pytest.raises(urllib.error.HTTPError) as caught:
        gateway.ask("queued")
    assert (caught.value.code, int(caught.value.headers["Retry-After"])) == (504, RETRY_AFTER_S)
    message = json.loads(caught.value.__notes__[0])["error"]["message"]
    assert "waits for admission: its scheduling gates are not lifted; queue shared: " in message
    assert "insufficient unused quota for nvidia.com/gpu" in message
    events = gateway.call("GET", "/api/v1/events?service=queued")
    told = [one["message"] for one in events if one["reason"] == "Gated"]
    assert any("insufficient unused quota for nvidia.com/gpu" in message for message in told)
    gateway.call("DELETE", "/api/v1/services/queued")
    finish(queued, "before")
    wait_until(lambda: gpus_used(queued, OF) == 0 and no_pods(queued))


def test_a_replica_over_several_nodes_is_admitted_whole_into_one_leaf_group_once_there_is_quota(
    queued: Cluster, gateway: Gateway, command: Command, tmp_path: Path
) -> None:
    command.train(gang("ahead"), "--queue", QUEUE, "--no-wait")
    wait_until(lambda: num_bound(queued, "ahead") == 3)
    (port,) = free_ports(1)
    made = over_nodes("grouped", port=port)
    made["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": QUEUE}
    made["spec"]["predictor"]["minReplicas"] = 1
    with EnginePods(queued, "grouped", port, tmp_path / "engine.log"):
        apply(gateway, made)
        wait_until(lambda: "queue shared: " in waits_for(gateway, "grouped"))
        assert "insufficient unused quota" in waits_for(gateway, "grouped")
        finish(queued, "ahead")
        assert gateway.ask("grouped")
        wait_until(lambda: queued.bound("ironloom.dev/service=grouped").keys() == {"grouped-0", "grouped-0-1"})
        assert len({node[0] for node in queued.bound("ironloom.dev/service=grouped").values()}) == 1
        assert gpus_used(queued, OF) == 16
        notes = gateway.call("GET", "/api/v1/services/grouped")["notes"]
        assert f"queue {QUEUE} admits each group whole, in one {LEAF} where there is room" in notes
        gateway.call("DELETE", "/api/v1/services/grouped")
        wait_until(lambda: gpus_used(queued, OF) == 0 and no_pods(queued))


def no_pods(cluster: Cluster) -> bool:
    return cluster.request("GET", "/api/v1/namespaces/default/pods")["items"] == []


def waits_for(gateway: Gateway, name: str) -> str:
    """What the service's replicas that start wait for."""
    found = gateway.call("GET", f"/api/v1/services/{name}")["replicas"]
    return " ".join(str(one.get("phase") or one.get("reason")) for one in found)
