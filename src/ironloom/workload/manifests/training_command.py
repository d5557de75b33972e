"""The command line of a container that trains with Ironloom's own program: its launcher's options and its settings.

    torchrun --nproc-per-node=4 -m ironloom.train.run --model=hf://owner/name --data.sources=rows.jsonl
    python -m ironloom.train.run --model=…

Source of torchrun's options: https://docs.pytorch.org/docs/stable/elastic/run.html
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.manifests.shell import expand
from ironloom.workload.training_settings import SettingError, read_args

MODULE = "ironloom.train.run"
_SHELLS = frozenset({"sh", "bash", "/bin/sh", "/bin/bash"})


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingCommand:
    """A command line that runs MODULE."""

    words: tuple[str, ...]
    """The settings' arguments."""
    paths: tuple[Path, ...]
    """Where each of them stands in the document."""
    launcher: Mapping[str, str]
    """torchrun's options by their name with `-`, `nproc-per-node` among them; empty for a plain python."""


def find_command(path: Path, container: Mapping[str, Any], env: Mapping[str, str]) -> TrainingCommand | None:
    """The command of a container that runs our program, None where it runs something else."""
    words: list[str] = []
    paths: list[Path] = []
    for key in ("command", "args"):
        for number, word in enumerate(container.get(key) or ()):
            words.append(expand(str(word), env))
            paths.append((*path, key, number))
    if len(words) == 3 and words[0] in _SHELLS and words[1].startswith("-") and words[1].endswith("c"):
        try:
            split = shlex.split(words[2].replace("\\\n", " "))
        except ValueError:
            return None
        words, paths = split, [paths[2]] * len(split)
        if words[:1] == ["exec"]:
            words, paths = words[1:], paths[1:]
    if MODULE not in words:
        return None
    at = words.index(MODULE)
    if words[at - 1] != "-m":
        return None
    return TrainingCommand(
        words=tuple(words[at + 1 :]), paths=tuple(paths[at + 1 :]), launcher=_launcher(words[1 : at - 1])
    )


def read_settings(made: Document, command: TrainingCommand, base: Path) -> dict[str, Any]:
    """The settings by name. What means nothing is an error of the document, at its argument; `base` is where the
    command stands."""
    try:
        return read_args(command.words)
    except SettingError as error:
        at = command.paths[error.index] if error.index is not None and command.paths else base
        raise made.error(at, error.message, hint=error.hint) from None


def _launcher(words: Sequence[str]) -> dict[str, str]:
    """`--nproc-per-node=4` and `--nproc_per_node 4` alike."""
    found: dict[str, str] = {}
    for number, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if not equals and number + 1 < len(words) and not words[number + 1].startswith("-"):
                value = words[number + 1]
            found[name.replace("_", "-")] = value
    return found
