"""What is to be checked: files, folders and standard input, read into documents and scripts, fault by fault."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import msgspec

from ironloom.check.finding import Confidence, Finding, Severity
from ironloom.errors import ManifestError
from ironloom.fleet.collection import no_collection
from ironloom.units import format_bytes
from ironloom.workload.manifests import files, nodes
from ironloom.workload.manifests.bounds import MAX_BYTES, bounded
from ironloom.workload.manifests.document import Document, document
from ironloom.workload.manifests.problems import each

if TYPE_CHECKING:
    from ironloom.workload.scripts.model import Script

UNREADABLE = "IL000"
NOT_CHECKED = "IL098"
DOUBLE = "IL097"
SCRIPT_SUFFIX = ".py"
SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__", "site-packages"})
"""Not entered below a folder; nor are folders whose name begins with a dot."""
MAX_RECOVERIES = 20
"""Faults of syntax in one file after which the rest of it is left."""
_NEXT_DOCUMENT = re.compile(r"^---(?=\s|$)", re.M)
_SKIPPED = ": skipped"
_API_VERSION = re.compile(r"^[ -]*[\"']?apiVersion[\"']?[ ]*:", re.M)


class Inputs(msgspec.Struct, kw_only=True):
    """What was read, and what could not be."""

    documents: list[Document] = msgspec.field(default_factory=list)
    scripts: list[Script] = msgspec.field(default_factory=list)
    texts: dict[str, str] = msgspec.field(default_factory=dict)
    """The whole text of each file that could be read, by the name it has in findings."""
    findings: list[Finding] = msgspec.field(default_factory=list)
    """Faults of syntax, and what was left alone."""
    found: set[str] = msgspec.field(default_factory=set)
    """The files that nobody named: they were found in a folder."""

    def add(self, file: str, text: str, *, is_named: bool = True) -> None:
        """Read one text. `is_named` is False for a file that was only found in a folder: one of those may be
        something else than a manifest."""
        try:
            self.texts[file] = bounded(text, file)
        except ManifestError as error:
            self.fail(error) if is_named else self._fail_found(error, text)
            return
        if not is_named:
            self.found.add(file)
        if file.lower().endswith(SCRIPT_SUFFIX):
            self._add_script(file, text)
        elif not is_named and _is_template(file, text):
            self._skip(file, 1, "a Helm template is no manifest before it is rendered")
        else:
            self._add_documents(file, text, is_named=is_named)

    def with_texts(self, texts: Mapping[str, str]) -> Inputs:
        """The same files, read anew, with these texts in place of theirs."""
        made = Inputs(findings=[finding for finding in self.findings if finding.file not in self.texts])
        for file, text in self.texts.items():
            made.add(file, texts.get(file, text), is_named=file not in self.found)
        return made

    def fail(self, error: ManifestError) -> None:
        """Keep an error of reading as a finding."""
        self.findings += [
            _finding(UNREADABLE, Severity.ERROR, one.file, one.line, one.column, one.path, one.message, one.hint or "")
            for one in each(error)
        ]

    def leave(self, file: str, why: str) -> None:
        """Leave a file alone, and say so."""
        self._skip(file, 0, why)

    def _add_script(self, file: str, text: str) -> None:
        from ironloom.workload.scripts.read import read_script

        try:
            self.scripts.append(read_script(text, file))
        except ManifestError as error:
            self.fail(error)

    def _add_documents(self, file: str, text: str, *, is_named: bool) -> None:
        doubles: list[ManifestError] = []

        def fail(error: ManifestError) -> None:
            self._fail_found(error, text) if not is_named else self.fail(error)

        for node in _nodes(text, file, fail, doubles):
            try:
                objects = files.items(node, file, text)
            except ManifestError as error:
                fail(error)
                continue
            for item in objects:
                if not is_named and not _is_object(item):
                    self._skip(file, item.place.line, "it is no Kubernetes object (apiVersion and kind)")
                    continue
                try:
                    self.documents.append(document(item, file, text))
                except ManifestError as error:
                    fail(error)
        self.findings += [
            _finding(
                DOUBLE, Severity.WARNING, file, one.line, one.column, one.path, one.message,
                "keep one: kustomize, Flux and whatever else reads YAML strictly refuse the document",
            )
            for one in doubles
        ]  # fmt: skip

    def _fail_found(self, error: ManifestError, text: str) -> None:
        """The same of a file that was only found: a template, or YAML for something else than Kubernetes, is no error.
        Of a template's documents those that can be read without being filled in are checked all the same."""
        start = _line_start(text, max(1, error.line - 1))
        if "{{" in text[start : _line_start(text, error.line + 1)]:
            self._skip(error.file, error.line, "its {{ … }} must be filled in before it is YAML")
        elif not _API_VERSION.search(text):
            self._skip(error.file, error.line, "it is no Kubernetes object (apiVersion and kind)")
        else:
            self.fail(error)

    def _skip(self, file: str, line: int, why: str) -> None:
        message = why + _SKIPPED
        self.findings.append(_finding(NOT_CHECKED, Severity.NOTE, file, line, 1 if line else 0, "", message))


