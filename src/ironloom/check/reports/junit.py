"""JUnit's XML, as CI servers read test results: a suite a file, a failure a finding, a passed case where there is none.

A note is no failure: it stands in the case's output. Source of the format: https://github.com/testmoapp/junitxml
"""

from __future__ import annotations

import re
from itertools import groupby
from xml.etree import ElementTree as ET

from ironloom.check import registry
from ironloom.check.engine import Result
from ironloom.check.finding import Finding, Severity

_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(result: Result) -> str:
    """The document, indented."""
    root = ET.Element("testsuites", name="ironloom check")
    by_file = {file: list(found) for file, found in groupby(result.findings, key=lambda finding: finding.file)}
    total = failed = 0
    for file in sorted({*result.texts, *by_file}):
        findings = by_file.get(file, [])
        suite = ET.SubElement(root, "testsuite", name=_clean(file))
        for finding in findings:
            _case(suite, finding)
        if not findings:
            ET.SubElement(suite, "testcase", name="nothing is wrong", classname=_clean(file))
        num_failed = sum(finding.severity is not Severity.NOTE for finding in findings)
        suite.set("tests", str(max(1, len(findings))))
        suite.set("failures", str(num_failed))
        suite.set("errors", "0")
        total += max(1, len(findings))
        failed += num_failed
    root.set("tests", str(total))
    root.set("failures", str(failed))
    root.set("errors", "0")
    ET.indent(root)
    return "<?xml version='1.0' encoding='utf-8'?>\n" + ET.tostring(root, encoding="unicode")


def _case(suite: ET.Element, finding: Finding) -> None:
    rule = registry.of(finding.rule)
    name = (
        f"{finding.rule} {rule.name} at {finding.line}:{finding.column}"
        if finding.line
        else f"{finding.rule} {rule.name}"
    )
    case = ET.SubElement(
        suite, "testcase", name=_clean(name), classname=_clean(finding.subject or finding.file), line=str(finding.line)
    )
    case.set("file", _clean(finding.file))
    where = f"{finding.file}:{finding.line}:{finding.column}" if finding.line else finding.file
    parts = [where, finding.message, *finding.evidence]
    if finding.help:
        parts.append(f"help: {finding.help}")
    text = _clean("\n".join(parts))
    if finding.severity is Severity.NOTE:
        ET.SubElement(case, "system-out").text = text
    else:
        kind = finding.severity.value
        ET.SubElement(case, "failure", type=kind, message=_clean(finding.message)).text = text


def _clean(text: str) -> str:
    return _NOT_XML.sub("�", text)
