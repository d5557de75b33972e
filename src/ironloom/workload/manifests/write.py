"""Objects out: the shorthand's manifest, and YAML that Kubernetes reads as it was meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ironloom.workload.manifests.nodes import MERGE_KEY
from ironloom.workload.manifests.scalars import resolve
from ironloom.workload.manifests.training_command import MODULE
from ironloom.workload.training import Training
from ironloom.workload.training_settings import to_args

_GO_BOOLEANS = frozenset("yYnN")
"""Booleans to go-yaml v2, text to libyaml's users."""


def serving_manifest(
    name: str,
    model_uri: str,
    *,
    min_replicas: int = 0,
    max_replicas: int | None = None,
    engine: str | None = None,
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    num_gpus: int = 0,
    cpu: str | None = None,
    memory: str | None = None,
    scale_target: int | None = None,
    scale_metric: str | None = None,
    container_concurrency: int | None = None,
    timeout_s: int | None = None,
    namespace: str | None = None,
    annotations: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The InferenceService that `ironloom serve MODEL` writes. What is not said is left to KServe's defaults."""
    noted = dict(annotations or {})
    if engine is not None:
        noted["ironloom.dev/engine"] = engine
    metadata: dict[str, Any] = {"name": name}
    if namespace is not None:
        metadata["namespace"] = namespace
    if noted:
        metadata["annotations"] = noted
    predictor: dict[str, Any] = {"minReplicas": min_replicas}
    said = {
        "maxReplicas": max_replicas,
        "scaleMetric": scale_metric,
        "scaleTarget": scale_target,
        "containerConcurrency": container_concurrency,
        "timeout": timeout_s,
    }
    predictor |= {key: value for key, value in said.items() if value is not None}
    model: dict[str, Any] = {"modelFormat": {"name": "huggingface"}, "storageUri": model_uri}
    if args:
        model["args"] = list(args)
    if env:
        model["env"] = [{"name": key, "value": value} for key, value in env.items()]
    requests = {key: value for key, value in (("cpu", cpu), ("memory", memory)) if value is not None}
    if requests or num_gpus:
        asked: dict[str, Any] = {}
        if requests:
            asked["requests"] = requests
        asked["limits"] = requests | ({"nvidia.com/gpu": str(num_gpus)} if num_gpus else {})
        model["resources"] = asked
    predictor["model"] = model
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata,
        "spec": {"predictor": predictor},
    }


def training_manifest(
    training: Training,
    *,
    num_ranks: int = 1,
    num_gpus: int = 0,
    memory: str | None = None,
    env: Mapping[str, str] | None = None,
    image: str | None = None,
    namespace: str | None = None,
    runtime: str = "torch-distributed",
) -> dict[str, Any]:
    """The TrainJob that `ironloom train` writes: one node, so many ranks on it; `num_gpus` of all of them."""
    metadata: dict[str, Any] = {"name": training.name}
    if namespace is not None:
        metadata["namespace"] = namespace
    trainer: dict[str, Any] = {"image": image} if image else {}
    trainer |= {"command": ["torchrun", "-m", MODULE], "args": list(to_args(training))}
    if env:
        trainer["env"] = [{"name": key, "value": value} for key, value in env.items()]
    trainer |= {"numNodes": 1, "numProcPerNode": num_ranks}
    limits = {key: value for key, value in (("nvidia.com/gpu", str(num_gpus) if num_gpus else None),) if value}
    requests = {"memory": memory} if memory else {}
    asked = {key: value for key, value in (("requests", requests), ("limits", limits)) if value}
    if asked:
        trainer["resourcesPerNode"] = asked
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": metadata,
        "spec": {"runtimeRef": {"name": runtime}, "trainer": trainer},
    }


class _Dumper(yaml.SafeDumper):
    """Keys in their order, no anchors, and quotes around text that Kubernetes would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = None
    if not all(char.isprintable() or char == "\n" for char in value):
        style = '"'  # Only there are line breaks of other alphabets and control characters written as escapes.
    elif "\n" in value and not any(line != line.rstrip() for line in value.split("\n")):
        style = "|"
    elif resolve(value) != value or not isinstance(resolve(value), str) or value in _GO_BOOLEANS or value == MERGE_KEY:
        style = "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def dump_yaml(obj: Any) -> str:
    """YAML text of an object, or of a list of objects as documents. The same object gives the same text."""
    if isinstance(obj, list | tuple) and obj and all(isinstance(one, dict) for one in obj):
        return "---\n".join(dump_yaml(one) for one in obj)
    return yaml.dump(obj, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=120)
