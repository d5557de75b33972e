"""The parts of a script that run a model in an engine: vLLM's, SGLang's, Ironloom's own."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ironloom.workload.scripts.terms import OWN, SGLANG, UNKNOWN, VLLM

if TYPE_CHECKING:
    from ironloom.workload.scripts.model import Call, Script

_ENGINES = {
    VLLM: "model", OWN: "model", SGLANG: "model_path", "vllm.EngineArgs": "model", "vllm.AsyncEngineArgs": "model",
}  # fmt: skip
"""What makes an engine, or holds its arguments, and the argument that names the model."""
_MAX_CALLS = 100
_TUNED = re.compile(r"(^|[-_.])(instruct|chat|it|sft|dpo|rlhf)([-_.]|$)", re.I)
_TEMPLATED = re.compile(
    r"<\||\|>|\[/?INST\]|<<SYS>>|<start_of_turn>|<s>|###|\b(USER|Human|User|ASSISTANT|Assistant): ?|<image>"
)
"""What prompts that follow a chat template by hand have in them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """One call that makes an engine, or holds its arguments."""

    call: Call
    name: str
    """Full name of what is called."""
    model: str
    """As the script names it; empty where it is not known."""
    model_node: ast.expr | None
    is_default: bool
    """The model, or what else was asked for, is an option's default, which whoever starts it may change."""

    @property
    def is_vllm(self) -> bool:
        return self.name != SGLANG

    @property
    def is_tuned(self) -> bool:
        """Whether the model's name says that it was trained on conversations."""
        return _TUNED.search(self.model.rpartition("/")[2]) is not None

    @property
    def is_on_hub(self) -> bool:
        """Whether the model is `owner/name`."""
        return re.fullmatch(r"[\w.-]+/[\w.-]+", self.model) is not None and not self.model.startswith(".")


class Serving:
    """How a script runs models."""

    def __init__(self, script: Script) -> None:
        self._script = script

    @cached_property
    def engines(self) -> Sequence[Engine]:
        """In the order of the text."""
        found = []
        for call in self._script.calls_of(*_ENGINES)[:_MAX_CALLS]:
            name = call.name
            if name not in _ENGINES:
                continue
            node = call.get(_ENGINES[name], 0)
            value = self._script.values.of(node)
            is_default = value is UNKNOWN
            if is_default:
                value = self._script.values.usual(node)
            model = value if isinstance(value, str) else ""
            found.append(Engine(call=call, name=name, model=model, model_node=node, is_default=is_default))
        return found

    def engine_of(self, call: Call) -> Engine | None:
        """The engine whose method this is, where the script has one alone of its kind, or its name leads to one."""
        kinds = {name.rpartition("().")[0] for name in call.names}
        made = [engine for engine in self.engines if engine.name in kinds]
        if len(made) == 1:
            return made[0]
        func = call.node.func
        origin = self._script.values.origin(func.value) if isinstance(func, ast.Attribute) else None
        return next((engine for engine in made if engine.call.node is origin), None)

    def calls(self, *methods: str) -> Sequence[Call]:
        """The calls of engines' methods."""
        names = (f"{name}().{method}" for name in (VLLM, OWN, SGLANG) for method in methods)
        return self._script.calls_of(*names)[:_MAX_CALLS]

    def number(self, engine: Engine, name: str) -> Any:
        """An argument's constant; None where it is not given, UNKNOWN where it is not known."""
        node = engine.call.get(name)
        if node is None:
            return UNKNOWN if engine.call.arguments.is_open else None
        return self._script.values.of(node)

    def plain_prompts(self, node: ast.AST | None) -> list[str] | None:
        """The prompts that an expression is, where all are text and none follows a chat template; None for others."""
        whole = self._script.values.origin(node)
        parts: list[ast.AST] = list(whole.elts) if isinstance(whole, ast.List | ast.Tuple) else [whole] if whole else []
        if isinstance(node, ast.Name) and self._script.values.is_changed(node.id):
            return None
        texts = [self._script.values.text(part) for part in parts]
        plain = [text for text in texts if text is not None]
        is_plain = len(plain) == len(texts) and any(text.strip("{} \n") for text in plain)
        return plain if plain and is_plain and not any(map(_TEMPLATED.search, plain)) else None
