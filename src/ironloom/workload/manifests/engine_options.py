"""The options that the servers of manifests have, and whether an argument keeps to them.

The table is data (engine_options.json), made by scripts/make_engine_options from the servers' own parsers; what its
entries look like stands there. The checks know no option by name, except `-O`, which vLLM reads before its parser does.
"""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cache, lru_cache
from typing import Any

import msgspec

from ironloom.workload.manifests.suggest import nearest

OWN = "ironloom"
"""The options of Ironloom's own engines, which any manifest may give."""
OPTIMISATION = "-O"
_SIZE_FACTORS = {letter: 1000**power for power, letter in enumerate("kmgt", start=1)}
_SIZE_FACTORS |= {letter.upper(): 1024**power for power, letter in enumerate("kmgt", start=1)}
_TRUE = frozenset({"y", "yes", "t", "true", "on", "1"})
_FALSE = frozenset({"n", "no", "f", "false", "off", "0"})
"""Words of a boolean as KServe reads it (kserve.utils.utils.strtobool)."""
_STRUCTURED = frozenset({"json", "config", "json-or-text"})
_MAX_SHOWN = 60
_MAX_CHOICES = 12


Release = tuple[int, int, int, int]
"""Major, minor, patch, and what came of it: 0 itself, 5 its .post5, -997 its rc3."""
_RELEASE = re.compile(r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(?:[.-]?(rc|post)(\d{1,3}))?", re.ASCII)


class Presence(StrEnum):
    """Whether a release has an option."""

    HAS = "has"
    NOT_YET = "not yet"
    GONE = "gone"
    UNKNOWN = "unknown"
    """It lies between a release that has it and one that has it not."""


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One option of a server. The table's script says what each field means."""

    name: str
    values: int | str = 1
    type: str = "text"
    choices: tuple[str, ...] = ()
    loose: bool = False
    aliases: tuple[str, ...] = ()
    negation: bool = False
    inverses: tuple[str, ...] = ()
    """Names that say the opposite: `--disable-x` beside `--enable-x`."""
    optional: bool = False
    until: str = ""
    """The last version that had it; empty while the table's own version has it."""

    @property
    def is_structured(self) -> bool:
        """Whether `--name.key value` says a part of its value."""
        return self.type in _STRUCTURED

    def fault(self, values: Sequence[str]) -> str | None:
        """What is wrong with the values that an argument gave it; None when nothing is."""
        if not values and self.values in (1, "+"):
            return f"{self.name} has no value"
        if values and self.values == 0:
            return f"{self.name} takes no value, and has {_shown(values[0])}"
        for value in values:
            if (allowed := self._not_allowed(value)) is not None:
                return f"{self.name} = {_shown(value)}, must be {allowed}"
        return None

    def plain(self, value: str) -> str:
        """The value as every engine reads it: a size such as 8k written out."""
        if self.type in ("size", "size-or-auto") and value[-1:] in _SIZE_FACTORS:
            return str(_size(value))
        return value

    def _not_allowed(self, value: str) -> str | None:
        """What it must be, in words; None for a value that it may be."""
        if self.optional and value in ("", "None"):
            return None
        if self.choices:
            return self._not_among_choices(value)
        read = _READERS.get(self.type)
        if read is None:
            return None
        reader, words = read
        try:
            reader(value)
        except (ValueError, RecursionError):
            return words
        return None

    def _not_among_choices(self, value: str) -> str | None:
        if value in self.choices or (self.loose and value.lower().replace("-", "_") in self.choices):
            return None
        if len(self.choices) <= _MAX_CHOICES:
            return f"one of {', '.join(self.choices)}"
        near = nearest(value, self.choices)
        first = near or ", ".join(self.choices[:_MAX_CHOICES])
        return f"one of {len(self.choices)} words, such as {first}"


class Match(msgspec.Struct, frozen=True):
    """An option that an argument names."""

    option: Option
    negated: bool = False
    """It was named as --no-…."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What one server takes."""

    title: str
    """Whose options they are, with the version: vLLM 0.32.0."""
    abbreviations: bool
    by_name: Mapping[str, Match]
    """Every spelling."""
    versions: tuple[str, ...] = ()
    """The releases that were read, ascending."""
    ranges: Mapping[str, tuple[str, str]] = msgspec.field(default_factory=dict)
    """Of spellings that some of them lack: the first and the last that has it, empty for an end that is open."""

    gaps: Mapping[str, tuple[str, str]] = msgspec.field(default_factory=dict)
    """Of spellings that went and came again: the last release that had it, and the first that has it again."""

    def presence(self, name: str, release: Release) -> Presence:
        """Whether a release has this spelling, which is one of the table.

        A release that was not read is held to lack an option only where the next one that was read, on the way to
        those that have it, lacks it too.
        """
        since, until = self.ranges.get(name, ("", ""))
        read = [found for version in self.versions if (found := release_of(version)) is not None]
        first, last = release_of(since), release_of(until)
        if first is not None and release < first:
            return Presence.NOT_YET if any(release <= one < first for one in read) else Presence.UNKNOWN
        if last is not None and release > last:
            return Presence.GONE if any(last < one <= release for one in read) else Presence.UNKNOWN
        gone, again = (release_of(end) for end in self.gaps.get(name, ("", "")))
        if gone is not None and again is not None and gone < release < again:
            lacks = any(gone < one <= release for one in read) and any(release <= one < again for one in read)
            return Presence.GONE if lacks else Presence.UNKNOWN
        return Presence.HAS

    def around(self, name: str) -> tuple[str, str]:
        """The last release that was read before the first with this spelling, and the first after the last, or after
        the one before its gap; empty for an end that is open."""
        since, until = self.ranges.get(name, ("", ""))
        until = until or self.gaps.get(name, ("", ""))[0]
        before = self.versions[self.versions.index(since) - 1] if since else ""
        after = self.versions[self.versions.index(until) + 1] if until else ""
        return before, after

    def stands_for(self, name: str, release: Release) -> bool:
        """Whether a release takes this name as the beginning of a single option that it has."""
        if not self.abbreviations or not name.startswith("--"):
            return False
        begun = {
            id(match.option)
            for full, match in self.by_name.items()
            if full != name and full.startswith(name) and self.presence(full, release) is Presence.HAS
        }
        return len(begun) == 1

    def match(self, name: str) -> Match | tuple[str, ...]:
        """The option of this name, or that it alone begins so; else the names that begin so, which may be none.

        `name` has dashes for underscores, and no value.
        """
        found = self.by_name.get(name)
        if found is not None:
            return found
        if not self.abbreviations or not name.startswith("--") or len(name) < 3:
            return ()
        # A name of an earlier version stands for nothing but itself: the server would not take its beginning.
        begun = [full for full, match in self.by_name.items() if full.startswith(name) and not match.option.until]
        return self.by_name[begun[0]] if len(begun) == 1 else tuple(sorted(begun))

    def nearest(self, name: str) -> str | None:
        """The option that a wrong name was meant to be."""
        is_long = name.startswith("--")
        return nearest(name, [known for known in self.by_name if known.startswith("--") == is_long])


@cache
def options_of(program: str) -> Options:
    """The options of a program of the table, with those of Ironloom's own engines."""
    raw: Mapping[str, Any] = _load()
    by_name: dict[str, Match] = {}
    # Where two have a name, the server that the first one starts is the one that reads it.
    for source in (OWN, program, *raw[program]["also"]):
        for name, fields in raw[source]["earlier"].items():
            by_name.setdefault(name, Match(msgspec.convert({"name": name, **fields}, Option)))
        for name, fields in raw[source]["options"].items():
            option = msgspec.convert({"name": name, **fields}, Option)
            by_name |= dict.fromkeys((name, *option.aliases), Match(option))
            by_name |= dict.fromkeys(option.inverses, Match(option, negated=True))
            if option.negation:
                by_name |= dict.fromkeys(
                    (f"--no-{spelling[2:]}" for spelling in (name, *option.aliases) if spelling.startswith("--")),
                    Match(option, negated=True),
                )
    last = raw[(program, *raw[program]["also"])[-1]]
    return Options(
        title=_title(last),
        abbreviations=raw[program]["abbreviations"],
        by_name=by_name,
        versions=tuple(last.get("versions", ())),
        ranges={name: (since, until) for name, (since, until) in last.get("ranges", {}).items()},
        gaps={name: (gone, again) for name, (gone, again) in last.get("gaps", {}).items()},
    )


@lru_cache(maxsize=1024)
def release_of(version: str) -> Release | None:
    """`0.4.6.post5`, `v0.11.2` and `1.2.0rc3-arm64` as numbers that compare as the releases follow; None for others."""
    found = _RELEASE.match(version)
    if found is None:
        return None
    number = int(found[5] or 0)
    stage = number - 1000 if found[4] == "rc" else number
    return int(found[1]), int(found[2]), int(found[3] or 0), stage


def sources(*programs: str) -> list[tuple[str, str, str]]:
    """For the reference: each program's command, its version and where its options were read; all without a name."""
    table = _load()
    return [
        (raw["command"], raw["version"], raw["source"])
        for name, raw in table.items()
        if name != OWN and (not programs or name in programs)
    ]


def earlier_names(program: str) -> dict[str, str]:
    """For the reference: options that only earlier versions have, each with the last one that had it."""
    return {name: fields["until"] for name, fields in _load()[program]["earlier"].items()}


@cache
def _load() -> dict[str, Any]:
    # Not importlib.resources, which brings zip and temporary files.
    data = pkgutil.get_data(__package__, "engine_options.json")
    assert data is not None
    programs: dict[str, Any] = msgspec.json.decode(data)["programs"]
    return programs


def _title(program: Mapping[str, Any]) -> str:
    return f"`{program['command']}` {program['version']}"


def _shown(value: str) -> str:
    return repr(value if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]}…")