def why_skipped(finding: Finding) -> str:
    """Why a file that was found in a folder was left alone; empty for a finding that says something else."""
    is_skip = finding.rule == NOT_CHECKED and finding.message.endswith(_SKIPPED)
    return finding.message.removesuffix(_SKIPPED) if is_skip else ""


def read_paths(
    paths: Sequence[str | Path],
    *,
    stdin: TextIO | None = None,
    exclude: Sequence[str] = (),
    skip_others: bool = False,
) -> Inputs:
    """The manifests and Python files of files, folders and `-`, standard input.

    Of a folder: every .yaml, .yml, .json and .py below it, hidden folders left out, and whatever matches a glob of
    `exclude`. With `skip_others` a file that is named may hold something else, as one of a folder may. Raises
    nothing: what cannot be read is a finding.
    """
    with no_collection():
        return _read(paths, stdin if stdin is not None else sys.stdin, exclude, skip_others=skip_others)


def _read(paths: Sequence[str | Path], stdin: TextIO, exclude: Sequence[str], *, skip_others: bool) -> Inputs:
    inputs = Inputs()
    for path in paths:
        is_folder = str(path) != files.STDIN and Path(path).is_dir()
        found = list(_files(Path(path), exclude)) if is_folder else [path]
        if not found:
            inputs.fail(ManifestError("there is no .yaml, .yml, .json or .py file in the folder", file=str(path)))
        is_named = not is_folder and not skip_others
        for file, text in files.texts(found, stdin):
            if file in inputs.texts:
                continue  # named twice
            if not is_named and _size_bytes(file) > MAX_BYTES:
                inputs.leave(file, f"it is larger than {format_bytes(MAX_BYTES)}")
                continue
            try:
                whole = text()
            except ManifestError as error:
                inputs.fail(error)
                continue
            inputs.add(file, whole, is_named=is_named)
    if paths and not inputs.documents and not inputs.scripts and not inputs.findings:
        named = ", ".join(inputs.texts) or ", ".join(str(path) for path in paths)
        inputs.fail(ManifestError("there is no Kubernetes object in it", file=named))
    else:
        _leave_empty(inputs)
    return inputs


def _leave_empty(inputs: Inputs) -> None:
    """Say of each file that was named, and of which nothing came, that nothing was in it to check."""
    told = {one.file for one in inputs.documents} | {one.file for one in inputs.scripts} | inputs.found
    told |= {one.file for one in inputs.findings}
    for file in inputs.texts:
        if file not in told:
            inputs.leave(file, "there is no Kubernetes object in it")


def read_texts(texts: Mapping[str, str]) -> Inputs:
    """As `read_paths`, of texts that are in hand."""
    inputs = Inputs()
    for file, text in texts.items():
        inputs.add(file, text)
    return inputs


def _files(folder: Path, exclude: Sequence[str]) -> Iterator[Path]:
    suffixes = {*files.SUFFIXES, SCRIPT_SUFFIX}
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in SKIPPED_FOLDERS)
        for name in sorted(names):
            path = Path(root, name)
            inside = path.relative_to(folder).as_posix()
            if path.suffix.lower() not in suffixes or not path.is_file():
                continue
            if not any(fnmatch(inside, glob) or fnmatch(path.as_posix(), glob) for glob in exclude):
                yield path


def _size_bytes(file: str) -> int:
    try:
        return Path(file).stat().st_size
    except OSError:
        return 0  # reading it says what is wrong


def _nodes(
    text: str, file: str, fail: Callable[[ManifestError], None], doubles: list[ManifestError]
) -> Iterator[nodes.Node]:
    """The documents of a text. After a fault of syntax it goes on at the next `---`, with every place as it was."""
    begin = 0
    for _ in range(MAX_RECOVERIES):
        try:
            yield from nodes.parse(text, file, doubles=doubles, begin=begin)
            return
        except ManifestError as error:
            fail(error)
            after = _NEXT_DOCUMENT.search(text, max(begin + 1, _line_start(text, error.line)))
            if after is None or not error.line:
                return
            begin = after.start()


def _line_start(text: str, line: int) -> int:
    """The offset at which a line (from 1) begins."""
    start = 0
    for _ in range(line - 1):
        found = text.find("\n", start)
        if found < 0:
            return len(text)
        start = found + 1
    return start


def _is_object(node: nodes.Node) -> bool:
    return node.mapping is not None and "apiVersion" in node.mapping and "kind" in node.mapping


def _is_template(file: str, text: str) -> bool:
    """Whether a file is one of a Helm chart's templates."""
    parts = Path(file).parts
    if "{{" not in text or "templates" not in parts:
        return False
    above = len(parts) - 1 - parts[::-1].index("templates")
    return Path(*parts[:above], "Chart.yaml").exists()


def _finding(
    rule: str, severity: Severity, file: str, line: int, column: int, path: str, message: str, hint: str = ""
) -> Finding:
    return Finding(
        rule=rule,
        severity=severity,
        confidence=Confidence.CERTAIN,
        file=file,
        line=line,
        column=column,
        path=path,
        subject=file,
        message=message,
        help=hint,
    )
