"""Clusters of one file: an API server on loopback and the kubeconfig that leads to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

WriteKubeconfig = Callable[..., Path]


def kubeconfig_of(
    server: str,
    *,
    context: str = "prod",
    user: Mapping[str, Any] | None = None,
    cluster: Mapping[str, Any] | None = None,
    namespace: str | None = None,
) -> dict[str, Any]:
    """A kubeconfig of one context, whose current context is another: it is never to be used."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "somewhere-else",
        "clusters": [{"name": f"{context}-cluster", "cluster": {"server": server, **(cluster or {})}}],
        "users": [{"name": "ada", "user": dict(user or {})}],
        "contexts": [
            {
                "name": context,
                "context": {
                    "cluster": f"{context}-cluster",
                    "user": "ada",
                    **({"namespace": namespace} if namespace else {}),
                },
            }
        ],
    }


@pytest.fixture
def write_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteKubeconfig:
    """Write one and make it the one that is read. JSON is YAML."""

    def write(server: str, *, name: str = "config", **words: Any) -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(kubeconfig_of(server, **words)))
        monkeypatch.setenv("KUBECONFIG", str(path))
        for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(variable, raising=False)
        return path

    return write


def node(name: str, num_gpus: int = 8, **labels: str) -> dict[str, Any]:
    amounts = {"cpu": "128", "memory": "2000Gi", "pods": "110", "nvidia.com/gpu": str(num_gpus)}
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}},
        "spec": {},
        "status": {
            "allocatable": amounts,
            "capacity": amounts,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def pod(name: str, node_name: str = "", num_gpus: int = 1, namespace: str = "team-a") -> dict[str, Any]:
    resources = {"limits": {"nvidia.com/gpu": str(num_gpus)}, "requests": {"cpu": "4", "nvidia.com/gpu": str(num_gpus)}}
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}"},
        "spec": {"nodeName": node_name, "containers": [{"name": "main", "image": "x", "resources": resources}]},
        "status": {"phase": "Running"},
    }
