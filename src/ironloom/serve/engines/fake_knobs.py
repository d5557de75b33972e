"""What a fake engine can be told to do. Imports little: the engine's start is part of what tests wait for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ironloom.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Knobs:
    """Everything is off by default. 0 never, where a knob counts."""

    start_delay_s: float = 0.0
    """Before it listens."""
    health_delay_s: float = 0.0
    """Listens, but answers /health with 503 for this long: a model that loads."""
    token_delay_s: float = 0.0
    """Before each token."""
    num_tokens: int = 8
    """Of an answer, unless max_tokens says fewer."""
    crash_at_start: int = 0
    """Exit status to end with before listening."""
    crash_lines: int = 3
    """Lines to write to stderr before a crash at start."""
    crash_after_requests: int = 0
    """Exit with status 70 when this many requests have been answered."""
    crash_after_tokens: int = 0
    """Exit with status 71 when this many tokens have been made, in the middle of an answer."""
    signal_after_tokens: int = 0
    """Die by SIGSEGV when this many tokens have been made."""
    hang_before_ready: bool = False
    """Listens and never answers /health."""
    hang_in_request: int = 0
    """The request of this number, and all later ones, get no answer."""
    leak_child: bool = False
    """Start a child that ignores SIGTERM and outlives its parent."""
    leak_session: bool = False
    """The leaked child leaves for a session of its own."""
    ignore_sigterm: bool = False
    garbage: bool = False
    """Answer with bytes that are no HTTP."""
    bad_json: bool = False
    """Answer with HTTP, and a body that is no JSON."""
    status: int = 0
    """Answer every completion with this HTTP status."""
    park_delay_s: float = 0.0
    wake_delay_s: float = 0.0
    fail_park: bool = False
    fail_wake: bool = False
    preload: bool = True
    """Be forked by a launcher that has the imports done, as real engines are; else spawned."""
    max_concurrency: int = 16
    memory_mib: int = 0
    """What the engine says that it needs."""


_TYPES = {field.name: str(field.type) for field in fields(Knobs)}


def from_mapping(knobs: Knobs, values: object, where: str) -> Knobs:
    """With these JSON values over `knobs`. Raises UsageError for what is no knob or no value of it."""
    if not isinstance(values, Mapping):
        raise UsageError(f"{where} is not a JSON object of knobs")
    return replace(knobs, **{str(name): _value(str(name), value, where) for name, value in values.items()})


def from_arguments(knobs: Knobs, arguments: Sequence[str]) -> Knobs:
    """With `--token-delay-s 0.01` and `--token-delay-s=0.01` over `knobs`. Other arguments are vLLM's and mean nothing
    here."""
    words = list(arguments)
    while words:
        name, equals, text = words.pop(0).removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if name not in _TYPES:
            continue
        if not equals:
            text = words.pop(0) if words and not words[0].startswith("--") else "true"
        knobs = replace(knobs, **{name: _value(name, text, f"--{name}")})
    return knobs


def from_environment(knobs: Knobs, env: Mapping[str, str]) -> Knobs:
    """With FAKE_TOKEN_DELAY_S=0.01 over `knobs`."""
    found = {name[5:].lower(): text for name, text in env.items() if name.startswith("FAKE_")}
    return from_mapping(knobs, found, "the environment")


def _value(name: str, value: object, where: str) -> Any:
    kind = _TYPES.get(name)
    if kind is None:
        raise UsageError(f'{where}: there is no knob "{name}"; there are {", ".join(_TYPES)}')
    try:
        if kind == "bool":
            return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
        return int(str(value)) if kind == "int" else float(str(value))
    except (ValueError, KeyError):
        raise UsageError(f"{where}: {name} = {value!r} is no {kind}") from None
