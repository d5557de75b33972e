"""A model that brings its own Python code: refused unless --trust-remote-code asks for it by name."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ironloom.serve.engines.base import LocalModel
from ironloom.workload.serving import Serving

FLAG = "--trust-remote-code"


def is_trusted(serving: Serving) -> bool:
    """True when the manifest asks for the model's own code."""
    return any(arg.replace("_", "-") == FLAG for arg in serving.engine_args)


def refuses_own_code(model: LocalModel, serving: Serving) -> str | None:
    """None when the model runs without code of its own, or that was asked for; else the reason.

    A config may name code that Transformers has taken over since: then its own is used, and the model's never runs.
    """
    if model.own_code is None or is_trusted(serving) or is_known(model.model_type):
        return None
    return f"the model needs code of its own ({model.own_code}), which runs only with {FLAG}"


def is_known(model_type: str) -> bool:
    """True when the installed Transformers has this model type. Looks at its folders; imports nothing."""
    spec = find_spec("transformers")
    if not model_type.isidentifier() or spec is None or not spec.submodule_search_locations:
        return False
    return any((Path(folder) / "models" / model_type).is_dir() for folder in spec.submodule_search_locations)
