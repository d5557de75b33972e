"""A volume for what engines fetch from the hub, kept while a service is at zero: the next start finds the model there.

    ironloom.dev/model-cache     volume
    100Gi, 100Gi CLASS           a claim NAME-models of that size, made here and never removed here
    pvc://CLAIM[/FOLDER]         a claim that is there
    file:///FOLDER               a folder of each node
    node                         a folder of the pod, gone with it

It is mounted where the container's own HF_HOME says, else at a place of its own that HF_HOME is set to. Nothing says
that the hub is offline: what is not in the cache is fetched.

Source: https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables#hfhome
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ironloom.backends.kubernetes.names import MANAGED_BY, SERVICE_LABEL
from ironloom.workload.serving import Serving

Object = dict[str, Any]

MOUNT: Final = "/var/cache/huggingface"
VOLUME: Final = "model-cache"
_CACHES: Final = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
_OFFLINE: Final = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def claim_name(service: str) -> str:
    """Of the claim that is made for a service."""
    return f"{service}-models"


def claim(serving: Serving) -> Object | None:
    """The claim to make; None where the manifest asks for none of a size. One of several replicas, which may be on
    several nodes, is to be mounted by all of them at once."""
    size, _, storage_class = serving.model_cache.partition(" ")
    if not size or "://" in size or size == "node":
        return None
    mode = "ReadWriteOnce" if serving.scaling.max_replicas == 1 else "ReadWriteMany"
    spec: Object = {"accessModes": [mode], "resources": {"requests": {"storage": size}}}
    if storage_class:
        spec["storageClassName"] = storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": claim_name(serving.name),
            "namespace": serving.namespace,
            "labels": {**MANAGED_BY, SERVICE_LABEL: serving.name},
        },
        "spec": spec,
    }


def mount(serving: Serving, pod: Object, container: Object) -> list[str]:
    """Put the volume into a pod and its engine's container, and say what is to be known of it."""
    if not serving.model_cache:
        return []
    volume, folder, told = _volume(serving)
    env = {one.get("name"): str(one.get("value") or "") for one in container.get("env") or ()}
    at = next((env[name] for name in _CACHES if env.get(name)), env.get("HF_HOME") or MOUNT)
    mounts = container.get("volumeMounts") or []
    if any(str(one.get("mountPath", "")).rstrip("/") == at.rstrip("/") for one in mounts):
        return [f"model-cache: the container has a volume at {at} already, which stays"]
    pod["volumes"] = [*(pod.get("volumes") or []), {"name": VOLUME, **volume}]
    mounted: Object = {"name": VOLUME, "mountPath": at}
    if folder:
        mounted["subPath"] = folder
    container["volumeMounts"] = [*mounts, mounted]
    if at == MOUNT:
        container["env"] = [*(container.get("env") or []), {"name": "HF_HOME", "value": MOUNT}]
    if any(env.get(name, "").lower() in {"1", "true", "yes", "on"} for name in _OFFLINE):
        told.append("model-cache: the hub is offline by the manifest's own word, so that the cache must hold the model")
    return told


def _volume(serving: Serving) -> tuple[Object, str, list[str]]:
    """The volume, the folder inside it, and what is said."""
    text = serving.model_cache
    if text == "node":
        return {"emptyDir": {}}, "", ["model-cache: it goes with its pod, and each start fetches the model anew"]
    if text.startswith("file://"):
        path = text.removeprefix("file://")
        return {"hostPath": {"path": path, "type": "DirectoryOrCreate"}}, "", [
            f"model-cache: {path} of each node; a pod security level above privileged forbids it"
        ]  # fmt: skip
    if text.startswith("pvc://"):
        name, _, folder = text.removeprefix("pvc://").partition("/")
        return {"persistentVolumeClaim": {"claimName": name}}, folder, []
    name = claim_name(serving.name)
    made = claim(serving)
    assert made is not None
    mode = made["spec"]["accessModes"][0]
    return {"persistentVolumeClaim": {"claimName": name}}, "", [
        f"model-cache: claim {name} ({mode}) stays when the service is deleted: kubectl delete pvc {name} removes it"
    ]  # fmt: skip


def is_kept(one: Mapping[str, Any]) -> bool:
    """Whether an object is made and never removed."""
    return one.get("kind") == "PersistentVolumeClaim"
