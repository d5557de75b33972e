"""A service as KServe's own LLMInferenceService, where the cluster serves that kind: its controller makes the pods, a
LeaderWorkerSet where a replica spans nodes, and writes their count.

The manifest is applied as it is written; labels are added, by which its pods are found.
Source: https://github.com/kserve/kserve/tree/v0.20.0/pkg/controller/v1alpha2/llmisvc (workload_single_node.go: labels)
"""

from __future__ import annotations

from copy import deepcopy
from typing import Final

from ironloom.backends.kubernetes.names import GENERATION_LABEL, MANAGED_BY, SERVICE_LABEL
from ironloom.backends.kubernetes.render.plain import Object, Setting
from ironloom.workload.serving import Serving

KIND: Final = "LLMInferenceService"
WRITER: Final = "KServe (an LLMInferenceService's own controller)"


def objects(serving: Serving, setting: Setting) -> list[Object]:
    """The LLMInferenceService alone."""
    manifest = deepcopy(serving.manifest)
    spec = manifest["spec"]
    spec["labels"] = {
        **(spec.get("labels") or {}),
        SERVICE_LABEL: serving.name,
        GENERATION_LABEL: str(setting.generation),
    }
    metadata: Object = {
        "name": serving.name,
        "namespace": serving.namespace,
        "labels": {**serving.labels, **MANAGED_BY, SERVICE_LABEL: serving.name},
    }
    if serving.annotations:
        metadata["annotations"] = dict(serving.annotations)
    setting.notes.append(
        "KServe's controller of LLMInferenceServices runs and scales it, not to zero unless its scaling says so"
    )
    if serving.model_cache:
        setting.notes.append("model-cache is not honoured: KServe itself fetches the model, at each start")
    return [{"apiVersion": manifest["apiVersion"], "kind": KIND, "metadata": metadata, "spec": spec}]
