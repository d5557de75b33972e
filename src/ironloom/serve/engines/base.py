"""What an engine is to the rest of the program: a pure description of how to start one, and what it can do.

Every engine is a process of its own that speaks OpenAI's API on one loopback port, under vLLM's paths:
GET /health (200 once it can answer), GET /v1/models, POST /v1/chat/completions, /v1/completions, /v1/embeddings,
/tokenize, /detokenize; where it can park: POST /sleep?level=1, POST /wake_up, GET /is_sleeping.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from ironloom.errors import IronloomError
from ironloom.fleet.node import Node
from ironloom.workload.serving import Serving

ARGPARSE_STATUS = 2
"""How Python's argparse ends a program whose arguments are wrong; vLLM's parser is one."""


class ModelFormat(StrEnum):
    SAFETENSORS = "safetensors"
    GGUF = "gguf"
    OPENVINO = "openvino"


class Task(StrEnum):
    GENERATE = "generate"
    EMBED = "embed"


class Refusal(str):
    """Why an engine does not take a model, in a sentence's words; `hint` says what to do about it, where known."""

    __slots__ = ("hint",)
    hint: str | None

    def __new__(cls, reason: str, hint: str | None = None) -> Refusal:
        made = super().__new__(cls, reason)
        made.hint = hint
        return made

    @classmethod
    def of(cls, error: IronloomError) -> Refusal:
        """An error's message and hint."""
        return cls(error.message, error.hint)


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalModel:
    """A model on this machine's disk, whole and checked."""

    uri: str
    """As the manifest names it."""
    path: Path
    """The folder (safetensors, openvino) or the single file (gguf)."""
    format: ModelFormat
    architecture: str
    """config.json's first architecture (LlamaForCausalLM), or a GGUF's general.architecture (llama)."""
    task: Task = Task.GENERATE
    context_length: int | None = None
    size_bytes: int = 0
    note: str | None = None
    """What a user must know of it, e.g. that it holds the Q4_1 form."""
    form: str = ""
    """Number format of the weights, for a person: Q4_1, bfloat16, float32, fp8; empty is not known."""
    model_type: str = ""
    """config.json's model_type (llama), or a GGUF's general.architecture."""
    own_code: str | None = None
    """The Python modules of the model's repository that its config names (auto_map); None when it names none.
    They never run unless --trust-remote-code is among the engine's arguments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchOrder:
    """One replica to start."""

    model: LocalModel
    serving: Serving
    port: int
    gpu_indexes: tuple[int, ...] = ()
    num_threads: int = 0
    """CPU threads to compute with; 0 leaves it to the engine."""
    cache_dir: Path = Path()
    """A folder that outlives the replica, for converted forms."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """How to start it. `module` and `args` where it is a Python program of ours, so that a launcher that has the
    imports done can fork it; `argv` always, for a start from nothing."""

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    module: str | None = None
    args: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    """Modules that the launcher imports before it forks."""
    max_concurrency: int = 0
    memory_bytes: int = 0
    """Host memory the replica will need, estimated; 0 is not known."""
    ignored: tuple[str, ...] = ()
    """Arguments of the manifest that mean nothing to this engine, each said once."""
    notes: tuple[str, ...] = ()
    """What a user must know of how it runs, in whole sentences."""
    usage_status: int | None = None
    """The exit status with which its program refuses its arguments; None where that cannot be told."""
    cannot_park: str | None = None
    """Why this replica cannot be parked although its engine can (vLLM on a CPU); None where it can."""
    park_extra_s: float = 0.0
    """Seconds that parking may take beyond the backend's usual patience, for what grows with the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """A step that makes a model loadable once: run as a child process, its result is cached."""

    description: str
    """For a person: what is converted into what."""
    module: str
    """A Python module run with `python -m`; prints JSON lines of progress, ends with exit status 0."""
    args: tuple[str, ...]
    result: Path
    """Appears whole or not at all."""
    requires: tuple[str, ...] = ()
    """Distributions that must be installed, e.g. optimum-intel from the `convert` extra."""


class Engine(Protocol):
    """One engine. All methods are pure or look at installed packages only; none blocks."""

    name: str
    parks: bool
    """True when a replica can give up its device and come back."""

    def missing(self) -> str | None:
        """None when the engine can be started here, else what is missing and how to get it."""
        ...

    def refuses(self, model: LocalModel, serving: Serving, node: Node) -> str | None:
        """None when it can run this model here, else the reason in a sentence; a Refusal where there is a hint."""
        ...

    def conversion(self, model: LocalModel, cache_dir: Path) -> Conversion | None:
        """What must be done once before the first start, or None (nothing, or already done)."""
        ...

    def launch(self, order: LaunchOrder) -> Launch:
        """The command that starts one replica. Raises UsageError for an argument that cannot be honoured."""
        ...
