"""Pods and containers: environment, resources, volumes, and the fields that one machine cannot honour.

A container's image is not run here: its command line says what to serve, and an engine of this machine serves it. Each
field that then changes nothing is told once, by name. Fields that Ironloom does in its own way (probes, ports, restart)
are not told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ironloom.units import parse_bytes, parse_quantity
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.manifests.shell import MAX_EXPANDED, expand
from ironloom.workload.serving import ON_ONE_MACHINE, FieldNote, Resources

_ONE_NODE = "this machine is the only node"
_AS_DAEMON = "engines run as processes of the daemon's own user"
_NO_POD = "engines are processes here, not pods"
POD_FIELDS: dict[str, str | None] = {
    "nodeSelector": _ONE_NODE,
    "nodeName": _ONE_NODE,
    "affinity": _ONE_NODE,
    "tolerations": _ONE_NODE,
    "topologySpreadConstraints": _ONE_NODE,
    "schedulerName": "no scheduler places it",
    "schedulingGates": "no scheduler places it",
    "priorityClassName": "no scheduler places it",
    "priority": "no scheduler places it",
    "preemptionPolicy": "no scheduler places it",
    "runtimeClassName": _NO_POD,
    "resourceClaims": "devices are handed out by index; ask for them in resources.limits",
    "serviceAccountName": _AS_DAEMON,
    "serviceAccount": _AS_DAEMON,
    "securityContext": _AS_DAEMON,
    "imagePullSecrets": "no image is pulled",
    "initContainers": "only the engine runs here",
    "hostNetwork": _NO_POD,
    "hostPID": _NO_POD,
    "hostIPC": None,
    "hostAliases": _NO_POD,
    "hostname": _NO_POD,
    "subdomain": _NO_POD,
    "dnsConfig": _NO_POD,
    "dnsPolicy": _NO_POD,
    "overhead": _NO_POD,
    "os": _NO_POD,
    "readinessGates": _NO_POD,
    "activeDeadlineSeconds": "a service runs until it is deleted",
    "restartPolicy": None,
    "terminationGracePeriodSeconds": None,
    "automountServiceAccountToken": None,
    "enableServiceLinks": None,
    "shareProcessNamespace": None,
    "setHostnameAsFQDN": None,
    "containers": None,
    "volumes": None,
    "resources": None,
}
"""Field of a PodSpec to why it changes nothing; None where there is nothing to tell."""
_OF_IMAGE = "a path of the container's image"
ENV_NOT_PASSED: dict[str, str] = {
    "CUDA_VISIBLE_DEVICES": "Ironloom hands out the devices",
    "NVIDIA_VISIBLE_DEVICES": "Ironloom hands out the devices",
    "HIP_VISIBLE_DEVICES": "Ironloom hands out the devices",
    "ROCR_VISIBLE_DEVICES": "Ironloom hands out the devices",
    "PATH": _OF_IMAGE,
    "HOME": _OF_IMAGE,
    "LD_LIBRARY_PATH": _OF_IMAGE,
    "LD_PRELOAD": _OF_IMAGE,
    "PYTHONPATH": _OF_IMAGE,
    "HF_HOME": "the daemon's own cache of models is used",
    "HF_HUB_CACHE": "the daemon's own cache of models is used",
    "HUGGINGFACE_HUB_CACHE": "the daemon's own cache of models is used",
    "TRANSFORMERS_CACHE": "the daemon's own cache of models is used",
}
"""Variables that would take effect here, and mean something else here than in the container."""
CONTAINER_FIELDS: dict[str, str] = {
    "image": "no image is run; an engine of this machine serves the model",
    "securityContext": _AS_DAEMON,
    "lifecycle": _NO_POD,
    "workingDir": _NO_POD,
    "volumeDevices": _NO_POD,
    "confidential": "the model is not decrypted here",
}

POD_OF_TRAINER = {
    "initContainers": "only the trainer runs here",
    "activeDeadlineSeconds": "a run ends with its steps",
    **dict.fromkeys(("serviceAccountName", "serviceAccount", "securityContext"), "ranks run as the daemon's own user"),
    **{name: "ranks are processes here, not pods" for name, why in POD_FIELDS.items() if why == _NO_POD},
}
"""The same of a pod that trains, where that is another reason."""
TRAINER_IMAGE = "no image is run; ranks run this installation"
TRAINER_FIELDS = {
    "image": TRAINER_IMAGE,
    "securityContext": POD_OF_TRAINER["securityContext"],
    **dict.fromkeys(("lifecycle", "workingDir", "volumeDevices"), POD_OF_TRAINER["hostNetwork"]),
}
"""Of its container."""


class Environment(msgspec.Struct):
    """A container's environment, and what of it is not here."""

    values: dict[str, str] = msgspec.field(default_factory=dict)
    notes: list[FieldNote] = msgspec.field(default_factory=list)


