"""What a writer has looked at and wants to hear no more of.

In a manifest, an annotation of the object:

    ironloom.dev/ignore: IL204 the label comes with the new nodes, IL301 one node, no fabric

Entries stand between commas or on lines of their own; each is a rule's id or name and a reason. In Python, a comment:
`# ironloom: ignore IL701 reason` at the end of a line is for that line, on a line of its own for the next line of code,
and `# ironloom: ignore-file IL701 reason` for the whole file. An ignore that nothing comes of is a note.
"""

from __future__ import annotations

import re
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import StringIO

import msgspec

from ironloom.check import registry
from ironloom.check.finding import Confidence, Finding, Severity
from ironloom.check.inputs import SCRIPT_SUFFIX, UNREADABLE, Inputs
from ironloom.check.lines import lines_of
from ironloom.check.rule import Rule
from ironloom.workload.manifests.document import Document

ANNOTATION = "ironloom.dev/ignore"
UNUSED = "IL099"
_ID = re.compile(r"IL\d{3}")
_COMMENT = re.compile(r"#\s*ironloom:\s*(ignore-file|ignore)\b[:\s]*(.*)")


class Ignore(msgspec.Struct):
    """One rule that is not to speak of one stretch of lines."""

    rule: str
    """The id; the word as written where there is no such rule."""
    file: str
    first_line: int
    last_line: int
    line: int
    """Where it is written."""
    column: int
    subject: str
    path: str = ""
    is_known: bool = True
    is_used: bool = False

    def covers(self, finding: Finding) -> bool:
        return (
            finding.rule == self.rule
            and finding.file == self.file
            and self.first_line <= finding.line <= self.last_line
        )


def apply(
    findings: Iterable[Finding], inputs: Inputs, ran: Callable[[], frozenset[str]]
) -> tuple[list[Finding], list[Finding], list[Finding]]:
    """(kept, ignored, notes): what of the findings is still to be said, what is not, and the ignores of no use.

    An ignore of a rule that did not run is not blamed. `ran` tells the ids of those that did, where there is one.
    """
    ignores = [one for made in inputs.documents for one in _of_document(made)]
    ignores += [one for file, text in inputs.texts.items() for one in _of_script(file, text)]
    if not ignores:
        return list(findings), [], []
    kept: list[Finding] = []
    ignored: list[Finding] = []
    for finding in findings:
        covering = [one for one in ignores if one.covers(finding)]
        for one in covering:
            one.is_used = True
        (ignored if covering else kept).append(finding)
    unused = [one for one in ignores if not one.is_used]
    did = ran() if unused else frozenset()
    notes = [_note(one) for one in unused if one.rule in did or not one.is_known]
    return kept, ignored, notes


def how(rule: Rule) -> str:
    """What a writer does who does not want to hear of this rule."""
    if rule.id == UNREADABLE:
        return "It cannot be ignored: leave the file out with `--exclude`."
    if rule.id == UNUSED:
        return f"Not wanted? `--ignore {rule.id}`."
    is_manifest = "apiVersion:" in rule.bad
    where = "the annotation `ironloom.dev/ignore:" if is_manifest else "a comment `# ironloom: ignore"
    return f"Not here? Say so with {where} {rule.id} reason`."


def entries(text: str) -> list[tuple[str, str]]:
    """(rule, reason) of each entry. A comma inside a reason is no end of it: the next word must be a rule."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        is_new_line = True
        for part in line.split(","):
            word, _, reason = part.strip().partition(" ")
            word = word.rstrip(":")
            if not word:
                continue
            if is_new_line or _ID.fullmatch(word.upper()) or word.lower() in _names():
                found.append((word, reason.strip()))
            else:
                found[-1] = (found[-1][0], f"{found[-1][1]}, {part.strip()}")
            is_new_line = False
    return found


def _of_document(made: Document) -> Iterator[Ignore]:
    metadata = made.obj.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    text = annotations.get(ANNOTATION) if isinstance(annotations, dict) else None
    if not isinstance(text, str):
        return
    root = made.positions.root.place
    place = made.positions.key(("metadata", "annotations", ANNOTATION))
    last_line = root.line + made.text.count("\n", root.start, root.end)
    for word, _ in entries(text):
        yield _ignore(
            word,
            made.file,
            (root.line, last_line),
            (place.line, place.column),
            f"{made.kind} {made.name}",
            f"metadata.annotations['{ANNOTATION}']",
        )


def _of_script(file: str, text: str) -> Iterator[Ignore]:
    if not file.lower().endswith(SCRIPT_SUFFIX) or "ironloom:" not in text:
        return
    lines = lines_of(file, text)
    for line, column, comment in _comments(text):
        match = _COMMENT.match(comment)
        if match is None:
            continue
        if match[1] == "ignore-file":
            covered = (0, len(lines) + 1)
        else:
            is_alone = not lines[line - 1][:column].strip()
            covered = (line, _next_code_line(lines, line) if is_alone else line)
        for word, _ in entries(match[2]):
            yield _ignore(word, file, covered, (line, column + 1), file, "")


def _comments(text: str) -> Iterator[tuple[int, int, str]]:
    try:
        for token in tokenize.generate_tokens(StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield (*token.start, token.string)
    except (tokenize.TokenError, SyntaxError):
        return  # that it is no Python has been told


def _next_code_line(lines: Sequence[str], line: int) -> int:
    for number in range(line, len(lines)):
        if lines[number].strip() and not lines[number].strip().startswith("#"):
            return number + 1
    return line


def _ignore(word: str, file: str, lines: tuple[int, int], place: tuple[int, int], subject: str, path: str) -> Ignore:
    rule = registry.load().get(word.upper()) or _names().get(word.lower())
    return Ignore(
        rule=rule.id if rule else word,
        file=file,
        first_line=lines[0],
        last_line=lines[1],
        line=place[0],
        column=place[1],
        subject=subject,
        path=path,
        is_known=rule is not None,
    )


def _names() -> dict[str, Rule]:
    return {rule.name: rule for rule in registry.load().values()}


def _note(one: Ignore) -> Finding:
    message = (
        f"{one.rule} is ignored here, and finds nothing: the ignore can go"
        if one.is_known
        else f"the ignore names {one.rule!r}, and there is no such rule"
    )
    return Finding(
        rule=UNUSED,
        severity=Severity.NOTE,
        confidence=Confidence.CERTAIN,
        file=one.file,
        line=one.line,
        column=one.column,
        path=one.path,
        subject=one.subject,
        message=message,
    )
