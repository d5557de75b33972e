"""Ironloom: the software of a specialised AI cloud, as one Python package.

>>> from ironloom import LLM, SamplingParams          # doctest: +SKIP
>>> llm = LLM("smollm2-135m-instruct")                # doctest: +SKIP
>>> llm.generate(["2 + 2 ="], SamplingParams(max_tokens=8))[0].outputs[0].text  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ironloom.serve.llm import LLM, SamplingParams

__version__ = "0.1.0"
__all__ = ["LLM", "SamplingParams", "__version__"]


def __getattr__(name: str) -> object:
    """Public names are loaded at first use, so that `import ironloom` costs nothing."""
    if name in ("LLM", "SamplingParams"):
        from ironloom.serve import llm

        return getattr(llm, name)
    raise AttributeError(f"module 'ironloom' has no attribute {name!r}")
