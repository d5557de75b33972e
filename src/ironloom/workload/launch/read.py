"""The launch of a container."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ironloom.workload import look
from ironloom.workload.launch import programs
from ironloom.workload.launch.lines import Line, Word, lines_of
from ironloom.workload.manifests.schema import Path
from ironloom.workload.manifests.shell import expand
from ironloom.workload.workload import Launch


def launch_of(
    container: Mapping[str, Any],
    path: Path,
    env: Mapping[str, str | None],
    env_paths: Mapping[str, Path],
) -> Launch | None:
    """What a container at `path` runs; None where no program of it is known.

    Of a script with several commands the one that matters most: a server before a launcher, that before plain Python.
    """
    words = words_of(container, path)
    if words:
        lines = lines_of(words, env, env_paths)
        found = [launch for line in lines if (launch := programs.understand(line)) is not None]
        if found:
            return max(found, key=programs.weight)
    if look.entries(container, "command"):
        return None
    return programs.of_image(look.text(container, "image"), _plain(words, env), path, env_paths)


def server_launch(
    program: str,
    container: Mapping[str, Any],
    path: Path,
    env: Mapping[str, str | None],
    env_paths: Mapping[str, Path],
    *,
    uri: tuple[str, Path] = ("", ()),
) -> Launch:
    """The launch of a server that the kind starts itself with the container's arguments.

    `uri` is the model that the kind names, and where, for arguments that name none.
    """
    server = programs.BY_NAME[program]
    made = programs.served(server, _plain(words_of(container, path), env).words, _known(env), path, env_paths)
    return made if made.model and not uri[0] else replace(made, model=uri[0] or made.model, model_path=uri[1])


def words_of(container: Mapping[str, Any], path: Path) -> list[Word]:
    """The words of `command` and `args` as written; a number or true is the text that was meant."""
    return [
        Word(entry if isinstance(entry, str) else "" if entry is None else str(entry), (*path, name, number))
        for name in ("command", "args")
        for number, entry in enumerate(look.entries(container, name))
    ]


def _plain(words: list[Word], env: Mapping[str, str | None]) -> Line:
    known = _known(env)
    expanded = (replace(word, text=expand(word.text, known)) if "$" in word.text else word for word in words)
    return Line(words=tuple(expanded), env=known)


def _known(env: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in env.items() if value is not None}
