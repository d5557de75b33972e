"""Names of KServe's that readers of manifests and of kinds share."""

from __future__ import annotations

MODEL_MOUNT = "/mnt/models"
"""Where KServe's storage initializer puts the model of storageUri."""
FORMATS = ("huggingface", "vllm", "gguf", "openvino", "safetensors")
"""modelFormat.name that an engine here reads; the first is KServe's own name for language models."""
OTHER_FRAMEWORKS = ("sklearn", "xgboost", "tensorflow", "pytorch", "triton", "onnx", "pmml", "lightgbm", "paddle")
MAIN = "main"
"""An LLMInferenceService: KServe puts its own defaults into the container of this name."""
ADDITIONAL_ARGS = "VLLM_ADDITIONAL_ARGS"


def is_storage_mount(name: str) -> bool:
    """Whether a folder is the one where KServe puts the model of storageUri."""
    return name == MODEL_MOUNT or name.startswith(MODEL_MOUNT + "/")
