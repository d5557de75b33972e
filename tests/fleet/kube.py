"""Kubernetes objects in the shape of real ones, in a line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Object = dict[str, Any]


def node(
    name: str,
    *,
    gpus: int | None = 8,
    labels: Mapping[str, str] | None = None,
    taints: tuple[str, ...] = (),
    ready: str = "True",
    conditions: Mapping[str, str] | None = None,
    capacity: Mapping[str, str] | None = None,
    unschedulable: bool = False,
    annotations: Mapping[str, str] | None = None,
) -> Object:
    """A node; a taint is written `key=value:Effect` as kubectl taint takes it."""
    amounts = {"cpu": "128", "memory": "2112109804Ki", "pods": "110", **(capacity or {})}
    if gpus is not None:
        amounts["nvidia.com/gpu"] = str(gpus)
    spec: Object = {"providerID": f"test://{name}"}
    if unschedulable:
        spec["unschedulable"] = True
    if taints:
        spec["taints"] = [_taint(written) for written in taints]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": dict(labels or {}), "annotations": dict(annotations or {})},
        "spec": spec,
        "status": {
            "capacity": amounts,
            "allocatable": dict(amounts),
            "conditions": [
                {"type": kind, "status": status} for kind, status in {**(conditions or {}), "Ready": ready}.items()
            ],
        },
    }


def pod(
    name: str,
    *,
    on: str = "",
    namespace: str = "team-a",
    phase: str = "Running",
    labels: Mapping[str, str] | None = None,
    **requests: Any,
) -> Object:
    """A pod of one container; `gpu=4` asks for nvidia.com/gpu."""
    asked = {"nvidia.com/gpu" if key == "gpu" else key: str(value) for key, value in requests.items()}
    spec: Object = {"containers": [{"name": "main", "resources": {"requests": asked, "limits": dict(asked)}}]}
    if on:
        spec["nodeName"] = on
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labels or {})},
        "spec": spec,
        "status": {"phase": phase},
    }


def named(api_version: str, kind: str, name: str, namespace: str = "", **rest: Any) -> Object:
    """Any other object."""
    metadata: Object = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **rest}


def listed(*objects: Object) -> Object:
    """A list as `kubectl get -o json` prints it."""
    return {"apiVersion": "v1", "items": list(objects), "kind": "List", "metadata": {"resourceVersion": ""}}


def typed_list(kind: str, *objects: Object) -> Object:
    """A list as the API server sends it: its items do not say their kind."""
    items = [{key: value for key, value in one.items() if key not in ("apiVersion", "kind")} for one in objects]
    return {"kind": f"{kind}List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}


def _taint(written: str) -> Object:
    key_value, _, effect = written.rpartition(":")
    key, _, value = key_value.partition("=")
    return {"key": key, "effect": effect, **({"value": value} if value else {})}
