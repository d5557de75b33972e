"""Which engine runs this model on this node, and why. Pure but for `missing()`, which looks at installed packages.

Without a word from the manifest: vLLM where the node has a GPU, else OpenVINO, llama.cpp, Transformers, vLLM's CPU
build, in this order of measured speed on a CPU (docs/concepts/other-engines.md). The first that is installed and does
not refuse is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ironloom.errors import EngineUnavailable
from ironloom.fleet.node import Node
from ironloom.serve.engines.base import Engine, LocalModel, Refusal
from ironloom.workload.serving import Serving

ORDER_WITH_GPU = ("vllm", "openvino", "llamacpp", "transformers")
ORDER_WITHOUT_GPU = ("openvino", "llamacpp", "transformers", "vllm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The engine, and why it and not another."""

    engine: Engine
    reason: str
    passed_over: tuple[tuple[str, str], ...] = ()
    """Engines that come before it in the order, each with what spoke against it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoEngine:
    """None of them can; each with the reason."""

    reason: str
    hint: str
    refused: tuple[tuple[str, str], ...]

    def error(self) -> EngineUnavailable:
        return EngineUnavailable(self.reason, hint=self.hint)


_LEAVE_OUT = "leave the engine out (--engine, or the manifest's runtime), and the machine decides"


def choose(model: LocalModel, serving: Serving, node: Node, engines: Sequence[Engine]) -> Chosen | NoEngine:
    """The first engine, in the order for this node, that is installed and takes this model."""
    by_name = {engine.name: engine for engine in engines}
    if serving.runtime is not None:
        return _by_name(serving.runtime, by_name, model, serving, node)
    order = ORDER_WITH_GPU if node.gpus else ORDER_WITHOUT_GPU
    against: list[tuple[str, str]] = []
    for name in order:
        engine = by_name.get(name)
        if engine is None:
            continue
        why_not = _why_not(engine, model, serving, node)
        if why_not is None:
            return Chosen(engine=engine, reason=_reason(name, against, node), passed_over=tuple(against))
        against.append((name, why_not))
    reasons = "; ".join(f"{name}: {why_not}" for name, why_not in against)
    return NoEngine(
        reason=f"no engine here can run {model.uri}: {reasons}",
        hint=_hint(against, "install one: pip install 'ironloom[cpu]', or 'ironloom[gpu]' for an NVIDIA GPU"),
        refused=tuple(against),
    )


def _by_name(
    name: str, by_name: dict[str, Engine], model: LocalModel, serving: Serving, node: Node
) -> Chosen | NoEngine:
    engine = by_name.get(name)
    if engine is None:
        known = ", ".join(by_name)
        return NoEngine(
            reason=f'the engine "{name}" is asked for; there are {known}',
            hint=_LEAVE_OUT,
            refused=((name, "no such engine"),),
        )
    why_not = _why_not(engine, model, serving, node)
    if why_not is not None:
        return NoEngine(
            reason=f"the engine {name} is asked for, and cannot run {model.uri}: {why_not}",
            hint=_hint([(name, why_not)], _LEAVE_OUT),
            refused=((name, why_not),),
        )
    return Chosen(engine=engine, reason=f"{name}, as the manifest asks")


def _why_not(engine: Engine, model: LocalModel, serving: Serving, node: Node) -> str | None:
    refused = engine.refuses(model, serving, node)  # what cannot be changed by installing comes first
    return refused if refused is not None else engine.missing()


def _hint(against: Sequence[tuple[str, str]], otherwise: str) -> str:
    """What the first engine of the order that knows better says to do; else the general advice."""
    hints = (why_not.hint for _, why_not in against if isinstance(why_not, Refusal))
    return next((hint for hint in hints if hint), otherwise)


def _reason(name: str, against: list[tuple[str, str]], node: Node) -> str:
    where = "with a GPU" if node.gpus else "without a GPU"
    if not against:
        return f"{name}, the first choice on a machine {where}"
    return f"{name}, since " + "; ".join(f"{other} cannot: {why_not}" for other, why_not in against)
