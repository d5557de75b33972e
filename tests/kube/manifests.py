"""The services that tests of the ring apply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VLLM = "vllm/vllm-openai:v0.26.0"


def inference_service(
    name: str,
    annotations: Mapping[str, str] | None = None,
    *,
    port: int = 8000,
    num_gpus: int = 1,
    **container: Any,
) -> dict[str, Any]:
    """One with a container of its own, which begins with a replica unless an annotation says otherwise. `container`
    are fields of it."""
    engine = {
        "name": "kserve-container",
        "image": VLLM,
        "args": ["--model", "a/b", "--port", str(port)],
        "resources": {"limits": {"nvidia.com/gpu": str(num_gpus)}},
        **container,
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "annotations": dict(annotations or {})},
        "spec": {"predictor": {"minReplicas": 0, "containers": [engine]}},
    }
