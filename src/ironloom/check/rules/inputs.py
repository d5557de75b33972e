"""What the check says of its own input. Nothing here looks at a subject: reading and ignoring make these findings."""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.check.finding import Severity
from ironloom.check.rule import Context, Problem, Source, rule

_GOOD = """\
apiVersion: v1
kind: Service
metadata:
  name: llama
spec:
  ports:
  - port: 80
"""


@rule(
    id="IL000",
    name="unreadable",
    family="input",
    severity=Severity.ERROR,
    subject=Context,
    summary="a file that is no YAML, no Kubernetes object or no Python",
    why="Nothing can be said of what cannot be read, and a cluster will not read it either. The rest of the file, and "
    "the other files, are still checked; the command ends with status 2. This rule cannot be ignored.",
    bad="""\
apiVersion: v1
kind: Service
metadata:
  name: llama
 spec: {}
""",
    good=_GOOD,
    sources=(
        Source("https://yaml.org/spec/1.2.2/", "what YAML is"),
        Source(
            "https://kubernetes.io/docs/concepts/overview/working-with-objects/#required-fields",
            "every object has apiVersion, kind and metadata",
        ),
    ),
)
def unreadable(_run: Context, _context: Context) -> Iterator[Problem]:
    return iter(())


@rule(
    id="IL097",
    name="key-stands-twice",
    family="input",
    severity=Severity.WARNING,
    subject=Context,
    summary="a key that stands twice in one mapping, with one value",
    why="YAML forbids it. kubectl and Helm take the last one in silence; kustomize, Flux and others refuse the "
    "document: `mapping key already defined`. Charts that add common labels to their own make such documents. Where "
    "the two have different values, or stand at the top of a document (a missing `---`), it is an error (IL000).",
    bad="""\
apiVersion: v1
kind: Service
metadata:
  name: llama
  labels:
    app: llama
    app: llama
spec:
  ports:
  - port: 80
""",
    good=_GOOD,
    sources=(
        Source("https://yaml.org/spec/1.2.2/#mapping", "the keys of a mapping are unique"),
        Source("https://github.com/zabbix-community/helm-zabbix/issues/79", "Helm takes it, Flux refuses the chart"),
    ),
)
def key_stands_twice(_run: Context, _context: Context) -> Iterator[Problem]:
    return iter(())


@rule(
    id="IL098",
    name="kind-not-checked",
    family="input",
    severity=Severity.NOTE,
    subject=Context,
    summary="an object of a kind that is not checked",
    why="The object was read, and its kind is one whose meaning is not known here, so that silence about it means "
    "nothing. It changes no exit status.",
    bad="""\
apiVersion: example.org/v1
kind: Teapot
metadata:
  name: brown-betty
""",
    good=_GOOD,
    sources=(
        Source(
            "https://github.com/yannh/kubeconform#overriding-schemas-location",
            "a validator that skips what it has no schema of must say so",
        ),
    ),
)
def kind_not_checked(_run: Context, _context: Context) -> Iterator[Problem]:
    return iter(())


@rule(
    id="IL099",
    name="unused-ignore",
    family="input",
    severity=Severity.NOTE,
    subject=Context,
    summary="an ignore that nothing comes of",
    why="An ignore that outlives its finding hides the next one. The rule that it names ran and found nothing there, "
    "or there is no such rule.",
    bad="""\
apiVersion: v1
kind: Service
metadata:
  name: llama
  annotations:
    ironloom.dev/ignore: IL998 there is no such rule
spec:
  ports:
  - port: 80
""",
    good=_GOOD,
    sources=(
        Source(
            "https://github.com/astral-sh/ruff/issues/11360",
            "the same rule of a Python linter (RUF100)",
        ),
    ),
)
def unused_ignore(_run: Context, _context: Context) -> Iterator[Problem]:
    return iter(())
