"""How tokens are chosen where a request does not say: as the model's generation_config.json says, like vLLM.

    --generation-config auto|vllm|FOLDER      the model's own file, none, or the file in another folder
    --override-generation-config JSON         on top of it; also as --override-generation-config.top_k 20

Source: vLLM's ModelConfig.get_diff_sampling_param (vllm/config/model.py) and get_max_tokens
(vllm/entrypoints/serve/utils/api_utils.py), 0.32. A GGUF file has no such config.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ironloom.errors import RequestError
from ironloom.serve.engines.programs.fields import Fields
from ironloom.serve.engines.programs.templates import read_json

FILE = "generation_config.json"
CHOICE = "--generation-config"
OVERRIDE = "--override-generation-config"
ARGUMENTS = {CHOICE: CHOICE, OVERRIDE: OVERRIDE}
"""As the engines' tables of arguments have them: the programs' names are vLLM's."""
_MANY = 2**31 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingDefaults:
    """What a request gets that says nothing. Names are vLLM's SamplingParams'; the defaults here are neutral."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 is all tokens."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_tokens: int | None = None
    """Of a chat that names no number; None fills the context. The file calls it max_new_tokens."""
    limit_tokens: int | None = None
    """No answer is longer, whatever its request says: with a folder or an override of max_new_tokens, as in vLLM."""

    def told(self) -> dict[str, float | int]:
        """What is not neutral, by SamplingParams' names."""
        values = {name: value for name, value in asdict(self).items() if name != "limit_tokens"}
        return {name: value for name, value in values.items() if value != getattr(NEUTRAL, name)}


NEUTRAL = SamplingDefaults()


def read_sampling(fields: Fields, default: SamplingDefaults) -> dict[str, Any]:
    """The sampling of a request, or of a config. Raises RequestError that names the field and what it may be."""
    return {
        "temperature": fields.number("temperature", default.temperature, 0.0, 100.0),
        "top_p": fields.number("top_p", default.top_p, 0.0, 1.0, above_low=True),
        "top_k": max(0, fields.integer("top_k", default.top_k, -1, _MANY) or 0),
        "min_p": fields.number("min_p", default.min_p, 0.0, 1.0),
        "repetition_penalty": fields.number(
            "repetition_penalty", default.repetition_penalty, 0.0, float("inf"), above_low=True
        ),
        "presence_penalty": fields.number("presence_penalty", default.presence_penalty, -2.0, 2.0),
        "frequency_penalty": fields.number("frequency_penalty", default.frequency_penalty, -2.0, 2.0),
    }


def read_defaults(folder: Path | None, choice: str = "auto", overrides: Iterable[str] = ()) -> SamplingDefaults:
    """The defaults of a model in this folder (None: a single file). Raises ValueError that names the file or value."""
    file: Path | None = None
    if choice == "auto":
        file = folder / FILE if folder is not None else None
    elif choice != "vllm":
        file = Path(choice).expanduser() / FILE
        if not file.is_file():
            raise ValueError(f"{CHOICE} is {choice!r}; it must be auto, vllm or a folder with a {FILE}")
    config = read_json(file) if file is not None else {}
    over: dict[str, Any] = {}
    for text in overrides:
        over |= _object(text)
    made = _defaults(config, str(file))
    return _defaults(over, OVERRIDE, made, limit=made.max_tokens if choice not in ("auto", "vllm") else None)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of an engine's program."""
    parser.add_argument(CHOICE, default="auto", help="where sampling defaults come from: auto, vllm or a folder")
    parser.add_argument(OVERRIDE, action="append", default=[], help="JSON on top of it")


def defaults_of(options: argparse.Namespace, folder: Path | None) -> SamplingDefaults:
    """Of a program's parsed arguments. Raises ValueError."""
    return read_defaults(folder, options.generation_config, options.override_generation_config)


def defaults_of_arguments(arguments: Sequence[str], folder: Path | None) -> SamplingDefaults:
    """Of engine arguments in vLLM's spelling, of which only these two are read. Raises ValueError."""
    choice, overrides = "auto", list[str]()
    for at, argument in enumerate(arguments):
        name, joined, value = argument.partition("=")
        head, dot, key = name.partition(".")
        name = head.replace("_", "-") + dot + key
        if head.replace("_", "-") not in ARGUMENTS:
            continue
        if not joined:
            value = arguments[at + 1] if at + 1 < len(arguments) else ""
        if name == CHOICE:
            choice = value
        else:
            overrides.append(override(name, value))
    return read_defaults(folder, choice, overrides)


def override(name: str, value: str) -> str:
    """The JSON of an override: `value` itself, or of `--override-generation-config.top_k` the one that it names."""
    _, dot, key = name.partition(".")
    if not dot:
        return value
    try:
        return json.dumps({key: json.loads(value)})
    except ValueError:
        return json.dumps({key: value})


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{OVERRIDE} is {text[:80]!r}, which is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{OVERRIDE} is {text[:80]!r}; it must be a JSON object")
    return found


def _defaults(
    config: Mapping[str, Any], where: str, below: SamplingDefaults = NEUTRAL, *, limit: int | None = None
) -> SamplingDefaults:
    """A config's values over those `below`. What a config has beside them (end tokens, do_sample) is not read here."""
    read = Fields(config)
    try:
        max_tokens = read.integer("max_new_tokens", None, 1, _MANY)
        sampling = read_sampling(read, below)
    except RequestError as error:
        raise ValueError(f"{where}: {error.message}") from error
    return SamplingDefaults(
        **sampling,
        max_tokens=below.max_tokens if max_tokens is None else max_tokens,
        limit_tokens=limit if max_tokens is None or where != OVERRIDE else max_tokens,
    )
