"""Whether a rollout finds GPUs, over a fleet."""

from __future__ import annotations

from typing import Any

import pytest
from tests.backends.kubernetes.conftest import node, pod

from ironloom.backends.kubernetes.render import multi_node, plain
from ironloom.backends.kubernetes.spare import why_no_spare
from ironloom.fleet.build import build_fleet
from ironloom.fleet.model import Fleet
from ironloom.workload.manifests.read import parse_object


def fleet(*objects: dict[str, Any]) -> Fleet:
    kinds = [("Node" if "status" in one and "allocatable" in one["status"] else "Pod") for one in objects]
    found = [{"apiVersion": "v1", "kind": kind, **one} for kind, one in zip(kinds, objects, strict=True)]
    return build_fleet(found, name="", source="")


def made(num_gpus: int = 4, min_replicas: int = 0, **predictor: Any) -> dict[str, Any]:
    model = {
        "modelFormat": {"name": "huggingface"},
        "storageUri": "hf://a/b",
        "resources": {"limits": {"nvidia.com/gpu": str(num_gpus)}} if num_gpus else {},
    }
    spec = {"predictor": {"minReplicas": min_replicas, "model": model, **predictor}}
    metadata = {"name": "s", "namespace": "team-a"}
    kind = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService"}
    serving = parse_object({**kind, "metadata": metadata, "spec": spec})
    span = multi_node.span_of(serving)
    if span is not None:
        return multi_node.objects(serving, plain.Setting(), span)[0]
    return plain.objects(serving, plain.Setting())[0]


def own(name: str, node_name: str, num_gpus: int = 4) -> dict[str, Any]:
    found = pod(name, node_name, num_gpus)
    found["metadata"]["labels"] = {"ironloom.dev/service": "s"}
    return found


def why(made: dict[str, Any], known: Fleet, min_replicas: int = 0) -> str:
    return why_no_spare(made, known, service="s", min_replicas=min_replicas)


def test_two_replicas_beside_each_other_are_a_rollout_of_one() -> None:
    assert why(made(), fleet(node("n1"))) == ""
    assert "room for 1 of its replicas of 8 nvidia.com/gpu, and a rollout beside the old one takes 2" in why(
        made(8), fleet(node("n1"))
    )


def test_what_others_hold_is_not_spare_and_what_it_holds_itself_is_counted_once() -> None:
    assert why(made(), fleet(node("n1"), pod("other", "n1", 4)))
    assert why(made(), fleet(node("n1"), own("one", "n1"))) == ""
    assert why(made(), fleet(node("n1"), own("one", "n1"), own("two", "n1")))


def test_replicas_that_are_kept_ready_are_wanted_beside_the_new_one() -> None:
    assert why(made(), fleet(node("n1"), node("n2")), min_replicas=3) == ""
    assert why(made(), fleet(node("n1"), node("n2")), min_replicas=4)


def test_a_group_wants_nodes_for_all_its_pods() -> None:
    spans = made(8, workerSpec={"tensorParallelSize": 8, "pipelineParallelSize": 2})
    nodes = [node(f"n{number}") for number in range(4)]
    assert why(spans, fleet(*nodes)) == ""
    assert "room for 1 of its replicas of 16 nvidia.com/gpu" in why(spans, fleet(*nodes[:3]))


@pytest.mark.parametrize("known", [fleet(), fleet(pod("x"))])
def test_where_no_node_is_known_nothing_is_said(known: Fleet) -> None:
    assert why(made(), known) == ""
