"""Text for people, in the manner of rustc: what and where, the line itself, what proves it, what to do.

error[IL204]: the topology key topology.kubernetes.io/rack is on no node
  --> train.yaml:14:9
   |
14 |         kueue.x-k8s.io/podset-required-topology: topology.kubernetes.io/rack
   |                                                  ^^^^^^^^^^^^^^^^^^^^^^^^^^^
   = 64 of 64 nodes have backend.coreweave.cloud/leafgroup
   = help: use a level that the nodes have
   = fix: set it to backend.coreweave.cloud/leafgroup (--fix)
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from ironloom.check.engine import Result
from ironloom.check.finding import Confidence, Finding, Severity
from ironloom.check.inputs import NOT_CHECKED, why_skipped
from ironloom.check.lines import lines_of

WIDTH = 120
"""Evidence and help are wrapped to it; a source line is cut to it."""
MAX_SKIPPED = 3
"""Files that are named where many are skipped."""
_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(9), *range(10, 32), *range(127, 160))}
"""What a file says must not steer the terminal that it is shown on."""
Style = Callable[..., str]


def render(result: Result, *, style: Style | None = None) -> str:
    """The findings, a blank line between them, and a last line that counts them.

    `style` is click's, where the text goes to a terminal.
    """
    paint = style or _plain
    texts = {file: lines_of(file, result.texts.get(file, "")) for file in {f.file for f in result.findings}}
    parts = [_block(finding, texts[finding.file], paint) for finding in result.findings if not why_skipped(finding)]
    skips = {why: files for why in map(why_skipped, result.findings) if why and (files := _skipped(result, why))}
    if skips:
        parts.append(_skips(skips, paint))
    return "\n\n".join([*parts, summary(result)])


def summary(result: Result) -> str:
    """`2 errors, 1 warning in 3 files; 2 of them have a safe fix: --fix applies it.`"""
    counts = Counter(finding.severity for finding in result.findings if not why_skipped(finding))
    num_skipped = len({finding.file for finding in result.findings if why_skipped(finding)})
    said = [_plural(counts[severity], severity.value) for severity in Severity if counts[severity]]
    read = _plural(len(result.texts), "file")
    objects = _plural(result.num_documents, "object")
    scripts = f" and {_plural(result.num_scripts, 'script')}" if result.num_scripts else ""
    checked = f"{objects}{scripts} in {read}" if result.num_documents or not scripts else f"{scripts[5:]} in {read}"
    skipped = f" ({num_skipped} skipped)" if num_skipped else ""
    ignored = f"; {_plural(len(result.ignored), 'finding')} ignored" if result.ignored else ""
    ignored += f"; {_plural(len(result.known), 'finding')} in the baseline" if result.known else ""
    if not said:
        is_any = result.num_documents or result.num_scripts
        return f"{'Nothing is wrong' if is_any else 'There was nothing to check'}: {checked} checked{skipped}{ignored}."
    num_fixes = sum(finding.patch is not None and finding.patch.is_safe for finding in result.findings)
    fixes = f" `--fix` mends {num_fixes} of them, `--diff` shows how." if num_fixes else ""
    return f"{', '.join(said)}: {checked} checked{skipped}{ignored}.{fixes}"


def _block(finding: Finding, lines: Sequence[str], paint: Style) -> str:
    sure = "" if finding.confidence is Confidence.CERTAIN else f" ({finding.confidence.value})"
    head = paint(f"{finding.severity.value}[{finding.rule}]", fg=_COLOURS[finding.severity], bold=True)
    rows = [f"{head}{sure}: {paint(_clean(finding.message), bold=True)}"]
    margin = len(str(finding.line)) if finding.line else 1
    bar = paint(f"{' ' * margin} |", fg="blue")
    where = f"{finding.file}:{finding.line}:{finding.column}" if finding.line else finding.file
    rows.append(f"{' ' * margin}{paint('-->', fg='blue')} {_clean(where + _subject(finding))}")
    if 0 < finding.line <= len(lines):
        source, mark = _marked(finding, lines[finding.line - 1])
        number = paint(f"{finding.line} |", fg="blue")
        rows += [bar, f"{number} {_clean(source)}".rstrip(), f"{bar} {paint(mark, fg=_COLOURS[finding.severity])}"]
    points = [*finding.evidence]
    if finding.help:
        points.append(f"help: {finding.help}")
    if finding.patch is not None:
        how = "--fix" if finding.patch.is_safe else "--diff --unsafe-fixes shows it; a person must choose"
        points.append(f"fix: {finding.patch.title} ({how})")
    return "\n".join([*rows, *_points(points, margin, paint)])


def _points(points: Iterable[str], margin: int, paint: Style) -> list[str]:
    rows = []
    sign = paint("=", fg="blue")
    for point in points:
        first, *rest = textwrap.wrap(
            _clean(point), WIDTH - margin - 3, break_long_words=False, break_on_hyphens=False
        ) or [""]
        rows += [f"{' ' * margin} {sign} {first}", *(f"{' ' * margin}   {line}" for line in rest)]
    return rows


def _skipped(result: Result, why: str) -> list[str]:
    """The files that were skipped for a reason, each once."""
    return list(dict.fromkeys(finding.file for finding in result.findings if why_skipped(finding) == why))


def _skips(skips: Mapping[str, list[str]], paint: Style) -> str:
    """One block for all files of folders that hold something else: a repository has hundreds."""
    number = len({file for files in skips.values() for file in files})
    head = paint(f"note[{NOT_CHECKED}]", fg=_COLOURS[Severity.NOTE], bold=True)
    points = [
        f"{why}: {', '.join(files[:MAX_SKIPPED])}"
        + (f" and {len(files) - MAX_SKIPPED} more" if len(files) > MAX_SKIPPED else "")
        for why, files in skips.items()
    ]
    points.append("help: `-o json` names them all; `--exclude` leaves files out")
    said = paint(f"{_plural(number, 'file')} skipped, in whole or in part", bold=True)
    return "\n".join([f"{head}: {said}", *_points(points, 1, paint)])


def _clean(text: str) -> str:
    return text.translate(_CONTROL)


def _subject(finding: Finding) -> str:
    return f" ({finding.subject})" if finding.subject and finding.subject != finding.file else ""


def _marked(finding: Finding, source: str) -> tuple[str, str]:
    """The source line as it is shown, and the line of carets below it."""
    start = finding.column - 1
    end = finding.end_column - 1 if finding.end_line == finding.line else len(source.rstrip())
    # A tab or a wide line must not move the carets away from what they mark.
    cut = max(0, start - WIDTH // 2) if len(source) > WIDTH and start > WIDTH // 2 else 0
    shown = source[cut : cut + WIDTH]
    blank = "".join("\t" if letter == "\t" else " " for letter in source[cut:start])
    width = min(max(1, end - start), max(1, WIDTH - len(blank)))
    return shown.rstrip(), blank + "^" * width


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _plain(text: str, **_colours: object) -> str:
    return text
