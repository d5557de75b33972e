"""InferenceServices through the real KServe: it makes the Deployment, and the gateway scales it."""

from __future__ import annotations

import asyncio
import json
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.kube import kserving
from tests.kube.cluster import Cluster, free_ports, kubectl, missing
from tests.kube.engine_pods import EnginePods
from tests.kube.gateway import SHORT, apply, replicas, running, wait_for
from tests.kube.manifests import inference_service
from tests.kube.needs import need_programs
from tests.kube.test_backend import opened, run, serving, until, wait_until

from ironloom.backends.kubernetes import made
from ironloom.backends.kubernetes.capabilities import Capabilities
from ironloom.cli.fleet import fleet
from ironloom.errors import ClusterError
from ironloom.serve.replica import ScaleOrder
from ironloom.workload.manifests.read import parse_object
from ironloom.workload.serving import Serving

pytestmark = pytest.mark.kube
SERVICES = "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices"


@pytest.fixture(scope="module")
def with_kserve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    need_programs([*missing(), *kserving.missing_kserve()])
    with Cluster(tmp_path_factory.mktemp("kserve")) as made:
        try:
            made.add_node("gpu-1", allocatable={"nvidia.com/gpu": "64"})
            kserving.define_knative(made)
            kserving.start(made)
            yield made
        finally:
            made.end("kserve")


def is_there(cluster: Cluster, name: str) -> bool:
    try:
        replicas(cluster, name)
    except urllib.error.HTTPError:
        return False
    return True


def model(name: str, **fields: Any) -> Serving:
    implementation = {
        "modelFormat": {"name": "huggingface"},
        "storageUri": "hf://owner/name:main",
        "resources": {"limits": {"nvidia.com/gpu": "2"}},
        "args": ["--max-num-seqs", "8"],
        **fields,
    }
    return parse_object(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": name},
            "spec": {"predictor": {"minReplicas": 0, "model": implementation}},
        }
    )


def container_of(cluster: Cluster, deployment: str) -> dict[str, Any]:
    path = f"/apis/apps/v1/namespaces/default/deployments/{deployment}"
    found: dict[str, Any] = cluster.request("GET", path)["spec"]["template"]["spec"]["containers"][0]
    return found


def test_what_the_cluster_has_is_listed_with_its_version(with_kserve: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(with_kserve.kubeconfig))
    done = CliRunner().invoke(fleet, ["--context", "test", "--parts"])
    lines = done.output.splitlines()
    assert "KServe v1beta1: InferenceServices" in lines
    assert any(line.startswith("no Kueue: ") for line in lines)
    assert any(line.startswith("  its default mode is Knative") for line in lines), "as it is shipped"


def test_what_was_made_of_plain_kinds_goes_when_kserve_takes_over_and_all_goes_at_the_end(with_kserve: Cluster) -> None:
    async def story() -> None:
        async with opened(with_kserve) as (backend, _):
            has = backend.capabilities
            backend.capabilities = Capabilities(versions={})
            await backend.apply(serving("moved"), 1)
            assert is_there(with_kserve, "moved")
            backend.capabilities = has
            await backend.apply(serving("moved"), 2)
            backend.scale("moved", ScaleOrder(num_ready=0))
            await until(lambda: is_there(with_kserve, "moved-predictor") and not is_there(with_kserve, "moved"))
            await until(lambda: replicas(with_kserve, "moved-predictor") == 0)
            await backend.apply(serving("moved", timeout=50), 3)
            names = await asyncio.to_thread(kubectl, with_kserve, "get", "svc", "-o", "name")
            assert "service/moved-predictor" in names
            await backend.delete("moved")
            await until(lambda: not is_there(with_kserve, "moved-predictor"))
            names = await asyncio.to_thread(kubectl, with_kserve, "get", "inferenceservice", "-o", "name")
            assert "inferenceservice.serving.kserve.io/moved" not in names

    run(story())


def test_a_model_that_no_runtime_serves_gets_one_and_gives_it_up_once_the_cluster_has_its_own(
    with_kserve: Cluster,
) -> None:
    async def story() -> None:
        async with opened(with_kserve) as (backend, seen):
            await backend.apply(model("own"), 1)
            await until(lambda: is_there(with_kserve, "own-predictor"))
            made = container_of(with_kserve, "own-predictor")
            assert made["image"] == "vllm/vllm-openai:v0.26.0"
            assert made["args"][:4] == ["--model", "/mnt/models", "--served-model-name", "own"]
            assert made["args"][-2:] == ["--max-num-seqs", "8"]
            assert made["resources"]["limits"]["nvidia.com/gpu"] == "2"
            report = await seen.until("own", lambda report: bool(report.notes))
            assert any("ServingRuntime own runs vLLM" in note for note in report.notes)
            runtime = {
                "apiVersion": "serving.kserve.io/v1alpha1",
                "kind": "ClusterServingRuntime",
                "metadata": {"name": "theirs"},
                "spec": {
                    "supportedModelFormats": [{"name": "huggingface", "version": "1", "autoSelect": True}],
                    "containers": [{"name": "kserve-container", "image": "theirs:1"}],
                },
            }
            runtimes = "/apis/serving.kserve.io/v1alpha1/clusterservingruntimes"
            await asyncio.to_thread(with_kserve.request, "POST", runtimes, runtime)
            await backend.apply(model("own"), 2)
            await until(lambda: container_of(with_kserve, "own-predictor")["image"] == "theirs:1")
            left = await asyncio.to_thread(kubectl, with_kserve, "get", "servingruntime", "-o", "name")
            assert left == []
            with_kserve.request("DELETE", f"{runtimes}/theirs")
            await backend.delete("own")

    run(story())


