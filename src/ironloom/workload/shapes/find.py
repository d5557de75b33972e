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
from ironloom.workload.shapes.config import shape_of_config
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


def find(model: str) -> ModelShape | None:
    """The shape of a model by hub name, URI, folder or file; None where it is not known here.

    Raises nothing: a folder that cannot be read is not known.
    """
    text = model.strip()
    if not text or len(text) > 1000 or "$" in text or any(ord(letter) < 32 for letter in text):
        return None
    scheme, rest = "", text
    if (match := _SCHEME.fullmatch(text)) is not None:
        scheme, rest = match[1].lower(), match[2]
    if scheme in {"", "file"} and rest.startswith(("/", "./", "../", "~")):
        try:
            path = Path(rest).expanduser()
            if path.exists():
                from ironloom.workload.shapes.files import shape_of_path  # it brings what reads headers of weights

                return shape_of_path(path)
        except (ModelError, OSError, RuntimeError):
            return None
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
