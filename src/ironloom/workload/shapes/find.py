"""The shape of a model by what a manifest calls it, without a network.

A name is looked for in the table of well-known models: `owner/name`, an `hf://` URI, or the last part of a path or of
another URI, which copies of a model keep. A name that ends in a known quantization (`-AWQ`, `-FP8`) is that of the
model without it, in that format. A folder or a GGUF file that is on this machine is read.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from msgspec.structs import replace

from ironloom.catalog.models import published_config
from ironloom.errors import ModelError
from ironloom.workload.shapes.config import STATE_SPACE, shape_of_config
from ironloom.workload.shapes.model import ModelShape
from ironloom.workload.shapes.quantization import NAMED, Quantization

_SCHEME = re.compile(r"([a-z0-9+.-]+)://(.*)", re.IGNORECASE)
_CACHE = re.compile(r"models--([^/]+?)--([^/]+)")
"""A repository's folder in the hub's cache."""
_QUANTIZED: tuple[tuple[str, Quantization], ...] = (
    (r"[-_.]awq([-_]int4)?", NAMED["awq"]),
    (r"[-_.]gptq([-_]int4)?", NAMED["gptq"]),
    (r"[-_.]gptq[-_]int8", replace(NAMED["gptq"], weight_bits=8, zero_bits=8)),
    (r"[-_.]fp8([-_]dynamic|[-_]kv)?", NAMED["fp8"]),
    (r"[-_.](bnb[-_]4bit|unsloth[-_]bnb[-_]4bit)", NAMED["bitsandbytes"]),
    (r"[-_.](nvfp4|fp4)", NAMED["nvfp4"]),
    (r"[-_.](quantized[.-])?w8a8", NAMED["int8"]),
    (r"[-_.](quantized[.-])?w4a16([-_]g128)?", NAMED["gptq"]),
)
"""Ends of names, in lower case, and the format that they mean."""
_STATE_SPACE_NAMES: tuple[tuple[str, str], ...] = (
    (r"falcon[-_]?mamba", "falcon_mamba"),
    (r"falcon[-_]?h1", "falcon_h1"),
    (r"mamba[-_]?2(?![.0-9])|mamba[-_]codestral|codestral[-_]mamba", "mamba2"),
    (r"mamba", "mamba"),
    (r"jamba", "jamba"),
    (r"bamba", "bamba"),
    (r"zamba2", "zamba2"),
    (r"zamba", "zamba"),
    (r"nemotron-h", "nemotron_h"),
    (r"granite-4[.]0-h-", "granitemoehybrid"),
    (r"plamo-2", "plamo2"),
    (r"rwkv", "rwkv"),
    (r"xlstm", "xlstm"),
    (r"recurrentgemma", "recurrent_gemma"),
    (r"lfm2", "lfm2"),
    (r"qwen3-next", "qwen3_next"),
    (r"qwen3[.]5", "qwen3_5"),
    (r"kimi-linear", "kimi_linear"),
    (r"minimax-(text-01|vl-01|m1)", "minimax"),
)
"""Words of names, in lower case, and the model type that their makers gave them; the first that is in a name counts.

Source: the config.json of state-spaces/mamba-2.8b-hf, mistralai/Mamba-Codestral-7B-v0.1, tiiuae/falcon-mamba-7b,
tiiuae/Falcon-H1-7B-Base, ai21labs/Jamba-v0.1, ibm-ai-platform/Bamba-9B-v2, Zyphra/Zamba2-7B,
nvidia/Nemotron-H-8B-Base-8K, ibm-granite/granite-4.0-h-small, pfnet/plamo-2-8b, RWKV/rwkv-4-169m-pile,
NX-AI/xLSTM-7b, google/recurrentgemma-2b, LiquidAI/LFM2-1.2B, Qwen/Qwen3-Next-80B-A3B-Instruct,
moonshotai/Kimi-Linear-48B-A3B-Instruct and MiniMaxAI/MiniMax-Text-01 at https://huggingface.co.
"""


def find(model: str) -> ModelShape | None:
    """The shape of a model by hub name, URI, folder or file; None where it is not known here.

    Raises nothing: a folder that cannot be read is not known, and `refusal` says why.
    """
    try:
        return _look_up(model)
    except (ModelError, OSError, RuntimeError):
        return None


def refusal(model: str) -> str:
    """Why a model has no shape though something says what it is: a state-space model, a family that is not known, a
    file that is damaged. Empty for a model that has one, and for a name of which nothing is known."""
    try:
        if _look_up(model) is not None:
            return ""
    except ModelError as error:
        return error.message
    except (OSError, RuntimeError) as error:
        return f"it cannot be read ({getattr(error, 'strerror', None) or error})"
    name = model.strip().rstrip("/").rpartition("/")[2].lower()
    for word, model_type in _STATE_SPACE_NAMES:
        if re.search(rf"(?<![a-z])({word})", name):
            return f"by its name it is {STATE_SPACE[model_type]}: a state-space model, whose memory is not modelled"
    return ""


def _look_up(model: str) -> ModelShape | None:
    """The shape; None where nothing is known. Raises ModelError, OSError or RuntimeError for what is there and has
    none."""
    text = model.strip()
    if not text or len(text) > 1000 or "$" in text or any(ord(letter) < 32 for letter in text):
        return None
    scheme, rest = "", text
    if (match := _SCHEME.fullmatch(text)) is not None:
        scheme, rest = match[1].lower(), match[2]
    if scheme in {"", "file"} and rest.startswith(("/", "./", "../", "~")):
        path = Path(rest).expanduser()
        if path.exists():
            from ironloom.workload.shapes.files import shape_of_path  # it brings what reads headers of weights

            return shape_of_path(path)
    return _by_name(rest)


@lru_cache(maxsize=256)
def _by_name(rest: str) -> ModelShape | None:
    cached = _CACHE.search(rest)
    name = f"{cached[1]}/{cached[2]}" if cached is not None else rest.partition(":")[0].partition("@")[0].rstrip("/")
    if name.lower().startswith("huggingface.co/"):
        name = name.partition("/")[2]
    found = published_config(name)
    if found is not None:
        return shape_of_config(found.config, name, source=found.source)
    for end, quantization in _QUANTIZED:
        match = re.search(f"{end}$", name, re.IGNORECASE)
        plain = published_config(name[: match.start()]) if match is not None else None
        if plain is not None and "quantization_config" not in plain.config:
            shape = shape_of_config(plain.config, name, source=plain.source)
            note = f"its name says {quantization.method}, and how it groups its scales is assumed"
            return replace(shape, quantization=quantization, notes=(*shape.notes, note))
    return None
