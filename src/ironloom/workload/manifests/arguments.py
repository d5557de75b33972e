"""One argument of a server's command line: which option it is, its values, and whether the server would take it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

import msgspec

from ironloom.workload.manifests.engine_options import OPTIMISATION, Match, Options, is_true

UNCHECKED = "ironloom.dev/unchecked-args"
"""The annotation that names arguments to be taken as they stand."""
Waiver = Callable[[str], bool]
"""Whether an argument of this name is taken as it stands, whatever the server has."""


def waive_nothing(name: str) -> bool:  # noqa: ARG001
    """The Waiver of a manifest that says nothing of it."""
    return False


class BadArgument(msgspec.Struct, frozen=True):
    """What is wrong with one argument."""

    message: str
    """Names option and value, and what is allowed."""
    word: str = ""
    """The argument as it was written; empty where it is none of the command line's."""
    hint: str | None = None


class BadArguments(ValueError):
    """Arguments that the server would not take."""

    def __init__(self, problems: Sequence[BadArgument]) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = tuple(problems)


class Argument(msgspec.Struct, frozen=True, kw_only=True):
    """An option of a command line, with its values."""

    word: str
    """Its name as it was written, dashes for underscores."""
    name: str
    """Its full name, with what follows a dot; empty for one that says what is so anyway."""
    values: tuple[str, ...] = ()
    fault: str | None = None
    hint: str | None = None

    def written(self) -> list[str]:
        """As words for an engine."""
        if not self.name or self.name.startswith(OPTIMISATION):
            return [self.name + "".join(self.values)] if self.name else []
        if len(self.values) == 1 and not _is_value(self.values[0]):
            return [f"{self.name}={self.values[0]}"]
        return [self.name, *self.values]


def read_argument(
    words: Sequence[str], position: int, options: Options, *, also: Collection[str] = ()
) -> tuple[Argument, int]:
    """The argument at `position`, and where the next one begins. `also` are names that need not be options.

    What a server does not have takes all that follows without a dash.
    """
    name, equals, value = words[position].partition("=")
    position += 1
    if name.startswith(OPTIMISATION):
        level = [text for text in (name.removeprefix(OPTIMISATION), value) if text]
        level, position = (level, position) if level else _following(words, position, 1)
        fault = None if level else f"{OPTIMISATION} has no value"
        return Argument(word=OPTIMISATION, name=OPTIMISATION, values=tuple(level), fault=fault), position
    head, dot, tail = name.partition(".") if name.startswith("-") else (name, "", "")
    if head.startswith("--"):
        head = head.replace("_", "-")
    word = head + dot + tail
    found = options.match(head)
    if not isinstance(found, Match):
        given, position = ([value], position) if equals else _following(words, position, "*")
        if head in also:
            return Argument(word=word, name=head, values=tuple(given)), position
        return _unknown(word, head, found, given, options), position
    option = found.option
    if option.values == 0 and not dot:
        said, position = ([value], position) if equals else _yes_or_no(words, position)
        return _switch(word, found, said), position
    given, position = ([value], position) if equals else _following(words, position, 1 if dot else option.values)
    if dot:
        fault = None if given else f"{word} has no value"
        if not option.is_structured and not option.until:
            fault = f"there is no argument {word}: the value of {option.name} has no parts"
    else:
        fault = option.fault(given)
        given = given if fault else [option.plain(text) for text in given]
    return Argument(word=word, name=option.name + dot + tail, values=tuple(given), fault=fault), position


def _following(words: Sequence[str], position: int, wanted: int | str) -> tuple[list[str], int]:
    """The values at `position` of an option that wants so many, and what comes after them."""
    most = {"+": len(words), "*": len(words), "?": 1}.get(wanted, wanted) if isinstance(wanted, str) else wanted
    end = position
    while end < len(words) and end - position < int(most) and _is_value(words[end]):
        end += 1
    return list(words[position:end]), end


def _yes_or_no(words: Sequence[str], position: int) -> tuple[list[str], int]:
    """`true` or `false` after a switch, which older servers took."""
    if position < len(words) and is_true(words[position]) is not None:
        return [words[position]], position + 1
    return [], position


def _switch(word: str, found: Match, said: Sequence[str]) -> Argument:
    option = found.option
    wanted = is_true(said[0]) if said else True
    if wanted is None:
        return Argument(word=word, name=option.name, values=tuple(said), fault=option.fault(said))
    if wanted is not found.negated:
        return Argument(word=word, name=option.name)
    return Argument(word=word, name=f"--no-{option.name[2:]}" if option.negation else "")


def _unknown(word: str, head: str, begun: tuple[str, ...], given: Sequence[str], options: Options) -> Argument:
    """An argument that the server does not have. `begun` are the names that it may be the beginning of."""
    hint = None
    if begun:
        fault = f"the argument {word} may be {', '.join(begun[:-1])} or {begun[-1]}"
    else:
        near = options.nearest(head)
        fault = f"there is no argument {word}" + (f"; did you mean {near}?" if near else "")
        hint = (
            f"the names are those of {options.title}; the annotation {UNCHECKED}: {word} takes one of a newer version"
        )
    return Argument(word=word, name=word, values=tuple(given), fault=fault, hint=hint)


def _is_value(word: str) -> bool:
    return not word.startswith("-") or word == "-" or re.fullmatch(r"-\d+(\.\d+)?", word) is not None
