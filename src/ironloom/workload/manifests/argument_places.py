"""Where an argument of a container's command line stands in its manifest: in a list, or within a script."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec.structs import replace

from ironloom.errors import ManifestError
from ironloom.workload.manifests.arguments import BadArgument, BadArguments
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.nodes import Place
from ironloom.workload.manifests.problems import ManifestProblems
from ironloom.workload.manifests.schema import Path, path_text

LISTS = ("args", "command")


def unreadable(made: Document, container: Path, error: ValueError) -> ManifestError:
    """An error of a container's command line, each fault at the argument that has it.

    `container` is where the container stands, or what holds `args` as one does.
    """
    problems = error.problems if isinstance(error, BadArguments) else (BadArgument(str(error)),)
    found = [_at(made, container, problem) for problem in problems]
    return found[0] if len(found) == 1 else ManifestProblems(found)


def _at(made: Document, container: Path, problem: BadArgument) -> ManifestError:
    found = _find(made, container, problem.word) if problem.word else None
    if found is not None:
        path, place = found
        return ManifestError(
            problem.message,
            hint=problem.hint,
            file=made.file,
            line=place.line,
            column=place.column,
            path=path_text(path),
        )
    own = made.positions.mapping(container)
    last = next((name for name in LISTS if own.get(name)), "")
    return made.error((*container, last) if last else container, problem.message, hint=problem.hint, at_key=True)


def _find(made: Document, container: Path, word: str) -> tuple[Path, Place] | None:
    """The entry that is the argument; else the entry or variable whose text has it, and where in it."""
    texts = list(_texts(made, container))
    for path, text in texts:
        if text == word:
            return path, made.positions.value(path)
    whole = re.compile(rf"(?<![\w.-]){re.escape(word)}(?![\w.-])")
    for path, text in texts:
        if whole.search(text) is None:
            continue
        place = made.positions.value(path)
        found = whole.search(made.text, place.start, place.end) if made.text else None
        if found is None:
            return path, place
        line = made.text.count("\n", 0, found.start()) + 1
        column = found.start() - made.text.rfind("\n", 0, found.start())
        return path, replace(place, line=line, column=column, start=found.start(), end=found.end())
    return None


def _texts(made: Document, container: Path) -> Iterator[tuple[Path, str]]:
    """Every text of a container that may hold arguments."""
    own = made.positions.mapping(container)
    for name in LISTS:
        entries = own.get(name)
        for number, text in enumerate(entries if isinstance(entries, list) else ()):
            if isinstance(text, str):
                yield (*container, name, number), text
    variables = own.get("env")
    for number, variable in enumerate(variables if isinstance(variables, list) else ()):
        if isinstance(variable, dict) and isinstance(variable.get("value"), str):
            yield (*container, "env", number, "value"), variable["value"]
