"""The launch of a container."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from ironloom.workload import look
from ironloom.workload.launch import programs
from ironloom.workload.manifests.lines import Line, Word, expanded, lines_of
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import NONE, Container, Launch

_SHELL = Word("sh", ()), Word("-c", ())


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
        found = _of_lines(lines_of(words, env, env_paths))
        if found is not None:
            return found
    if look.entries(container, "command"):
        return None
    return programs.of_image(look.text(container, "image"), _plain(words, env), path, env_paths)


def launch_of_words(words: Sequence[Word], container: Container) -> Launch | None:
    """As `launch_of`, of words that do not all stand in the container: some are of a template of the platform."""
    return _of_lines(lines_of(words, container.env, container.env_paths))


def text_launch(text: str, path: Path) -> Launch | None:
    """The launch of a command line that is one text, as a shell would read it: a Ray job's entrypoint."""
    return _of_lines(lines_of((*_SHELL, Word(text, path)), NONE)) if text else None


def server_launch(
    program: str, words: Sequence[Word], container: Container, *, uri: tuple[str, Path] = ("", ())
) -> Launch:
    """The launch of a server that the kind starts itself, with these arguments in this container.

    `uri` is the model that the kind names, and where; it counts before one of the arguments.
    """
    server = programs.BY_NAME[program]
    line = _plain(words, container.env)
    made = programs.served(server, line.words, line.env, container.path, container.env_paths)
    return replace(made, model=uri[0], model_path=uri[1]) if uri[0] else made


def words_of(container: Mapping[str, Any], path: Path) -> list[Word]:
    """The words of `command` and `args` as written; a number or true is the text that was meant."""
    return [
        Word(entry if isinstance(entry, str) else "" if entry is None else str(entry), (*path, name, number))
        for name in ("command", "args")
        for number, entry in enumerate(look.entries(container, name))
    ]


def _of_lines(lines: Sequence[Line]) -> Launch | None:
    found = [launch for line in lines if (launch := programs.understand(line)) is not None]
    return max(found, key=programs.weight, default=None)


def _plain(words: Sequence[Word], env: Mapping[str, str | None]) -> Line:
    known = {name: value for name, value in env.items() if value is not None}
    return Line(words=expanded(words, known), env=known)
