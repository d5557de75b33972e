"""What was found, as programs read it: every finding is in every format, and each format keeps its own rules."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
import pytest

from ironloom.check import baseline, reports
from ironloom.check.engine import Fault, Result
from ironloom.check.finding import Confidence, Edit, Finding, Patch, Severity
from ironloom.errors import UsageError

TEXT = "spec:\n  replicas: 1\n"
FIRST = Finding(
    rule="IL501",
    severity=Severity.WARNING,
    confidence=Confidence.LIKELY,
    file="manifests/a b.yaml",
    line=2,
    column=13,
    end_line=2,
    end_column=14,
    path="spec.replicas",
    subject="Deployment default/llama",
    message="100% wrong, says: <it>",
    evidence=("1 of 2",),
    help="mend it",
    patch=Patch(title="two of them", edits=(Edit(start=18, end=19, text="2"),)),
)
SECOND = Finding(
    rule="IL000",
    severity=Severity.ERROR,
    confidence=Confidence.CERTAIN,
    file="/abs/c\x1b.yaml",
    line=0,
    column=0,
    path="",
    subject="/abs/c.yaml",
    message="it is no YAML",
)
NOTE = Finding(
    rule="IL099",
    severity=Severity.NOTE,
    confidence=Confidence.CERTAIN,
    file="manifests/a b.yaml",
    line=1,
    column=1,
    path="",
    subject="x",
    message="the ignore can go",
)
RESULT = Result(
    findings=(FIRST, NOTE, SECOND),
    ignored=(FIRST,),
    known=(NOTE,),
    faults=(Fault(rule="IL501", subject="x", error=ValueError("oh")),),
    texts={"manifests/a b.yaml": TEXT, "good.yaml": ""},
)


def sarif() -> dict[str, Any]:
    log: dict[str, Any] = json.loads(reports.render(RESULT, "sarif"))
    return log


def test_sarif_places_a_finding_and_its_fix() -> None:
    run = sarif()["runs"][0]
    first, note, second, ignored, known = run["results"]
    assert first["ruleId"] == run["tool"]["driver"]["rules"][first["ruleIndex"]]["id"] == "IL501"
    place = first["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "manifests/a%20b.yaml"
    assert place["region"] == {"startLine": 2, "startColumn": 13, "endLine": 2, "endColumn": 14}
    replacement = first["fixes"][0]["artifactChanges"][0]["replacements"][0]
    assert replacement["deletedRegion"] == place["region"]
    assert replacement["insertedContent"] == {"text": "2"}
    assert (first["level"], note["level"], second["level"]) == ("warning", "note", "error")
    assert "region" not in second["locations"][0]["physicalLocation"]
    assert second["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "file:///abs/c%1B.yaml"
    assert [one["suppressions"] for one in (first, note, second)] == [[], [], []]
    assert ignored["suppressions"] == [{"kind": "inSource"}]
    assert known["suppressions"] == [{"kind": "external", "justification": "it is in the baseline"}]
    assert "baselineState" not in known
    assert run["invocations"][0]["executionSuccessful"] is False


def test_sarif_keeps_the_spelling_of_a_name_that_a_summary_begins_with() -> None:
    findings = tuple(msgspec.structs.replace(FIRST, rule=rule) for rule in ("IL202", "IL203"))
    log = json.loads(reports.render(Result(findings=findings, texts={}), "sarif"))
    said = [one["shortDescription"]["text"] for one in log["runs"][0]["tool"]["driver"]["rules"]]
    assert said[0].startswith("topology.kubernetes.io/zone ")
    assert said[1].startswith("Replicas ")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.py", "x = 1\x0c\ny = 2\x1c\r\n\u2028z = 3\rbad()\n"),
        ("a.yaml", "x: 1\x0c\r\ny: 2\rz: 3\u2028bad: 4\n"),
    ],
    ids=["Python", "YAML"],
)
def test_the_line_that_is_shown_is_the_one_that_was_counted(file: str, text: str) -> None:
    finding = msgspec.structs.replace(FIRST, file=file, line=4, column=1, end_line=4, end_column=4, patch=None)
    assert "4 | bad" in reports.render(Result(findings=(finding,), texts={file: text}), "text")


def test_sarif_fingerprints_survive_lines_that_move() -> None:
    moved = Result(
        findings=(Finding(**{**_fields(FIRST), "line": 3, "end_line": 3}),), texts={FIRST.file: "# new\n" + TEXT}
    )
    marks = [one["partialFingerprints"] for one in json.loads(reports.render(moved, "sarif"))["runs"][0]["results"]]
    assert marks == [sarif()["runs"][0]["results"][0]["partialFingerprints"]]


def _fields(one: Finding) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Finding.__struct_fields__}


@pytest.mark.slow
def test_sarif_keeps_to_its_schema() -> None:
    schema = Path(__file__).parents[2] / ".cache" / "sarif-schema-2.1.0.json"
    if not schema.exists():
        done = subprocess.run(["scripts/need_sarif_schema"], cwd=schema.parents[1], capture_output=True, check=False)
        if done.returncode and not os.environ.get("IRONLOOM_REQUIRE_RINGS"):
            pytest.skip("the schema of SARIF cannot be had here: " + done.stderr.decode()[-200:])
        assert done.returncode == 0, done.stderr.decode()
    jsonschema = pytest.importorskip("jsonschema_rs")
    definition = json.loads(schema.read_text())
    for owner in ("run", "toolComponent"):
        # Of a member that we do not write: its pattern has a bracket too many for any validator that reads patterns.
        del definition["definitions"][owner]["properties"]["language"]["pattern"]
    validator = jsonschema.validator_for(definition)
    assert [str(error) for error in validator.iter_errors(sarif())] == []
    broken = sarif()
    broken["runs"][0]["results"][0]["level"] = "bad"
    assert list(validator.iter_errors(broken)), "the validator finds what is wrong"


def test_github_shows_each_finding_at_its_line_with_its_text_escaped() -> None:
    lines = reports.render(RESULT, "github").splitlines()
    assert lines[0] == (
        "::warning file=manifests/a b.yaml,line=2,col=13,endLine=2,endColumn=14,"
        "title=IL501 min-replicas-zero-is-one::100%25 wrong, says: <it>%0A1 of 2%0Ahelp: mend it"
    )
    assert lines[1].startswith("::notice ")
    assert lines[2].startswith("::error file=/abs/c\x1b.yaml,title=IL000 unreadable::")
    assert len(lines) == 4


def test_junit_counts_findings_as_failures_and_notes_as_passed() -> None:
    root = ET.fromstring(reports.render(RESULT, "junit"))
    assert (root.get("tests"), root.get("failures")) == ("4", "2")
    by_name = {suite.get("name"): suite for suite in root}
    assert [case.get("name") for case in by_name["good.yaml"]] == ["nothing is wrong"]
    (failure,) = by_name["manifests/a b.yaml"].iter("failure")
    assert failure.get("message") == "100% wrong, says: <it>"
    assert "/abs/c�.yaml" in by_name, "what XML cannot say is shown as such"


@pytest.mark.parametrize("output", reports.FORMATS)
def test_nothing_found_is_a_whole_document_too(output: str) -> None:
    text = reports.render(Result(findings=(), texts={"a.yaml": ""}), output)
    if output in ("json", "sarif"):
        json.loads(text)
    elif output == "junit":
        assert ET.fromstring(text).get("failures") == "0"
    assert text


def test_a_baseline_takes_out_what_it_knows_once_for_each_time_it_stands() -> None:
    twice = Result(findings=(FIRST, FIRST, SECOND), texts=RESULT.texts)
    once = Result(findings=(FIRST,), texts=RESULT.texts)
    path_text = baseline.dump(once)
    known = _loaded(path_text)
    left = baseline.subtract(twice, known)
    assert left.findings == (FIRST, SECOND)
    assert (left.known, left.ignored) == ((FIRST,), ())
    assert baseline.subtract(once, known).findings == ()


def test_what_cannot_be_read_is_in_no_baseline() -> None:
    known = _loaded(baseline.dump(Result(findings=(SECOND,), texts={})))
    assert baseline.subtract(Result(findings=(SECOND,), texts={}), known).findings == (SECOND,)


def _loaded(text: str, tmp: list[Path] = []) -> Any:  # noqa: B006 (one folder for all)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "b.json")
        path.write_text(text)
        return baseline.load(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "findings": [{}]}', "[" * 100_000])
def test_a_file_that_is_no_baseline_is_told_in_a_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="it is no baseline"):
        baseline.load(path)


def test_a_baseline_that_is_not_there_names_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        baseline.load(tmp_path / "none.json")
    assert "--write-baseline" in (raised.value.hint or "")
