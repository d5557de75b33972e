"""The check: rules over documents, workloads and scripts, and what comes out of it.

`run` reads and checks; `check` is its pure half. A rule that raises is a fault of ours: it is told in one line with the
rule's id, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from ironloom.check import ignores, registry
from ironloom.check.finding import Confidence, Finding, Severity
from ironloom.check.inputs import NOT_CHECKED, UNREADABLE, Inputs, read_paths
from ironloom.check.rule import Context, Problem, Rule
from ironloom.check.setting import minor_version
from ironloom.fleet.collection import no_collection
from ironloom.fleet.model import Fleet
from ironloom.workload.kinds import workloads_of
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Schema
from ironloom.workload.workload import Workload

if TYPE_CHECKING:
    from ironloom.catalog.accelerators import Accelerator
    from ironloom.workload.shapes.model import ModelShape

RANK = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.NOTE: 2}


def known_shape(model: str) -> ModelShape | None:
    """The shape of a model by hub name, URI or folder, as far as it is known without a network."""
    from ironloom.workload.shapes.find import find

    return find(model)


def known_refusal(model: str) -> str:
    """Why a model has no shape, as far as something says; empty where nothing does."""
    from ironloom.workload.shapes.find import refusal

    return refusal(model)


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What a check knows beside the files."""

    fleet: Fleet | None = None
    accelerator: Accelerator | None = None
    kubernetes_version: tuple[int, int] | None = None
    """None takes the fleet's, where it says one."""
    schema: Schema | None = None
    """The kinds and fields of the cluster that is checked against, by `openapi.from_openapi`; None takes the tables
    that come with the package."""
    shapes: Callable[[str], ModelShape | None] = known_shape
    refusals: Callable[[str], str] = known_refusal


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """A rule raised: a bug of ours."""

    rule: str
    subject: str
    error: Exception

    def __str__(self) -> str:
        kind = type(self.error).__name__
        return f"rule {self.rule} failed on {self.subject} ({kind}: {self.error}); this is a bug of ironloom"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a check says."""

    findings: tuple[Finding, ...]
    """In the order of files and lines, ignored ones left out."""
    ignored: tuple[Finding, ...] = ()
    """What an annotation or a comment took out."""
    known: tuple[Finding, ...] = ()
    """What the baseline took out."""
    faults: tuple[Fault, ...] = ()
    texts: Mapping[str, str]
    """By file."""
    num_documents: int = 0
    num_scripts: int = 0

    @property
    def is_unreadable(self) -> bool:
        """Whether something could not be read."""
        return any(finding.rule == UNREADABLE for finding in self.findings)

    def exit_status(self, fail_on: Severity = Severity.WARNING) -> int:
        """0: nothing at that level; 1: something at or above it; 2: something could not be read, whatever else."""
        if self.is_unreadable:
            return 2
        return int(any(RANK[finding.severity] <= RANK[fail_on] for finding in self.findings))


def run(
    paths: Sequence[str | Path],
    *,
    setting: Setting | None = None,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    exclude: Sequence[str] = (),
    stdin: TextIO | None = None,
) -> Result:
    """Check the manifests and Python files of files, folders and `-`, standard input.

    `select` and `ignore` name rules, as `registry.select` reads them. Raises UsageError for a name that is none.
    """
    rules = registry.select(select, ignore) if select or ignore else None
    return check(read_paths(paths, stdin=stdin, exclude=exclude), rules, setting or Setting())


def check(inputs: Inputs, rules: Sequence[Rule] | None, setting: Setting) -> Result:
    """Check what was read by these rules; None is every rule, of which those alone are imported that may find
    something. Raises nothing that a file could be the cause of."""
    with no_collection():
        return _check(inputs, rules, setting)


def _check(inputs: Inputs, rules: Sequence[Rule] | None, setting: Setting) -> Result:
    context, notes = _context(inputs, setting)
    every, rules = rules is None, _needed(context) if rules is None else rules
    faults: list[Fault] = []
    problems = list(_problems(rules, context, faults))
    found = [_finding(rule, problem, inputs.texts.get(problem.file, "")) for rule, problem in problems]
    chosen = frozenset(rule.id for rule in rules)
    said = (*inputs.findings, *notes)
    found += [finding for finding in said if finding.rule in chosen and finding.rule != UNREADABLE]
    own = [finding for finding in said if finding.rule == UNREADABLE]
    kept, ignored, unused = ignores.apply(_once(found), inputs, lambda: _ran(_all() if every else rules, context))
    if ignores.UNUSED in chosen:
        own += unused
    return Result(
        findings=tuple(sorted((*own, *kept), key=_order)),
        ignored=tuple(sorted(ignored, key=_order)),
        faults=tuple(faults),
        texts=inputs.texts,
        num_documents=len(inputs.documents),
        num_scripts=len(inputs.scripts),
    )


def _needed(context: Context) -> tuple[Rule, ...]:
    return registry.needed(
        kinds=frozenset([one.kind for one in context.documents]),
        has_scripts=bool(context.scripts),
        has_fleet=context.fleet is not None,
    )


def _all() -> tuple[Rule, ...]:
    return tuple(registry.load().values())


def _context(inputs: Inputs, setting: Setting) -> tuple[Context, list[Finding]]:
    read = workloads_of(inputs.documents)
    version = setting.kubernetes_version
    if version is None and setting.fleet is not None:
        version = minor_version(setting.fleet.version)
    context = Context(
        documents=tuple(inputs.documents),
        workloads=read.workloads,
        scripts=tuple(inputs.scripts),
        fleet=setting.fleet,
        accelerator=setting.accelerator,
        kubernetes_version=version,
        schema=setting.schema,
        shapes=setting.shapes,
        refusals=setting.refusals,
    )
    notes = {
        note.message: Finding(
            rule=NOT_CHECKED,
            severity=Severity.NOTE,
            confidence=Confidence.CERTAIN,
            file=note.file,
            line=note.line,
            column=note.column,
            path=note.path,
            subject=note.file,
            message=note.message,
        )
        for note in reversed(read.unread)
    }
    return context, list(notes.values())


def _ran(rules: Sequence[Rule], context: Context) -> frozenset[str]:
    """Ids of the rules that had what they need to say anything."""
    return frozenset(rule.id for rule in rules if context.fleet is not None or not rule.needs_fleet)


def _problems(rules: Sequence[Rule], context: Context, faults: list[Fault]) -> Iterator[tuple[Rule, Problem]]:
    ran = _ran(rules, context)
    for rule in rules:
        if rule.id not in ran:
            continue
        for subject in _subjects(rule, context):
            try:
                for problem in rule.check(subject, context):
                    yield rule, problem
            except Exception as error:
                faults.append(Fault(rule=rule.id, subject=_said(subject), error=error))


def _subjects(rule: Rule, context: Context) -> Sequence[Any]:
    if rule.subject is Workload:
        return context.workloads
    if rule.subject is Document:
        return context.documents
    return (context,) if rule.subject is Context else context.scripts


def _said(subject: object) -> str:
    if isinstance(subject, Document):
        return f"{subject.kind} {subject.name}"
    if isinstance(subject, Workload):
        return f"{subject.kind} {subject.name}"
    return str(getattr(subject, "file", "the files"))


def _finding(rule: Rule, problem: Problem, text: str) -> Finding:
    place = problem.place
    end_line = end_column = 0
    if place.line and place.end > place.start:
        marked = text[place.start : place.end].rstrip()
        end_line = place.line + marked.count("\n")
        end_column = len(marked) - marked.rfind("\n") if "\n" in marked else place.column + len(marked)
    return Finding(
        rule=rule.id,
        severity=problem.severity or rule.severity,
        confidence=problem.confidence,
        file=problem.file,
        line=place.line,
        column=place.column,
        path=problem.path,
        subject=problem.subject,
        message=problem.message,
        evidence=problem.evidence,
        help=problem.help,
        patch=problem.patch,
        end_line=end_line,
        end_column=end_column,
    )


def _once(findings: Iterable[Finding]) -> list[Finding]:
    """The findings without those that say the same of the same place again."""
    return list({(*_order(finding), finding.path): finding for finding in findings}.values())


def _order(finding: Finding) -> tuple[str, int, int, str, str]:
    return (finding.file, finding.line, finding.column, finding.rule, finding.message)
