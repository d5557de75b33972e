"""The form of a GGUF model for engines that read safetensors: written once, shared between them."""

from __future__ import annotations

from pathlib import Path

from ironloom.serve.engines.base import Conversion, LocalModel, ModelFormat
from ironloom.serve.models.cache import converted_dir

REQUIRES = ("torch", "transformers", "gguf", "accelerate")
"""What Transformers wants for it."""
ARCHITECTURES = frozenset(
    {
        "bloom", "deci", "falcon", "gemma2", "gemma3", "gemma4", "gpt-oss", "gpt2", "lfm2", "llama", "mamba", "mistral",
        "nemotron", "phi3", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "stablelm", "starcoder2",
    }
)  # fmt: skip
"""GGUF architectures that Transformers 5 reads (5.19, modeling_gguf_pytorch_utils.py)."""


def safetensors_folder(model: LocalModel, cache_dir: Path) -> Path:
    """Where the engine finds safetensors: the model itself, or its converted form."""
    if model.format is not ModelFormat.GGUF:
        return model.path
    return converted_dir(cache_dir, model) / "safetensors"


def to_safetensors(model: LocalModel, cache_dir: Path) -> Conversion | None:
    """The step from GGUF, or None where none is needed or it was done."""
    if model.format is not ModelFormat.GGUF:
        return None
    result = safetensors_folder(model, cache_dir)
    if result.exists():
        return None
    return Conversion(
        description=f"{model.path.name} to safetensors in bfloat16",
        module="ironloom.serve.engines.programs.gguf_to_safetensors",
        args=("--model", str(model.path), "--out", str(result)),
        result=result,
        requires=REQUIRES,
    )


def refuses_gguf(model: LocalModel) -> str | None:
    """None when it is no GGUF, or one that can be converted; else the reason."""
    if model.format is not ModelFormat.GGUF or model.architecture in ARCHITECTURES:
        return None
    return f"it reads safetensors, and a GGUF of the architecture {model.architecture} cannot be converted to that"
