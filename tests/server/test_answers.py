from __future__ import annotations

from ironloom.errors import ManifestError
from ironloom.server.answers import as_request_error
from ironloom.workload.manifests import ManifestProblems


def test_everything_that_is_wrong_in_a_manifest_is_in_the_answer_a_line_each_with_its_place() -> None:
    one = ManifestError("no kind", file="a.yaml", line=3, column=1, path="kind", hint="write one")
    other = ManifestError("bad window", file="a.yaml", line=9, column=5, path="metadata")
    told = as_request_error(ManifestProblems([one, other]))
    assert (told.status, told.error_code, told.param, told.hint) == (400, "manifest_invalid", "kind", "write one")
    assert told.message == "a.yaml:3:1: no kind\na.yaml:9:5: bad window"
    assert as_request_error(one).message == "a.yaml:3:1: no kind"
