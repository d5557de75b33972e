"""The volume for what engines fetch."""

from __future__ import annotations

from typing import Any

import pytest

from ironloom.backends.kubernetes.render import kserve, plain
from ironloom.backends.kubernetes.rendering import paths_of
from ironloom.errors import ManifestError
from ironloom.workload.manifests.read import parse_object
from ironloom.workload.serving import Ground, Serving


def serving(cache: str, *, env: list[dict[str, str]] | None = None, **predictor: Any) -> Serving:
    model = {
        "modelFormat": {"name": "huggingface"},
        "storageUri": "hf://a/b",
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
        **({"env": env} if env else {}),
    }
    return parse_object(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": "s", "annotations": {"ironloom.dev/model-cache": cache}},
            "spec": {"predictor": {"model": model, **predictor}},
        }
    )


def rendered(made: Serving) -> tuple[dict[str, Any], dict[str, Any], plain.Setting, list[dict[str, Any]]]:
    setting = plain.Setting()
    objects = plain.objects(made, setting)
    pod = objects[0]["spec"]["template"]["spec"]
    return pod, pod["containers"][0], setting, objects


def volume(pod: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in pod["volumes"] if one["name"] == "model-cache")
    return found


def test_a_size_is_a_claim_of_the_services_own_that_stays_and_this_is_said() -> None:
    pod, container, setting, objects = rendered(serving("100Gi shared"))
    claim = objects[-1]
    assert (claim["kind"], claim["metadata"]["name"]) == ("PersistentVolumeClaim", "s-models")
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "100Gi"}},
        "storageClassName": "shared",
    }
    assert volume(pod)["persistentVolumeClaim"] == {"claimName": "s-models"}
    assert {"name": "HF_HOME", "value": "/var/cache/huggingface"} in container["env"]
    assert any("stays when the service is deleted" in note for note in setting.notes)
    assert not any("persistentvolumeclaims" in path for path in paths_of("s", "default", lambda _: True))


def test_one_replica_at_most_needs_no_claim_that_several_nodes_mount() -> None:
    *_, objects = rendered(serving("100Gi", maxReplicas=1, minReplicas=0))
    assert objects[-1]["spec"]["accessModes"] == ["ReadWriteOnce"]


@pytest.mark.parametrize(
    ("cache", "kind", "said"),
    [
        ("pvc://models/hub", {"persistentVolumeClaim": {"claimName": "models"}}, ""),
        ("file:///mnt/models", {"hostPath": {"path": "/mnt/models", "type": "DirectoryOrCreate"}}, "of each node"),
        ("node", {"emptyDir": {}}, "goes with its pod"),
    ],
)
def test_other_places_are_taken_as_they_are(cache: str, kind: dict[str, Any], said: str) -> None:
    pod, _, setting, objects = rendered(serving(cache))
    assert {key: value for key, value in volume(pod).items() if key != "name"} == kind
    assert said in " ".join(setting.notes)
    assert not any(one["kind"] == "PersistentVolumeClaim" for one in objects)


def test_a_cache_that_the_manifest_names_is_where_it_is_mounted() -> None:
    _, container, _, _ = rendered(serving("pvc://models/hub", env=[{"name": "HF_HOME", "value": "/data"}]))
    mounted = next(one for one in container["volumeMounts"] if one["name"] == "model-cache")
    assert mounted == {"name": "model-cache", "mountPath": "/data", "subPath": "hub"}
    assert [one["name"] for one in container["env"]] == ["HF_HOME"]


def test_the_hub_is_never_said_to_be_offline_and_where_the_manifest_says_so_that_is_told() -> None:
    _, container, setting, _ = rendered(serving("100Gi"))
    assert not any("OFFLINE" in one["name"] for one in container["env"])
    assert "offline" not in " ".join(setting.notes)
    _, _, setting, _ = rendered(serving("100Gi", env=[{"name": "HF_HUB_OFFLINE", "value": "1"}]))
    assert "offline by the manifest's own word" in " ".join(setting.notes)


def test_kserve_fetches_models_itself_and_this_is_said() -> None:
    setting = plain.Setting()
    objects = kserve.objects(serving("100Gi"), setting, kserve.Found(runtimes=()))
    assert not any(one["kind"] == "PersistentVolumeClaim" for one in objects)
    assert any("model-cache is not honoured" in note for note in setting.notes)


@pytest.mark.parametrize(
    "text", ["", "lots", "0", "pvc://", "file://relative", "10Gi a b", "file:///a/../b", "pvc://Big"]
)
def test_what_is_no_place_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ManifestError, match="must be a size such as 100Gi"):
        serving(text)


def test_on_one_machine_the_daemons_own_cache_is_used_and_this_is_said() -> None:
    assert [note.message for note in serving("100Gi").notes_on(Ground.LOCAL)] == [
        "ironloom.dev/model-cache: the daemon's own cache of models is used"
    ]
    assert serving("100Gi").notes_on(Ground.PLAIN) == ()
