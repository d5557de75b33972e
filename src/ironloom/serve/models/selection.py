"""Which files of a repository are fetched. Pure: from names to names, or a refusal with its reason.

An allow-list: weights in one form, and the small files that engines read beside them. Python files only when the
model's own code was asked for by name. Never pickles.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import PurePosixPath

from ironloom.errors import ModelNotFound, ModelRefused
from ironloom.serve.models.inspect import PICKLES

_BESIDE = (".json", ".txt", ".jinja", ".tiktoken", ".model")
"""Configs, vocabularies, merges, chat templates, sentencepiece models."""
_POOLING = re.compile(r"\d+_\w+/config\.json")
"""sentence-transformers' modules (1_Pooling/config.json)."""
_STANDARD = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_SPLIT = re.compile(r"(.+)-00001-of-(\d{5})\.gguf")
_OPENVINO = re.compile(r"openvino_(model|tokenizer|detokenizer)\.(xml|bin)")


def select_files(names: Collection[str], *, repo: str, gguf: str = "", own_code: bool = False) -> tuple[str, ...]:
    """The files to fetch, sorted. `gguf` names the one GGUF file that was asked for.

    Raises ModelRefused when the repository has no weights that may be used, ModelNotFound when `gguf` is not in it.
    """
    if gguf:
        if gguf not in names:
            has = ", ".join(sorted(name for name in names if name.endswith(".gguf"))[:8]) or "no GGUF file"
            raise ModelNotFound(f'{repo} has no file "{gguf}"; it has {has}')
        return _with_parts(gguf, names, repo)
    top = [name for name in names if "/" not in name]
    beside = [name for name in top if name.endswith(_BESIDE) or (own_code and name.endswith(".py"))]
    if "config.json" in top and (weights := _safetensors(top)):
        beside += [name for name in names if _POOLING.fullmatch(name)]
        return tuple(sorted({*weights, *beside}))
    if "openvino_model.xml" in top:
        return tuple(sorted({*beside, *(name for name in top if _OPENVINO.fullmatch(name))}))
    choices = sorted(name for name in names if name.endswith(".gguf") and _first_part(name))
    if len(choices) == 1:
        return _with_parts(choices[0], names, repo)
    if choices:
        raise ModelRefused(
            f"{repo} holds {len(choices)} GGUF files and no safetensors, so one must be named: "
            f"{', '.join(choices[:8])}{', …' if len(choices) > 8 else ''}",
            hint=f"for instance `hf://{repo}/{choices[0]}`",
        )
    if "adapter_config.json" in top:
        raise ModelRefused(f"{repo} is an adapter (LoRA), no model", hint="name the model that it adapts")
    pickles = sorted(name for name in top if PurePosixPath(name).suffix in PICKLES)
    if pickles:
        raise ModelRefused(
            f"{repo} holds its weights as pickles alone ({', '.join(pickles[:3])}); loading one can run any code, "
            "so only safetensors and GGUF are taken",
            hint="look for a revision or a copy of the model with safetensors",
        )
    raise ModelRefused(f"{repo} holds no weights that can be used: neither safetensors with a config.json nor GGUF")


def _safetensors(top: list[str]) -> list[str]:
    """The standard names where they are there; else all but `consolidated`, which repeats them in another layout."""
    found = [name for name in top if name.endswith(".safetensors")]
    standard = [name for name in found if _STANDARD.fullmatch(name)]
    if standard:
        shards = [name for name in standard if name != "model.safetensors"]
        return ["model.safetensors"] if "model.safetensors" in standard else shards
    other = [name for name in found if not name.startswith(("adapter_", "consolidated", "optimizer"))]
    return other or [name for name in found if name.startswith("consolidated")]


def _first_part(name: str) -> bool:
    return re.search(r"-\d{5}-of-\d{5}\.gguf$", name) is None or _SPLIT.fullmatch(name) is not None


def _with_parts(name: str, names: Collection[str], repo: str) -> tuple[str, ...]:
    split = _SPLIT.fullmatch(name)
    if split is None:
        return (name,)
    parts = [f"{split[1]}-{n:05d}-of-{split[2]}.gguf" for n in range(1, int(split[2]) + 1)]
    for part in parts:
        if part not in names:
            raise ModelNotFound(f'{repo} has "{name}" but not its part "{part}"')
    return tuple(parts)
