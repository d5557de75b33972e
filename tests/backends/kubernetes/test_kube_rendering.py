"""Which renderer a service goes to, by what the cluster has."""

from __future__ import annotations

from typing import Any

import pytest

from ironloom.backends.kubernetes.capabilities import Capabilities
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.kubeconfig import Target
from ironloom.backends.kubernetes.render import llm
from ironloom.backends.kubernetes.render.plain import Setting
from ironloom.backends.kubernetes.rendering import Renderer, path_of
from ironloom.errors import EngineUnavailable, UsageError
from ironloom.workload.manifests.read import parse_object
from ironloom.workload.serving import Ground, Serving


def inference_service(namespace: str | None = None, **predictor: Any) -> Serving:
    model = {
        "modelFormat": {"name": "huggingface"},
        "storageUri": "hf://owner/name",
        "resources": {"limits": {"nvidia.com/gpu": "8"}},
    }
    metadata = {"name": "a", **({"namespace": namespace} if namespace else {})}
    return parse_object(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": metadata,
            "spec": {"predictor": {"model": model, **predictor}},
        }
    )


def renderer(*parts: str) -> Renderer:
    client = Client(Target(context="test", server="https://127.0.0.1:1", namespace="default"))
    return Renderer(client, namespace="default", capabilities=Capabilities(versions=dict.fromkeys(parts, "v1")))


def test_a_replica_over_several_nodes_is_refused_where_there_is_no_leader_worker_set_with_what_is_lost() -> None:
    asks = inference_service(workerSpec={"pipelineParallelSize": 2, "tensorParallelSize": 8})
    with pytest.raises(EngineUnavailable, match=r"replicas over 2 nodes .*no LeaderWorkerSet: a replica that needs"):
        renderer().check(asks)
    renderer("LeaderWorkerSet").check(asks)
    renderer("KServe").check(asks)


def test_a_leader_worker_set_of_an_unknown_version_is_named_with_the_one_that_is_written() -> None:
    found = Capabilities(versions={}, foreign={"LeaderWorkerSet": "v9"})
    client = Client(Target(context="test", server="https://127.0.0.1:1", namespace="default"))
    asks = inference_service(workerSpec={"pipelineParallelSize": 2, "tensorParallelSize": 8})
    with pytest.raises(EngineUnavailable) as refused:
        Renderer(client, namespace="default", capabilities=found).check(asks)
    assert ", and LeaderWorkerSet is there in version v9, which is not known here: " in refused.value.message
    assert str(refused.value.hint).startswith("install a LeaderWorkerSet that serves v1 (")


def test_what_is_said_of_fields_is_said_where_it_is_true() -> None:
    written = {"name": "kserve-container", "image": "vllm/vllm-openai:v0.26.0", "args": ["--model", "a/b"]}
    serving = inference_service(model=None, containers=[written], nodeSelector={"gpu": "h100"}, logger={"mode": "all"})
    on_one_machine = [note.path for note in serving.notes_on(Ground.LOCAL)]
    assert "spec.predictor.nodeSelector" in on_one_machine
    assert "spec.predictor.containers[0].image" in on_one_machine
    assert [note.path for note in serving.notes_on(renderer().ground(serving))] == ["spec.predictor.logger"]
    assert serving.notes_on(renderer("KServe").ground(serving)) == ()


def llm_inference_service(version: str = "v1alpha2") -> Serving:
    return parse_object(
        {
            "apiVersion": f"serving.kserve.io/{version}",
            "kind": "LLMInferenceService",
            "metadata": {"name": "a", "annotations": {"x": "y"}},
            "spec": {
                "model": {"uri": "hf://owner/name"},
                "labels": {"team": "b"},
                "replicas": 2,
                "template": {"containers": [{"name": "main", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]},
                "worker": {"containers": []},
                "parallelism": {"data": 16, "dataLocal": 8},
            },
        }
    )


def test_an_llm_inference_service_stays_one_where_its_controller_is_and_its_pods_are_found_by_labels() -> None:
    serving, setting = llm_inference_service(), Setting(generation=2)
    renderer("KServe LLM").check(serving)
    [made] = llm.objects(serving, setting)
    assert made["spec"]["labels"] == {"team": "b", "ironloom.dev/service": "a", "ironloom.dev/generation": "2"}
    assert {**made["spec"], "labels": {"team": "b"}} == serving.manifest["spec"]
    assert made["metadata"]["annotations"] == {"x": "y"}
    assert any("runs and scales it" in note for note in setting.notes)
    assert renderer("KServe LLM").ground(serving) is Ground.KSERVE
    with pytest.raises(EngineUnavailable, match="data parallelism"):
        renderer("LeaderWorkerSet").check(serving)


@pytest.mark.parametrize("version", ["v1alpha1", "v1alpha2"])
def test_an_object_is_applied_in_the_version_that_it_is_written_in(version: str) -> None:
    [made] = llm.objects(llm_inference_service(version), Setting())
    made["metadata"]["namespace"] = "default"
    assert path_of(made) == f"/apis/serving.kserve.io/{version}/namespaces/default/llminferenceservices/a"


def test_a_service_of_another_namespace_is_refused() -> None:
    with pytest.raises(UsageError, match="belongs to namespace other"):
        renderer().check(inference_service(namespace="other"))
