"""What a check is told beside its files: options of the command line over a config file, found upward.

# ironloom.toml; or [tool.ironloom.check] in pyproject.toml
[check]
ignore = ["IL851"]
fail-on = "error"
fleet = ["fleet.json.gz"]
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ironloom.check.finding import Severity
from ironloom.errors import UsageError
from ironloom.workload.manifests.suggest import nearest

NAMES = ("ironloom.toml", "pyproject.toml")
_MINOR = re.compile(r"v?(\d{1,4})\.(\d{1,4})(?:$|[.+-])", re.ASCII)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A config file's table. Files in it are relative to the folder that it stands in."""

    file: str = ""
    """Empty where there is none."""
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    """Globs of files below a folder that are left out."""
    fail_on: Severity = Severity.WARNING
    baseline: str = ""
    fleet: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    accelerator: str = ""
    kubernetes_version: tuple[int, int] | None = None


def find_config(folder: Path) -> Config:
    """The config of the nearest folder, from this one upward, that has one. Raises UsageError for a wrong one."""
    for above in (folder, *folder.parents):
        for name in NAMES:
            path = above / name
            if not path.is_file():
                continue
            table = _table(path)
            if table is not None:
                return _config(path, table)
    return Config()


def read_config(path: Path) -> Config:
    """The config of one file. Raises UsageError where it cannot be read or is wrong."""
    table = _table(path)
    if table is None:
        name = "tool.ironloom.check" if path.name == "pyproject.toml" else "check"
        raise UsageError(f"{path}: it has no table [{name}]")
    return _config(path, table)


def _table(path: Path) -> Mapping[str, Any] | None:
    """The check's table of a file; None where it has none."""
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
        if path.name == "pyproject.toml" and "ironloom" not in text:
            return None
        whole: Any = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"{path}: it cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: it is no TOML: {error}") from None
    for key in ("tool", "ironloom", "check") if path.name == "pyproject.toml" else ("check",):
        if not isinstance(whole, dict) or key not in whole:
            return None
        whole = whole[key]
    if not isinstance(whole, dict):
        raise UsageError(f"{path}: check = {whole!r}, must be a table")
    return whole


def _config(path: Path, table: Mapping[str, Any]) -> Config:
    known = [name.replace("_", "-") for name in Config.__struct_fields__ if name != "file"]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            near = nearest(key, known)
            did = f"; did you mean {near!r}?" if near else ""
            raise UsageError(f"{path}: [check] has no key {key!r}{did}", hint=f"it has {', '.join(known)}")
        name = key.replace("-", "_")
        values[name] = _value(path, key, value, is_list=isinstance(getattr(Config(), name), tuple))
    if "fail_on" in values:
        try:
            values["fail_on"] = Severity(values["fail_on"])
        except ValueError:
            said = values["fail_on"]
            raise UsageError(f"{path}: fail-on = {said!r}, must be error, warning or note") from None
    if "kubernetes_version" in values:
        said = values["kubernetes_version"]
        values["kubernetes_version"] = minor_version(said)
        if values["kubernetes_version"] is None or values["kubernetes_version"][0] != 1:
            raise UsageError(f"{path}: kubernetes-version = {said!r}, must be such as 1.36")
    folder = path.parent
    if "baseline" in values:
        values["baseline"] = str(folder / values["baseline"])
    if "fleet" in values:
        values["fleet"] = tuple(str(folder / file) for file in values["fleet"])
    return Config(file=str(path), **values)


def _value(path: Path, key: str, value: Any, *, is_list: bool) -> Any:
    if not is_list:
        if not isinstance(value, str):
            raise UsageError(f"{path}: {key} = {value!r}, must be a string")
        return value
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UsageError(f"{path}: {key} = {value!r}, must be a list of strings")
    return tuple(value)


def minor_version(text: str) -> tuple[int, int] | None:
    """`1.36` and `v1.36.2-gke.100` → (1, 36); None for anything else."""
    found = _MINOR.match(text)
    return (int(found[1]), int(found[2])) if found is not None else None
