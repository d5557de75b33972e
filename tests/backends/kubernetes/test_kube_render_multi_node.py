"""Services whose replica spans nodes, as LeaderWorkerSets."""

from __future__ import annotations

from typing import Any

import pytest

from ironloom.backends.kubernetes.render.fabric import Fabric
from ironloom.backends.kubernetes.render.multi_node import objects, span_of
from ironloom.backends.kubernetes.render.plain import Setting
from ironloom.errors import EngineUnavailable
from ironloom.workload.manifests.read import parse_object
from ironloom.workload.serving import Serving

GPUS = {"limits": {"nvidia.com/gpu": "8"}}


def inference_service(*, worker: dict[str, Any], **model: Any) -> Serving:
    implementation = {
        "modelFormat": {"name": "huggingface"},
        "storageUri": "hf://owner/name",
        "resources": GPUS,
        **model,
    }
    return parse_object(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": "a"},
            "spec": {"predictor": {"minReplicas": 0, "model": implementation, "workerSpec": worker}},
        }
    )


def llm_inference_service(**spec: Any) -> Serving:
    return parse_object(
        {
            "apiVersion": "serving.kserve.io/v1alpha2",
            "kind": "LLMInferenceService",
            "metadata": {"name": "a"},
            "spec": {
                "model": {"uri": "hf://owner/name"},
                "template": {"containers": [{"name": "main", "resources": GPUS}]},
                **spec,
            },
        }
    )


def made_of(serving: Serving, **setting: Any) -> dict[str, dict[str, Any]]:
    span = span_of(serving)
    assert span is not None
    return {one["kind"]: one for one in objects(serving, Setting(**setting), span)}


