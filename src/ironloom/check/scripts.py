"""What rules about Python files share: a problem at a node, and the words for it."""

from __future__ import annotations

import ast

from ironloom.check.finding import Confidence, Edit, Patch, Severity
from ironloom.check.rule import Problem
from ironloom.workload.manifests.nodes import Place
from ironloom.workload.scripts.model import Script

_MAX_SHOWN = 60


def at(
    script: Script,
    node: ast.AST,
    message: str,
    *,
    path: str = "",
    evidence: tuple[str, ...] = (),
    help: str = "",  # noqa: A002 (what it is)
    patch: Patch | None = None,
    severity: Severity | None = None,
    confidence: Confidence = Confidence.CERTAIN,
) -> Problem:
    """A problem at a node of a script. Of a statement with a body, its head alone is marked."""
    place = script.place(node)
    body = getattr(node, "body", None)
    if isinstance(body, list) and body and isinstance(node, ast.stmt):
        end = script.text.find("\n", place.start)
        place = Place(place.line, place.column, place.start, end if end >= 0 else place.end)
    return Problem(
        file=script.file,
        place=place,
        path=path,
        subject=script.file,
        message=message,
        evidence=evidence,
        help=help,
        patch=patch,
        severity=severity,
        confidence=confidence,
    )


def shown(script: Script, node: ast.AST) -> str:
    """The text of a node in one line, cut where it is long."""
    text = " ".join(script.source(node).split())
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def head(script: Script, node: ast.AST) -> str:
    """The first line of a node."""
    return script.source(node).partition("\n")[0].rstrip()


def line(script: Script, node: ast.AST) -> str:
    """`line 23`."""
    return f"line {script.place(node).line}"


def replace(script: Script, node: ast.AST, text: str, title: str, *, is_safe: bool = True) -> Patch:
    """A patch that writes a text in a node's place."""
    place = script.place(node)
    return Patch(title=title, edits=(Edit(start=place.start, end=place.end, text=text),), is_safe=is_safe)
