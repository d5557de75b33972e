"""Services as KServe's own kind."""

from __future__ import annotations

from typing import Any

import pytest

from ironloom.backends.kubernetes.render.kserve import (
    AUTOSCALER,
    MODE,
    Found,
    Runtime,
    deployment_of,
    objects,
    runtimes,
    writer_of_scale,
)
from ironloom.backends.kubernetes.render.plain import Setting
from ironloom.workload.manifests.read import parse_object
from ironloom.workload.serving import Serving


def service(annotations: dict[str, str] | None = None, **predictor: Any) -> Serving:
    return parse_object(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": "a", "annotations": annotations or {}, "resourceVersion": "7"},
            "spec": {"predictor": predictor},
        }
    )


def model(**fields: Any) -> dict[str, Any]:
    return {
        "modelFormat": {"name": "huggingface"},
        "storageUri": "hf://owner/name:main",
        "resources": {"limits": {"nvidia.com/gpu": "2"}},
        **fields,
    }


CONTAINER = {
    "name": "kserve-container",
    "image": "vllm/vllm-openai:v0.26.0",
    "args": ["--model", "a/b"],
    "resources": {"limits": {"nvidia.com/gpu": "1"}},
}
THEIRS = Runtime(name="theirs", formats=frozenset({"huggingface"}))


def by_kind(serving: Serving, found: Found | None = None, **setting: Any) -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in objects(serving, Setting(**setting), found or Found(runtimes=()))}


def test_its_scale_is_ours_and_its_notes_say_so() -> None:
    setting = Setting()
    (made,) = objects(service(containers=[CONTAINER]), setting, Found(runtimes=()))
    assert made["metadata"]["annotations"] == {MODE: "Standard", AUTOSCALER: "external"}
    assert "its scale is Ironloom's" in setting.notes[0]
    assert "resourceVersion" not in made["metadata"]


def test_its_pods_carry_the_labels_of_service_and_generation() -> None:
    made = by_kind(service(containers=[CONTAINER], labels={"mine": "1"}), generation=4)["InferenceService"]
    labels = made["spec"]["predictor"]["labels"]
    assert labels == {"mine": "1", "ironloom.dev/service": "a", "ironloom.dev/generation": "4"}


def test_containers_get_what_gpu_pods_need_and_the_manifest_itself_stays_as_it_was() -> None:
    serving = service(containers=[CONTAINER])
    predictor = by_kind(serving)["InferenceService"]["spec"]["predictor"]
    assert predictor["volumes"][0]["emptyDir"]["medium"] == "Memory"
    assert predictor["containers"][0]["startupProbe"]
    assert "volumes" not in serving.manifest["spec"]["predictor"]


@pytest.mark.parametrize(
    ("annotations", "mode", "predictor", "writer"),
    [
        pytest.param({}, "", {}, "", id="ours without a word"),
        pytest.param({}, "Standard", {}, "", id="ours where it runs in Standard mode"),
        pytest.param({}, "RawDeployment", {}, "", id="ours under the mode's older name"),
        pytest.param({}, "Serverless", {}, "Knative", id="an existing one in Knative mode is Knative's"),
        pytest.param({MODE: "Standard"}, "Knative", {}, "Knative", id="its status outranks the annotation"),
        pytest.param({MODE: "Standard"}, "Standard", {}, "", id="Standard as annotated"),
        pytest.param({MODE: "Serverless"}, "", {}, "Knative", id="a new one may ask for Knative"),
        pytest.param({MODE: "Serverless"}, "Standard", {}, "", id="what runs in Standard mode stays in it"),
        pytest.param({AUTOSCALER: "hpa"}, "", {}, "KServe (autoscaler class hpa)", id="an HPA that is asked for"),
        pytest.param({AUTOSCALER: "external"}, "", {}, "", id="external as written"),
    ],
)
def test_who_writes_the_count(annotations: dict[str, str], mode: str, predictor: dict[str, Any], writer: str) -> None:
    serving = service(annotations, containers=[CONTAINER], **predictor)
    assert writer_of_scale(serving, Found(mode=mode)) == writer


def test_several_nodes_need_the_autoscaler_class_none() -> None:
    serving = service(model=model(runtime="theirs"), workerSpec={"pipelineParallelSize": 2})
    assert by_kind(serving)["InferenceService"]["metadata"]["annotations"][AUTOSCALER] == "none"
    assert writer_of_scale(serving, Found()).startswith("KServe")


def test_what_knative_runs_is_neither_moved_nor_completed() -> None:
    setting = Setting()
    (made,) = objects(service(containers=[CONTAINER]), setting, Found(mode="Knative"))
    assert made["metadata"]["annotations"] == {}
    assert "volumes" not in made["spec"]["predictor"]
    assert "left to Knative" in setting.notes[0]


def test_a_format_that_no_runtime_serves_gets_one_that_reads_where_kserve_puts_models() -> None:
    made = by_kind(service(model=model(args=["--seed", "1"])))
    container = made["ServingRuntime"]["spec"]["containers"][0]
    assert container["args"] == ["--model", "/mnt/models", "--served-model-name", "a", "--tensor-parallel-size", "2"]
    assert made["InferenceService"]["spec"]["predictor"]["model"]["runtime"] == "a"
    assert list(made) == ["ServingRuntime", "InferenceService"]


@pytest.mark.parametrize(
    ("found", "fields"),
    [
        pytest.param(Found(runtimes=(THEIRS,)), {}, id="one serves it"),
        pytest.param(Found(runtimes=()), {"runtime": "theirs"}, id="one is named"),
        pytest.param(Found(runtimes=None), {}, id="it is not known which there are"),
        pytest.param(Found(runtimes=()), {"modelFormat": {"name": "gguf"}}, id="vLLM does not read it"),
    ],
)
def test_otherwise_the_choice_is_kserves(found: Found, fields: dict[str, Any]) -> None:
    assert "ServingRuntime" not in by_kind(service(model=model(**fields)), found)


def test_the_runtime_written_before_does_not_count_as_the_clusters() -> None:
    ours = Runtime(name="a", formats=frozenset({"huggingface"}))
    assert "ServingRuntime" in by_kind(service(model=model()), Found(runtimes=(ours,)))


def test_runtimes_are_read_without_those_that_are_switched_off_or_chosen_by_name_alone() -> None:
    def runtime(name: str, **spec: Any) -> dict[str, Any]:
        formats = [{"name": "huggingface", "autoSelect": True}, {"name": "onnx"}]
        return {"metadata": {"name": name}, "spec": {"supportedModelFormats": formats, **spec}}

    assert runtimes([runtime("on"), runtime("off", disabled=True)]) == (
        Runtime(name="on", formats=frozenset({"huggingface"})),
    )


def test_the_deployment_has_kserves_name() -> None:
    assert deployment_of(service(containers=[CONTAINER])) == "a-predictor"


def test_without_room_for_a_second_replica_kserve_is_told_to_take_turns_unless_the_manifest_says_how() -> None:
    setting = Setting(has_spare_gpus=False, why_no_spare="the nodes have room for 1")
    made = objects(service(model=model()), setting, Found(runtimes=()))[-1]
    turns = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    assert made["spec"]["predictor"]["deploymentStrategy"] == turns
    assert any("room for 1: at a rollout the old replica ends before" in note for note in setting.notes)
    own = service(model=model(), deploymentStrategy={"type": "Recreate"})
    made = objects(own, Setting(has_spare_gpus=False), Found(runtimes=()))[-1]
    assert made["spec"]["predictor"]["deploymentStrategy"] == {"type": "Recreate"}