def test_a_count_that_kserves_own_autoscaler_writes_by_the_manifests_wish_is_left_to_it(with_kserve: Cluster) -> None:
    async def story() -> None:
        async with opened(with_kserve) as (backend, seen):
            wished = {"serving.kserve.io/autoscalerClass": "hpa"}
            await backend.apply(parse_object(inference_service("wished", wished)), 1)
            backend.scale("wished", ScaleOrder(num_ready=5))
            await until(lambda: is_there(with_kserve, "wished-predictor"))
            report = await seen.until("wished", lambda report: bool(report.notes))
            assert any("KServe (autoscaler class hpa) writes it" in note for note in report.notes)
            assert replicas(with_kserve, "wished-predictor") == 1
            await backend.delete("wished")

    run(story())


def test_a_controller_that_makes_nothing_is_told_with_its_own_words(
    with_kserve: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made, "WITHIN_S", 3.0)

    async def story() -> None:
        async with opened(with_kserve) as (backend, seen):
            await backend.apply(model("nothing", modelFormat={"name": "gguf"}), 1)
            backend.scale("nothing", ScaleOrder(num_ready=1))
            report = await seen.until("nothing", lambda report: report.failure is not None)
            assert "KServe has not made Deployment nothing-predictor" in str(report.failure)
            assert "untime" in str(report.failure)
            await backend.delete("nothing")

    run(story())


def test_a_request_at_zero_wakes_the_deployment_that_kserve_made_and_it_goes_back_to_zero(
    with_kserve: Cluster, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    (tmp_path / "state").mkdir()
    with running(with_kserve, tmp_path / "state") as gateway:
        apply(gateway, inference_service("woken", SHORT, port=port))
        with EnginePods(with_kserve, "woken", port, tmp_path / "engine.log"):
            wait_until(lambda: is_there(with_kserve, "woken-predictor"))
            wait_for(with_kserve, "woken-predictor", 0)
            assert gateway.ask("woken")
            assert replicas(with_kserve, "woken-predictor") == 1
            wait_for(with_kserve, "woken-predictor", 0)
            assert gateway.ask("woken", "again")
        made = with_kserve.request("GET", f"{SERVICES}/woken")
        assert made["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
        assert made["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == "external"
        hpas = with_kserve.request("GET", "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers")
        assert hpas["items"] == []
        assert "Ironloom's" in json.dumps(gateway.call("GET", "/api/v1/services/woken"))


def test_a_service_that_exists_in_knative_mode_is_left_to_knative(
    with_kserve: Cluster,
) -> None:
    mode, path = "serving.kserve.io/deploymentMode", f"{SERVICES}/serverless"

    def made_for_knative() -> list[str]:
        found = with_kserve.request("GET", "/apis/serving.knative.dev/v1/namespaces/default/services")["items"]
        return [one["metadata"]["name"] for one in found]

    def mode_of() -> str:
        return str(with_kserve.request("GET", path).get("status", {}).get("deploymentMode"))

    async def story() -> None:
        async with opened(with_kserve) as (backend, seen):
            await backend.apply(parse_object(inference_service("serverless", {mode: "Knative"})), 1)
            await until(lambda: mode_of() == "Knative" and made_for_knative() == ["serverless-predictor"])
            # A manifest that asks for the other mode is refused by KServe; one that asks for none goes on as it is.
            with pytest.raises(ClusterError, match="deploymentMode cannot be changed from 'Knative' to 'Standard'"):
                await backend.apply(parse_object(inference_service("serverless", {mode: "Standard"})), 2)
            await backend.apply(parse_object(inference_service("serverless")), 2)
            backend.scale("serverless", ScaleOrder(num_ready=3))
            report = await seen.until("serverless", lambda report: bool(report.notes))
            assert any("KServe's Knative mode and is left to Knative" in note for note in report.notes)
            assert "its scale is left alone: Knative writes it" in report.notes
            annotations = with_kserve.request("GET", path)["metadata"].get("annotations") or {}
            assert "serving.kserve.io/autoscalerClass" not in annotations
            assert mode_of() == "Knative"
            assert made_for_knative() == ["serverless-predictor"]
            assert not is_there(with_kserve, "serverless-predictor")
            await backend.delete("serverless")
            names = await asyncio.to_thread(kubectl, with_kserve, "get", "inferenceservice", "-o", "name")
            assert "inferenceservice.serving.kserve.io/serverless" not in names

    run(story())


def test_a_webhook_that_does_not_answer_is_named_with_what_was_refused(with_kserve: Cluster) -> None:
    """The last one: it ends KServe."""

    async def story() -> None:
        async with opened(with_kserve) as (backend, _):
            await asyncio.to_thread(with_kserve.end, "kserve")
            with pytest.raises(
                ClusterError, match=r"admission webhook \S+kserve-webhook-server.defaulter does not answer"
            ):
                await backend.apply(serving("late"), 1)

    run(story())