def _size(value: str) -> int:
    """As vLLM's human_readable_int: 25.6k is 25,600, 1K is 1,024, and only powers of ten take decimals."""
    text = value.strip()
    factor = _SIZE_FACTORS.get(text[-1:])
    if factor is None:
        return int(text)
    number = text[:-1]
    if not number.replace(".", "", 1).isdecimal() or not number.isascii() or (factor % 1000 and "." in number):
        raise ValueError
    return int(float(number) * factor)


def _size_or_auto(value: str) -> int:
    return -1 if value.strip().lower() in ("auto", "-1") else _size(value)


def _boolean(value: str) -> None:
    if value.lower() not in _TRUE | _FALSE:
        raise ValueError


def _json(value: str) -> None:
    # What begins in another way may be an older version's own notation: `image=2`.
    if value.lstrip()[:1] in ("{", "["):
        json.loads(value)


_SIZE_WORDS = "a whole number such as 8192, 8k (8,000) or 8K (8,192)"
_READERS: dict[str, tuple[Any, str]] = {
    "integer": (int, "a whole number"),
    "number": (float, "a number"),
    "size": (_size, _SIZE_WORDS),
    "size-or-auto": (_size_or_auto, f"{_SIZE_WORDS}, or auto"),
    "boolean": (_boolean, "true or false"),
    "json": (_json, "JSON"),
}
"""What reads a type, and what a value must be. Types that are not here take any text."""


def is_true(value: str) -> bool | None:
    """Whether a word after a switch says yes or no; None when it says neither."""
    return True if value.lower() == "true" else False if value.lower() == "false" else None
