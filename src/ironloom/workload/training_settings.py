"""The settings of a training run by name: read from JSON, read from and written as a program's arguments.

A setting's name is its path in `Training`, with dots: `optimizer.learning_rate`. On a command line and in a manifest's
`args` it is `--optimizer.learning_rate=2e-5`, with `-` for `_` where one likes; a list is said once for each entry. A
value that means nothing is an error that names the setting, the value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from ironloom.errors import UsageError
from ironloom.workload.training import Method, Source, Training

_Check = Callable[[Any], bool]
_LIMITS: dict[str, tuple[_Check, str]] = {
    "data.eval_fraction": (lambda value: 0 <= value < 1, "a number from 0 to below 1"),
    "data.seq_len": (lambda value: 2 <= value <= 2**24, "a whole number from 2 to 16777216"),
    "lora.rank": (lambda value: value >= 1, "a whole number of at least 1"),
    "lora.alpha": (lambda value: value > 0, "a number above 0"),
    "lora.dropout": (lambda value: 0 <= value < 1, "a number from 0 to below 1"),
    "lora.targets": (bool, "at least one name of a linear layer"),
    "optimizer.learning_rate": (lambda value: value > 0, "a number above 0"),
    "optimizer.betas": (lambda value: all(0 <= one < 1 for one in value), "two numbers from 0 to below 1"),
    "optimizer.eps": (lambda value: value > 0, "a number above 0"),
    "optimizer.weight_decay": (lambda value: value >= 0, "a number of at least 0"),
    "optimizer.max_grad_norm": (lambda value: value >= 0, "a number of at least 0"),
    "optimizer.warmup_steps": (lambda value: value >= 0, "a whole number of at least 0"),
    "optimizer.decay_fraction": (lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "optimizer.min_lr_fraction": (lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "compute.shard_group_size": (lambda value: value >= 0, "a whole number of at least 0"),
    "compute.num_whole_blocks": (lambda value: value is None or value >= 0, "a whole number of at least 0, or none"),
    "compute.loss_chunks": (lambda value: value >= 1, "a whole number of at least 1"),
    "checkpoint.every_steps": (lambda value: value >= 0, "a whole number of at least 0"),
    "checkpoint.keep_last": (lambda value: value >= 1, "a whole number of at least 1"),
    "checkpoint.keep_every_steps": (lambda value: value >= 0, "a whole number of at least 0"),
    "watch.log_every_steps": (lambda value: value >= 1, "a whole number of at least 1"),
    "watch.eval_every_steps": (lambda value: value >= 0, "a whole number of at least 0"),
    "watch.early_stop_patience": (lambda value: value >= 0, "a whole number of at least 0"),
    "watch.spike_factor": (lambda value: value == 0 or value > 1, "0, or a number above 1"),
    "watch.max_skipped_in_a_row": (lambda value: value >= 1, "a whole number of at least 1"),
    "watch.hang_timeout_s": (lambda value: value >= 0, "seconds, at least 0"),
    "watch.profile_steps": (lambda value: value is None or 1 <= value[0] <= value[1], "a first and a last step"),
    "num_steps": (lambda value: value >= 0, "a whole number of at least 0"),
    "num_epochs": (lambda value: value > 0, "a number above 0"),
    "global_batch_size": (lambda value: value >= 1, "a whole number of at least 1"),
    "micro_batch_size": (lambda value: value >= 1, "a whole number of at least 1"),
    "max_restarts": (lambda value: value >= 0, "a whole number of at least 0"),
}
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
REQUIRED = ("name", "model", "output")


class SettingError(UsageError):
    """A setting has no such name, or its value means nothing. `index` is the argument's place among the arguments."""

    def __init__(self, key: str, message: str, *, index: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.key = key
        self.index = index


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One setting."""

    key: str
    type: Any
    default: Any
    """MISSING of dataclasses where it must be said."""
    is_list: bool
    """Said once for each entry."""

    @property
    def allowed(self) -> str:
        """What it may be, in words."""
        return _LIMITS[self.key][1] if self.key in _LIMITS else _words(self.type)


@cache
def settings() -> Mapping[str, Setting]:
    """Every setting by its name, in the order of the configuration."""
    return {setting.key: setting for setting in _settings(Training, "")}


def _settings(kind: type, prefix: str) -> Iterable[Setting]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        wanted = hints[field.name]
        if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
            yield from _settings(wanted, f"{prefix}{field.name}.")
            continue
        default = field.default_factory() if callable(field.default_factory) else field.default
        arguments = typing.get_args(wanted)
        is_list = typing.get_origin(wanted) is tuple and arguments[-1:] == (...,)
        yield Setting(key=prefix + field.name, type=wanted, default=default, is_list=is_list)


# JSON.


def to_json(training: Training) -> dict[str, Any]:
    """The configuration as plain JSON values, all settings written out."""
    found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(training)))
    return found


def from_json(values: object) -> Training:
    """A configuration of JSON values; what is not said has its default. Raises SettingError."""
    if not isinstance(values, Mapping):
        raise SettingError("", "a training configuration must be a JSON object")
    flat: dict[str, Any] = {}
    _flatten(values, "", flat)
    return _build({key: _convert(settings()[key], value) for key, value in flat.items()})


def _flatten(values: Mapping[str, Any], prefix: str, into: dict[str, Any]) -> None:
    known = settings()
    for name, value in values.items():
        key = f"{prefix}{name}"
        if key in known:
            into[key] = value
        elif any(other.startswith(f"{key}.") for other in known):
            if not isinstance(value, Mapping):
                raise SettingError(key, f"{key} = {_shown(value)}, must be an object")
            _flatten(value, f"{key}.", into)
        else:
            raise _unknown(key)


# Arguments.


def to_args(training: Training) -> tuple[str, ...]:
    """The settings that are not at their default, as arguments. `name` is metadata.name, and not among them."""
    args: list[str] = []
    for setting in settings().values():
        value = _at(training, setting.key)
        if setting.key == "name" or value == setting.default:
            continue
        args += [f"--{setting.key}={_text(one)}" for one in (value if setting.is_list else (value,))]
    return tuple(args)


def from_args(args: Sequence[str], *, base: Mapping[str, Any] | None = None) -> Training:
    """The configuration of a program's arguments over the settings in `base` (flat, by name). Raises SettingError."""
    return _build(dict(base or {}) | read_args(args))


def read_args(args: Sequence[str]) -> dict[str, Any]:
    """The settings that arguments say, by name. Raises SettingError, with the place of the argument."""
    found: dict[str, Any] = {}
    known = settings()
    index = 0
    while index < len(args):
        at, word = index, args[index]
        index += 1
        if not word.startswith("--") or word == "--":
            raise SettingError("", f"{_shown(word)} is no setting: they are written --name=value", index=at)
        name, equals, text = word[2:].partition("=")
        key = name.replace("-", "_")
        setting = known.get(key)
        if setting is None:
            raise _unknown(name, index=at)
        if not equals:
            if _is_flag(setting.type) and (index == len(args) or args[index].startswith("--")):
                text = "true"
            elif index == len(args):
                raise SettingError(key, f"--{name} has no value; it must be {setting.allowed}", index=at)
            else:
                text, index = args[index], index + 1
        try:
            value = _convert(setting, [_of_text(setting, text)] if setting.is_list else _of_text(setting, text))
        except SettingError as error:
            error.index = at
            raise
        found[key] = (*found.get(key, ()), *value) if setting.is_list else value
    return found


def _is_flag(wanted: Any) -> bool:
    """Whether a setting without a value means true."""
    return wanted is bool or bool in typing.get_args(wanted)


def flat(training: Training) -> dict[str, Any]:
    """Every setting's value, by name."""
    return {key: _at(training, key) for key in settings()}


# Checks of settings together.


def check_ranks(training: Training, num_ranks: int) -> None:
    """Whether the batch divides over so many ranks. Raises SettingError, with what would divide."""
    batch, micro = training.global_batch_size, training.micro_batch_size
    if batch % (micro * num_ranks):
        fitting = [ranks for ranks in range(1, batch // micro + 1) if batch % (micro * ranks) == 0]
        near = max((ranks for ranks in fitting if ranks <= num_ranks), default=0)
        wider = -(-batch // (micro * num_ranks)) * micro * num_ranks
        runs = f"{near} rank{'s' if near > 1 else ''} or " if near else ""
        raise SettingError(
            "global_batch_size",
            f"global_batch_size = {batch} does not divide by {num_ranks} ranks × micro_batch_size {micro}",
            hint=f"{runs}global_batch_size={wider} would",
        )


def _checked(training: Training) -> Training:
    watch, data = training.watch, training.data
    if training.is_from_scratch and training.method is not Method.FULL:
        raise SettingError("method", f"method = {training.method.value} trains adapters of a model that is there; "
                           "is_from_scratch starts from new weights")  # fmt: skip
    if training.method is Method.QLORA and training.compute.is_float8:
        raise SettingError("compute.is_float8", "compute.is_float8 = true: the base of method = qlora has 4 bits",
                           hint="leave it out, or take method = lora")  # fmt: skip
    if not (watch.eval_every_steps and (data.eval_sources or data.eval_fraction)):
        for key, value in (
            ("early_stop_patience", watch.early_stop_patience),
            ("is_best_exported", watch.is_best_exported),
        ):
            if value:
                raise SettingError(
                    f"watch.{key}",
                    f"watch.{key} = {_text(value)} needs evaluations to look at",
                    hint="say watch.eval_every_steps, and data.eval_sources or data.eval_fraction",
                )
    return training


def _build(values: Mapping[str, Any]) -> Training:
    missing = [key for key in REQUIRED if values.get(key) in (None, "")]
    if missing:
        raise SettingError(missing[0], f"{missing[0]} is not said, and a training run needs it")
    return _checked(_made(Training, "", values))


def _made(kind: type, prefix: str, values: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        key = prefix + field.name
        if key in values:
            arguments[field.name] = values[key]
        elif dataclasses.is_dataclass(hints[field.name]) and isinstance(hints[field.name], type):
            arguments[field.name] = _made(hints[field.name], f"{key}.", values)
    return kind(**arguments)


# One value.


def _convert(setting: Setting, value: Any) -> Any:
    try:
        made = _typed(setting.type, value)
        if setting.key in _LIMITS and not _LIMITS[setting.key][0](made):
            raise ValueError
    except (ValueError, TypeError, OverflowError) as error:
        said = str(error) if isinstance(error, _Said) else f"must be {setting.allowed}"
        raise SettingError(setting.key, f"{setting.key} = {_shown(value)}, {said}") from None
    return made


class _Said(ValueError):
    """A ValueError whose text is for the person."""


def _typed(wanted: Any, value: Any) -> Any:
    """The JSON value as that type. Raises ValueError or TypeError."""
    if isinstance(wanted, types.UnionType):
        return None if value is None else _typed(next(one for one in wanted.__args__ if one is not type(None)), value)
    if typing.get_origin(wanted) is tuple:
        inner = typing.get_args(wanted)
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise TypeError
        if inner[-1] is ...:
            return tuple(_typed(inner[0], one) for one in value)
        if len(value) != len(inner):
            raise ValueError
        return tuple(_typed(kind, one) for kind, one in zip(inner, value, strict=True))
    if wanted is Source:
        return _source(value)
    if isinstance(wanted, type) and issubclass(wanted, StrEnum):
        if not isinstance(value, str):
            raise TypeError
        return wanted(value)
    if wanted is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise TypeError
        return float(value)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise TypeError
    return value


def _source(value: Any) -> Source:
    if isinstance(value, str):
        value = {"uri": value}
    names = [field.name for field in dataclasses.fields(Source)]
    if not isinstance(value, Mapping) or not isinstance(value.get("uri"), str) or not value["uri"]:
        raise _Said(f"must be a path or URI, or an object with {_listed(names)}")
    unknown = set(value) - set(names)
    if unknown:
        raise _Said(f"has {min(unknown)!r}; a source has {_listed(names)}")
    weight = value.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise _Said("has a weight that is no number above 0")
    wrong = [name for name in names if name != "weight" and not isinstance(value.get(name, ""), str)]
    if wrong:
        raise _Said(f"has a {wrong[0]} that is no text")
    return Source(**{**value, "weight": float(weight)})


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _of_text(setting: Setting, text: str) -> Any:
    """An argument's text as a JSON value; one that cannot be is left as text, for the error to show."""
    wanted = typing.get_args(setting.type)[0] if setting.is_list else setting.type
    if isinstance(wanted, types.UnionType):
        if text in ("none", "null"):
            return None
        wanted = next(one for one in wanted.__args__ if one is not type(None))
    if wanted is Source:
        if text.startswith("{"):
            try:
                return json.loads(text)
            except ValueError:
                return {}
        return text
    if typing.get_origin(wanted) is tuple:
        return [_number(part.strip()) for part in text.split(",")]
    if wanted is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    return _number(text, whole=wanted is int) if wanted in (int, float) else text


def _number(text: str, *, whole: bool = False) -> Any:
    if text != text.strip() or "_" in text or not text.isascii():
        return text
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return text if whole else float(text)
    except ValueError:
        return text


def _text(value: Any) -> str:
    """A value as an argument says it."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "none"
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, Source):
        plain = Source(uri=value.uri)
        is_plain = value == plain and not value.uri.startswith("{")
        return value.uri if is_plain else json.dumps(dataclasses.asdict(value))
    if isinstance(value, tuple):
        return ",".join(_text(one) for one in value)
    return repr(value) if isinstance(value, float) else str(value)


def _at(training: Training, key: str) -> Any:
    value: Any = training
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _unknown(name: str, *, index: int | None = None) -> SettingError:
    from ironloom.workload.manifests.suggest import nearest  # its package reads this module

    last = name.rpartition(".")[2].replace("-", "_")
    ends = {key.rpartition(".")[2]: key for key in settings()}
    near = ends.get(last) or nearest(name, settings())
    if near is None and (end := nearest(last, ends)) is not None:
        near = ends[end]
    said = f"; did you mean {near!r}?" if near else ""
    return SettingError(name, f"there is no setting {name[:80]!r} of a training run{said}", index=index)


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _words(wanted: Any) -> str:
    if isinstance(wanted, types.UnionType):
        return " or none, ".join(_words(one) for one in wanted.__args__ if one is not type(None)) + ", or none"
    if isinstance(wanted, type) and issubclass(wanted, StrEnum):
        return f"one of {', '.join(one.value for one in wanted)}"
    if typing.get_origin(wanted) is tuple:
        inner = typing.get_args(wanted)
        if inner[-1] is ...:
            return "a list of sources" if inner[0] is Source else "a list of texts"
        return f"{len(inner)} values: {_words(inner[0])} each"
    return _WORDS.get(wanted, "text")
