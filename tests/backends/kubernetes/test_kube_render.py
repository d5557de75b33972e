"""Services as plain kinds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ironloom.backends.kubernetes.render.plain import Setting, objects, port_of
from ironloom.workload.manifests.read import parse_object
from ironloom.workload.serving import Serving


def inference_service(name: str = "a", annotations: dict[str, str] | None = None, **predictor: Any) -> Serving:
    return parse_object(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": name, "annotations": annotations or {}},
            "spec": {"predictor": predictor},
        }
    )


def container(**fields: Any) -> dict[str, Any]:
    return {
        "name": "kserve-container",
        "image": "vllm/vllm-openai:v0.26.0",
        "args": ["--model", "a/b"],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
        **fields,
    }


def model(**fields: Any) -> dict[str, Any]:
    return {
        "modelFormat": {"name": "huggingface"},
        "storageUri": "hf://owner/name:main",
        "resources": {"limits": {"nvidia.com/gpu": "2"}},
        **fields,
    }


def by_kind(serving: Serving, **setting: Any) -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in objects(serving, Setting(**setting))}


def pod_of(made: dict[str, dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = made["Deployment"]["spec"]["template"]["spec"]
    return spec


def test_nothing_rendered_says_how_many_replicas_there_are() -> None:
    assert "replicas" not in by_kind(inference_service(containers=[container()]))["Deployment"]["spec"]


def test_the_manifest_as_applied_is_kept_in_an_annotation() -> None:
    serving = inference_service(containers=[container()])
    annotations = by_kind(serving)["Deployment"]["metadata"]["annotations"]
    assert json.loads(annotations["ironloom.dev/manifest"]) == serving.manifest
    assert parse_object(json.loads(annotations["ironloom.dev/manifest"])) == serving


def test_a_model_is_run_by_vllms_image_with_the_names_and_gpus_of_the_manifest() -> None:
    made = by_kind(inference_service(model=model(args=["--max-num-seqs=8"])))
    one = pod_of(made)["containers"][0]
    assert one["args"] == [
        *("--model", "owner/name", "--revision", "main", "--served-model-name", "a"),
        *("--tensor-parallel-size", "2", "--max-num-seqs", "8"),
    ]
    assert one["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert port_of(made["Deployment"]) == 8000


def test_a_pod_with_a_gpu_gets_memory_for_dev_shm_and_one_that_mounts_it_keeps_its_own() -> None:
    pod = pod_of(by_kind(inference_service(containers=[container()])))
    assert pod["volumes"] == [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "17179869184"}}]
    mounts = [{"name": "mine", "mountPath": "/dev/shm"}]
    own = container(volumeMounts=mounts)
    volumes = [{"name": "mine", "emptyDir": {"medium": "Memory"}}]
    pod = pod_of(by_kind(inference_service(containers=[own], volumes=volumes)))
    assert pod["volumes"] == volumes
    assert pod["containers"][0]["volumeMounts"] == mounts


def test_probes_wait_as_long_as_a_start_may_take_and_written_ones_stay() -> None:
    annotations = {"serving.knative.dev/progress-deadline": "1200s"}
    one = pod_of(by_kind(inference_service(annotations=annotations, containers=[container()])))["containers"][0]
    probe = one["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] == 1200
    mine = {"httpGet": {"path": "/mine", "port": 1}}
    one = pod_of(by_kind(inference_service(containers=[container(readinessProbe=mine)])))["containers"][0]
    assert one["readinessProbe"] == mine


def test_a_pod_may_answer_what_it_has_begun_before_it_ends() -> None:
    pod = pod_of(by_kind(inference_service(timeout=90, containers=[container()])))
    assert pod["terminationGracePeriodSeconds"] == 95
    assert pod["containers"][0]["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}


def test_the_taints_of_the_gpu_nodes_are_tolerated_once_and_said() -> None:
    toleration = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    setting = Setting(tolerations=(toleration,))
    serving = inference_service(containers=[container()], tolerations=[toleration])
    assert objects(serving, setting)[0]["spec"]["template"]["spec"]["tolerations"] == [toleration]
    assert setting.notes == []
    made = objects(inference_service(containers=[container()]), setting)
    assert made[0]["spec"]["template"]["spec"]["tolerations"] == [toleration]
    assert "nvidia.com/gpu" in setting.notes[0]


@pytest.mark.parametrize(
    ("has_spare_gpus", "surge"),
    [(True, {"maxSurge": 1, "maxUnavailable": 0}), (False, {"maxSurge": 0, "maxUnavailable": 1})],
)
def test_a_rollout_starts_the_new_replica_first_where_there_is_a_gpu_for_it(
    has_spare_gpus: bool, surge: dict[str, int]
) -> None:
    made = by_kind(inference_service(containers=[container()]), has_spare_gpus=has_spare_gpus)
    assert made["Deployment"]["spec"]["strategy"]["rollingUpdate"] == surge


def test_a_token_of_the_hub_comes_from_a_secret_where_there_is_one_and_none_is_written() -> None:
    serving = inference_service(containers=[container()])
    assert "env" not in pod_of(by_kind(serving))["containers"][0]
    env = pod_of(by_kind(serving, has_hf_secret=True))["containers"][0]["env"]
    assert env[0]["valueFrom"]["secretKeyRef"]["name"] == "hf-token"
    mine = container(env=[{"name": "HF_TOKEN", "value": "x"}])
    env = pod_of(by_kind(inference_service(containers=[mine]), has_hf_secret=True))["containers"][0]["env"]
    assert env == [{"name": "HF_TOKEN", "value": "x"}]


def test_a_disruption_budget_is_for_services_that_keep_more_than_one_replica() -> None:
    assert "PodDisruptionBudget" not in by_kind(inference_service(containers=[container()]))
    made = by_kind(inference_service(minReplicas=2, maxReplicas=4, containers=[container()]))
    assert made["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize(
    ("fields", "port"),
    [
        ({"args": ["--model", "a/b", "--port", "9001"]}, 9001),
        ({"args": ["--model", "a/b", "--port=9002"]}, 9002),
        ({"ports": [{"containerPort": 9003}]}, 9003),
        ({"image": "kserve/huggingfaceserver:v0.20.0", "args": ["--model_id=a/b"]}, 8080),
        ({}, 8000),
    ],
)
def test_the_port_is_the_one_that_the_container_answers_on(fields: dict[str, Any], port: int) -> None:
    made = by_kind(inference_service(containers=[container(**fields)]))
    assert port_of(made["Deployment"]) == port
    assert made["Service"]["spec"]["ports"][0]["targetPort"] == port


def test_a_deployment_keeps_its_own_template_and_selector() -> None:
    manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "d"}},
            "template": {
                "metadata": {"labels": {"app": "d", "team": "x"}},
                "spec": {"nodeSelector": {"zone": "a"}, "containers": [container(name="engine")]},
            },
        },
    }
    made = by_kind(parse_object(manifest))["Deployment"]
    assert made["spec"]["selector"] == {"matchLabels": {"app": "d"}}
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert labels == {"app": "d", "team": "x", "ironloom.dev/service": "d", "ironloom.dev/generation": "1"}
    assert made["spec"]["template"]["spec"]["nodeSelector"] == {"zone": "a"}


def test_a_start_that_was_seen_is_allowed_three_times_over_and_this_is_said() -> None:
    setting = Setting(seen_start_s=400)
    made = objects(inference_service(containers=[container()]), setting)[0]
    probe = made["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] >= 1200
    assert made["spec"]["progressDeadlineSeconds"] >= 1200
    assert any("starts took up to" in note for note in setting.notes)
    quick = Setting(seen_start_s=5)
    probe = objects(inference_service(containers=[container()]), quick)[0]["spec"]["template"]["spec"]["containers"][0]
    assert probe["startupProbe"]["failureThreshold"] * probe["startupProbe"]["periodSeconds"] == 600
    assert quick.notes == []


def test_what_a_models_container_says_of_itself_is_in_the_pod() -> None:
    env = [
        {"name": "HF_HOME", "value": "/data"},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    ]
    mounts = [{"name": "data", "mountPath": "/data"}]
    serving = inference_service(model=model(env=env, volumeMounts=mounts, image="mine:1"), volumes=[{"name": "data"}])
    one = pod_of(by_kind(serving))["containers"][0]
    assert (one["image"], one["env"]) == ("mine:1", env)
    assert mounts[0] in one["volumeMounts"]


def test_a_first_start_is_allowed_what_is_predicted_three_times_over_until_one_was_seen() -> None:
    setting = Setting(predicted_start_s=900)
    made = objects(inference_service(containers=[container()]), setting)[0]
    probe = made["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] == 2700
    assert any("predicted to take" in note for note in setting.notes)
    seen = Setting(predicted_start_s=900, seen_start_s=100)
    probe = objects(inference_service(containers=[container()]), seen)[0]["spec"]["template"]["spec"]["containers"][0]
    assert probe["startupProbe"]["failureThreshold"] * probe["startupProbe"]["periodSeconds"] == 600