def templates(serving: Serving, **setting: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    group = made_of(serving, **setting)["LeaderWorkerSet"]["spec"]["leaderWorkerTemplate"]
    return group["leaderTemplate"], group["workerTemplate"]


TWO_NODES = {"pipelineParallelSize": 2, "tensorParallelSize": 8}


def test_a_group_has_the_nodes_that_tensor_and_pipeline_parallelism_fill() -> None:
    made = made_of(inference_service(worker=TWO_NODES))["LeaderWorkerSet"]
    assert made["spec"]["leaderWorkerTemplate"]["size"] == 2
    assert "replicas" not in made["spec"]


def test_the_leader_serves_and_the_workers_join_it_headless() -> None:
    leader, worker = templates(inference_service(worker=TWO_NODES, args=["--max-num-seqs", "8"]))
    joined = "--nnodes $(LWS_GROUP_SIZE) --node-rank $(LWS_WORKER_INDEX) --master-addr $(LWS_LEADER_ADDRESS)"
    args = " ".join(leader["spec"]["containers"][0]["args"])
    assert args == (
        "--model owner/name --served-model-name a --tensor-parallel-size 8 --pipeline-parallel-size 2 "
        f"--max-num-seqs 8 {joined}"
    )
    assert " ".join(worker["spec"]["containers"][0]["args"]) == f"{args} --headless"


def test_each_node_tells_the_others_its_own_address_unless_the_manifest_does() -> None:
    own = {"name": "VLLM_HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    for template in templates(inference_service(worker=TWO_NODES)):
        assert own in template["spec"]["containers"][0]["env"]
    mine = [{"name": "VLLM_HOST_IP", "value": "10.0.0.1"}]
    leader, _ = templates(inference_service(worker=TWO_NODES, env=mine))
    assert leader["spec"]["containers"][0]["env"] == mine


def test_workers_of_a_leader_with_a_command_of_its_own_need_one_too() -> None:
    serving = inference_service(worker=TWO_NODES)
    predictor = serving.manifest["spec"]["predictor"]
    del predictor["model"]
    predictor["containers"] = [{"name": "kserve-container", "image": "mine", "command": ["serve"]}]
    with pytest.raises(EngineUnavailable, match=r"not what its workers run \(workerSpec\)"):
        made_of(serving)


def test_only_the_leader_is_probed_and_both_have_their_gpus_and_shared_memory() -> None:
    leader, worker = (one["spec"]["containers"][0] for one in templates(inference_service(worker=TWO_NODES)))
    assert {"startupProbe", "readinessProbe", "ports"} <= leader.keys()
    assert not {"startupProbe", "readinessProbe", "livenessProbe", "ports"} & worker.keys()
    for one in (leader, worker):
        assert one["resources"]["limits"] == {"nvidia.com/gpu": "8"}
        assert [mount["mountPath"] for mount in one["volumeMounts"]] == ["/dev/shm"]


def test_endpoints_are_the_leaders_alone_and_pods_of_both_belong_to_the_service() -> None:
    serving = inference_service(worker=TWO_NODES)
    assert made_of(serving)["Service"]["metadata"]["name"] == "a-leaders"
    assert made_of(serving)["Service"]["spec"]["selector"] == {
        "ironloom.dev/service": "a",
        "leaderworkerset.sigs.k8s.io/worker-index": "0",
    }
    for template in templates(serving, generation=3):
        assert template["metadata"]["labels"] == {"ironloom.dev/service": "a", "ironloom.dev/generation": "3"}


def test_a_worker_keeps_what_the_manifest_says_of_it_and_has_the_leaders_nodes() -> None:
    written = {"name": "worker-container", "resources": {"limits": {"nvidia.com/gpu": "8", "cpu": "4"}}}
    serving = inference_service(worker={**TWO_NODES, "containers": [written]})
    serving.manifest["spec"]["predictor"]["nodeSelector"] = {"gpu": "h100"}
    _, worker = templates(serving)
    assert worker["spec"]["containers"][0]["resources"] == written["resources"]
    assert worker["spec"]["containers"][0]["image"].startswith("vllm/vllm-openai:")
    assert worker["spec"]["nodeSelector"] == {"gpu": "h100"}


def test_an_llm_inference_service_with_a_worker_spans_the_stages_of_its_pipeline() -> None:
    serving = llm_inference_service(worker={"containers": []}, parallelism={"tensor": 8, "pipeline": 3})
    span = span_of(serving)
    assert span is not None
    assert span.num_nodes == 3
    leader, _ = templates(serving)
    assert "--pipeline-parallel-size 3" in " ".join(leader["spec"]["containers"][0]["args"])
    assert leader["spec"]["containers"][0]["image"].startswith("vllm/vllm-openai:")


@pytest.mark.parametrize(
    ("spare", "rollout"),
    [(True, {"maxSurge": 1, "maxUnavailable": 0}), (False, {"maxSurge": 0, "maxUnavailable": 1})],
)
def test_a_rollout_surges_where_there_are_gpus_for_it(spare: bool, rollout: dict[str, int]) -> None:
    made = made_of(inference_service(worker=TWO_NODES), has_spare_gpus=spare)["LeaderWorkerSet"]
    assert made["spec"]["rolloutStrategy"]["rollingUpdateConfiguration"] == rollout


def test_what_one_node_holds_is_no_group() -> None:
    assert span_of(inference_service(worker={"tensorParallelSize": 8})) is None
    assert span_of(llm_inference_service()) is None


def test_parallelism_that_does_not_fill_its_nodes_is_refused_with_its_numbers() -> None:
    with pytest.raises(EngineUnavailable, match=r"3 x 2 GPUs .* which pods of 8 do not fill"):
        span_of(inference_service(worker={"tensorParallelSize": 3, "pipelineParallelSize": 2}))
    with pytest.raises(EngineUnavailable, match=r"data parallelism over several nodes"):
        span_of(llm_inference_service(worker={}, parallelism={"data": 16, "dataLocal": 8}))


IB = Fabric(resource="rdma/ib", amount=1, env={"NCCL_SOCKET_IFNAME": "eth0", "NCCL_IB_HCA": "ibp"})
LEAF = "backend.coreweave.cloud/leafgroup"
REQUIRED, PREFERRED = "kueue.x-k8s.io/podset-required-topology", "kueue.x-k8s.io/podset-preferred-topology"
GROUP_NAME = "kueue.x-k8s.io/podset-group-name"
EXCLUSIVE = "leaderworkerset.sigs.k8s.io/exclusive-topology"


def named(*, queue: str = "", annotations: dict[str, str] | None = None) -> Serving:
    made = inference_service(worker=TWO_NODES)
    metadata = made.manifest["metadata"]
    metadata["annotations"] = dict(annotations or {})
    if queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": queue}
    return parse_object(made.manifest)


def test_both_ask_for_the_fabric_of_their_nodes_and_are_told_how_to_use_it() -> None:
    for template in templates(named(), fabric=IB):
        [container] = template["spec"]["containers"]
        assert container["resources"]["limits"] == {"nvidia.com/gpu": "8", "rdma/ib": "1"}
        assert {"name": "NCCL_IB_HCA", "value": "ibp"} in container["env"]
        assert container["securityContext"] == {"capabilities": {"add": ["IPC_LOCK"]}}


def test_memory_is_not_locked_where_the_namespace_forbids_it() -> None:
    for template in templates(named(), fabric=IB, may_lock_memory=False):
        assert "securityContext" not in template["spec"]["containers"][0]


NO_GANG = (
    "no gang: the pods of a group are placed one by one, wherever there is room; the annotation "
    f"{REQUIRED}: LABEL has them share a domain"
)
GANGS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, str], dict[str, str], str]] = {
    "in a queue it is near each other where there is room": (
        {"queue": "gpus"},
        {"has_kueue": True, "topology_key": LEAF},
        {PREFERRED: LEAF, GROUP_NAME: "a"},
        {},
        f"queue gpus admits each group whole, in one {LEAF} where there is room",
    ),
    "in a queue a wish of the manifest stands": (
        {"queue": "gpus", "annotations": {REQUIRED: "rack"}},
        {"has_kueue": True, "topology_key": LEAF},
        {REQUIRED: "rack", GROUP_NAME: "a"},
        {REQUIRED: "rack"},
        "queue gpus admits each group whole, in one rack",
    ),
    "in a queue without a known topology it is admitted whole": (
        {"queue": "gpus"},
        {"has_kueue": True},
        {},
        {},
        "queue gpus admits each group whole",
    ),
    "without a queue a domain that is required is each group's own": (
        {"annotations": {REQUIRED: LEAF}},
        {"has_kueue": True, "topology_key": "rack"},
        {},
        {REQUIRED: LEAF, EXCLUSIVE: LEAF},
        f"LeaderWorkerSet gives each group one {LEAF} to itself; its pods are placed one by one",
    ),
    "without Kueue the queue counts for nothing": (
        {"queue": "gpus", "annotations": {EXCLUSIVE: "rack"}},
        {},
        {},
        {EXCLUSIVE: "rack"},
        "LeaderWorkerSet gives each group one rack to itself; its pods are placed one by one",
    ),
    "without any of them it is no gang": (
        {},
        {},
        {},
        {},
        NO_GANG,
    ),
}