def environment(made: Document, path: Path, container: Mapping[str, Any]) -> Environment:
    """Plain values, with `$(NAME)` of earlier ones written out. Values from Secrets and the like are told."""
    env = Environment()
    length = 0
    for number, entry in enumerate(container.get("env") or ()):
        name = entry.get("name") or ""
        where: Path = (*path, "env", number)
        if entry.get("valueFrom"):
            origin = _origin(entry["valueFrom"])
            env.notes.append(made.note(where, f"env {name} comes from {origin}", ON_ONE_MACHINE))
        elif name in ENV_NOT_PASSED:
            env.notes.append(made.note(where, f"env {name}: {ENV_NOT_PASSED[name]}", ON_ONE_MACHINE))
        elif name:
            text = str(entry.get("value") or "")
            # What multiplies from variable to variable is written out as far as all of it together is a text.
            env.values[name] = expand(text, env.values) if length < MAX_EXPANDED else text
            length += len(env.values[name])
    if container.get("envFrom"):
        env.notes.append(
            made.note(
                (*path, "envFrom"), "envFrom: there are no ConfigMaps and Secrets on this machine", ON_ONE_MACHINE
            )
        )
    return env


def _origin(source: Mapping[str, Any]) -> str:
    for kind, key in (("Secret", "secretKeyRef"), ("ConfigMap", "configMapKeyRef")):
        reference = source.get(key)
        if reference:
            return f"the {kind} {reference.get('name', '')}: set it in the daemon's own environment instead"
    return "the pod's own fields, which an engine here does not have"


def resources(
    made: Document, path: Path, container: Mapping[str, Any], *, key: str = "resources"
) -> tuple[Resources, list[FieldNote]]:
    """What one replica asks for, in the container's field `key`.

    GPUs and CPU as limits say, else requests; memory as requests say, which is what Kubernetes reserves, else limits.
    An amount that means nothing is a complaint of the document's.
    """
    asked = container.get(key) or {}
    limits, requests = asked.get("limits") or {}, asked.get("requests") or {}
    base: Path = (*path, key)
    notes: list[FieldNote] = []
    num_gpus, gpu_resource = 0, "nvidia.com/gpu"
    for source, values in (("limits", limits), ("requests", requests)):
        for name, amount in values.items():
            where: Path = (*base, source, name)
            if amount is None or name in ("cpu", "memory", "ephemeral-storage"):
                continue
            if not _is_gpu(name):
                if source == "limits" or name not in limits:
                    notes.append(made.note(where, f"{name}: this machine does not hand it out", ON_ONE_MACHINE))
                continue
            count = parse_quantity(amount)
            if count != int(count) or count < 0:
                made.complain(where, f"{name} = {amount!r}, must be a whole number of devices")
            elif num_gpus and name != gpu_resource:
                notes.append(
                    made.note(where, f"{name}: devices of one kind are handed out, {gpu_resource} here", ON_ONE_MACHINE)
                )
            elif source == "limits" or not num_gpus:
                num_gpus, gpu_resource = int(count), name
    if asked.get("claims"):
        notes.append(made.note((*base, "claims"), f"claims: {POD_FIELDS['resourceClaims']}", ON_ONE_MACHINE))
    return (
        Resources(
            cpu=float(parse_quantity(_amount(made, base, "cpu", limits, requests))),
            memory_bytes=parse_bytes(_amount(made, base, "memory", requests, limits)),
            num_gpus=num_gpus,
            gpu_resource=gpu_resource,
        ),
        notes,
    )