@pytest.mark.parametrize("case", GANGS.values(), ids=GANGS)
def test_what_keeps_a_group_together(
    case: tuple[dict[str, Any], dict[str, Any], dict[str, str], dict[str, str], str],
) -> None:
    written, given, on_templates, on_set, said = case
    serving, setting = named(**written), Setting(**given)
    span = span_of(serving)
    assert span is not None
    made = objects(serving, setting, span)[0]
    group = made["spec"]["leaderWorkerTemplate"]
    for role in ("leaderTemplate", "workerTemplate"):
        assert (group[role]["metadata"].get("annotations") or {}) == on_templates
    assert {key: text for key, text in made["metadata"]["annotations"].items() if "ironloom" not in key} == on_set
    assert said in setting.notes


def test_templates_that_say_themselves_where_their_pods_go_stay_as_they_are_written() -> None:
    own = {"kueue.x-k8s.io/podset-slice-required-topology": LEAF, "kueue.x-k8s.io/podset-slice-size": "2"}
    for said, expected in ((own, own), ({REQUIRED: LEAF}, {REQUIRED: LEAF, GROUP_NAME: "a"})):
        serving = named(queue="gpus")
        serving.manifest["spec"]["predictor"]["annotations"] = dict(said)
        for template in templates(serving, has_kueue=True, topology_key="rack"):
            assert template["metadata"]["annotations"] == expected