def _amount(made: Document, base: Path, name: str, *sources: Mapping[str, Any]) -> str | int | float:
    for values in sources:
        amount: str | int | float | None = values.get(name)
        if amount is not None:
            if parse_quantity(amount) < 0:
                made.complain(base, f"{name} = {amount!r}, must not be negative")
                return 0
            return amount
    return 0


def _is_gpu(name: str) -> bool:
    return name.endswith("/gpu") or "/mig-" in name or name.startswith("gpu.intel.com/")


def field_notes(
    made: Document, path: Path, pod: Mapping[str, Any], container_path: Path, *, is_training: bool = False
) -> list[FieldNote]:
    """The fields of a pod and of its engine's or trainer's container that change nothing here."""
    notes = []
    pod_fields = POD_FIELDS | (POD_OF_TRAINER if is_training else {})
    for name, why in pod_fields.items():
        if why is not None and pod.get(name) not in (None, {}, [], "", False):
            notes.append(made.note((*path, name), f"{name}: {why}", ON_ONE_MACHINE))
    container: Any = made.obj
    for step in container_path:
        container = container[step]
    fields = CONTAINER_FIELDS | (TRAINER_FIELDS if is_training else {})
    for name, why in fields.items():
        if container.get(name) and not (name in pod and container is pod):
            notes.append(made.note((*container_path, name), f"{name}: {why}", ON_ONE_MACHINE))
    return notes


def sidecar_notes(
    made: Document, path: Path, pod: Mapping[str, Any], engine: int | None, *, runs: str = "the engine"
) -> list[FieldNote]:
    """The containers beside the one that runs, which do not."""
    return [
        made.note(
            (*path, "containers", number),
            f"container {container.get('name', number)}: only {runs} runs here",
            ON_ONE_MACHINE,
        )
        for number, container in enumerate(pod.get("containers") or ())
        if number != engine
    ]


def volume_notes(made: Document, path: Path, pod: Mapping[str, Any], used: str | None) -> list[FieldNote]:
    """Volumes that are not mounted. Empty ones (shared memory, scratch) need nothing; `used` holds the model."""
    notes = []
    for number, volume in enumerate(pod.get("volumes") or ()):
        name = volume.get("name", "")
        kinds = [kind for kind in volume if kind not in ("name", "emptyDir") and volume[kind] is not None]
        if kinds and name != used:
            notes.append(
                made.note(
                    (*path, "volumes", number), f"volume {name} ({kinds[0]}): nothing is mounted here", ON_ONE_MACHINE
                )
            )
    return notes


class Location(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model named in a container's command line is for this machine."""

    uri: str
    volume: str | None = None
    """The volume that it stands on."""


def locate(name: str, revision: str, container: Mapping[str, Any], pod: Mapping[str, Any]) -> Location:
    """The URI of a model as a server's command line names it: a hub's name, an URI, or a folder of the container.

    A folder on a mounted claim is `pvc://claim/…`, one on a hostPath is that path of this machine.
    """
    if "://" in name:
        return Location(uri=name)
    if not name.startswith(("/", ".", "~")):
        return Location(uri=f"hf://{name}" + (f":{revision}" if revision else ""))
    best: Mapping[str, Any] = {}
    for mount in container.get("volumeMounts") or ():
        at = str(mount.get("mountPath") or "").rstrip("/")
        if at and (name == at or name.startswith(at + "/")) and len(at) >= len(str(best.get("mountPath") or "")):
            best = mount
    if not best:
        return Location(uri=name)
    inside = name[len(str(best["mountPath"]).rstrip("/")) :].strip("/")
    sub = str(best.get("subPath") or "").strip("/")
    tail = "/".join(part for part in (sub, inside) if part)
    for volume in pod.get("volumes") or ():
        if volume.get("name") != best.get("name"):
            continue
        if volume.get("persistentVolumeClaim"):
            claim = volume["persistentVolumeClaim"].get("claimName", "")
            return Location(uri=f"pvc://{claim}" + (f"/{tail}" if tail else ""), volume=volume["name"])
        if volume.get("hostPath"):
            host = str(volume["hostPath"].get("path", "")).rstrip("/")
            return Location(uri=host + (f"/{tail}" if tail else ""), volume=volume["name"])
    return Location(uri=name)
