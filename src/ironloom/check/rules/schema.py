"""What the API server refuses, or drops without a word: fields, types, values and kinds, by the tables of fields.

A document is held against its table once a run; each rule takes its share of what came out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from msgspec.structs import replace

from ironloom.check import edits, look
from ironloom.check.fields import WITH_SELECTOR, is_known, is_part, is_selected_later, mistakes
from ironloom.check.finding import Confidence, Edit, Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Mistake, Path, Wrong
from ironloom.workload.manifests.suggest import nearest

STRICT = Source(
    "https://kubernetes.io/docs/reference/using-api/api-concepts/#setting-the-field-validation-level",
    "strict validation refuses unknown and duplicate fields; without it they are dropped",
)
CONVENTIONS = Source(
    "https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md",
    "types, required fields and lists with keys",
)


def _problem(document: Document, mistake: Mistake, **words: object) -> Problem:
    made: Problem = problem(document, mistake.path, mistake.message, help=mistake.hint or "", **words)  # type: ignore[arg-type]
    return made if mistake.wrong is Wrong.MISSING else replace(made, place=mistake.place)


def _told(document: Document, context: Context, *wrong: Wrong) -> Iterator[Mistake]:
    return (mistake for mistake in mistakes(document, context) if mistake.wrong in wrong)


@rule(
    id="IL001",
    name="unknown-field",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="a field that the kind does not have",
    why="kubectl refuses a field that a kind does not have; other clients, among them most GitOps controllers and "
    "operators, drop it without a word, and what it was to do is not done: a misspelt limit is no limit.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    resources:
      limit:
        nvidia.com/gpu: 1
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    resources:
      limits:
        nvidia.com/gpu: 1
""",
    sources=(
        STRICT,
        Source(
            "https://github.com/kubernetes-sigs/headlamp/issues/7147", "a misspelt field is dropped, and all looks well"
        ),
    ),
)
def unknown_field(document: Document, context: Context) -> Iterator[Problem]:
    for mistake in _told(document, context, Wrong.UNKNOWN):
        yield _problem(document, mistake, patch=_rename(document, mistake))


def _rename(document: Document, mistake: Mistake) -> Patch | None:
    key = str(mistake.path[-1])
    place = mistake.place
    if not mistake.meant or document.text[place.start : place.end] != key:
        return None
    edit = Edit(start=place.start, end=place.end, text=mistake.meant)
    return Patch(title=f"rename {key} to {mistake.meant}", edits=(edit,), is_safe=len(key) >= 4)


@rule(
    id="IL002",
    name="wrong-type",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="a value of another type than its field's",
    why="The API server reads JSON, and a number is no text: an annotation or a variable with a bare 1 or true, a port "
    "in quotes, a list where one thing is meant, and the whole object is refused.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    env:
    - name: NCCL_IB_DISABLE
      value: 1
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    env:
    - name: NCCL_IB_DISABLE
      value: "1"
""",
    sources=(
        CONVENTIONS,
        Source("https://github.com/helm/helm/issues/11562", "a variable with a bare number: cannot unmarshal number"),
    ),
)
def wrong_type(document: Document, context: Context) -> Iterator[Problem]:
    for mistake in _told(document, context, Wrong.TYPE):
        yield _problem(document, mistake, patch=_retype(document, mistake))


def _retype(document: Document, mistake: Mistake) -> Patch | None:
    value = look.at(document.obj, mistake.path)
    place = mistake.place
    written = document.text[place.start : place.end]
    if not written or "\n" in written:
        return None
    if mistake.wants == "string" and isinstance(value, bool | int | float):
        text = json.dumps(written)
    elif mistake.wants == "integer" and isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value):
        text = str(int(value))
    elif mistake.wants == "boolean" and isinstance(value, str) and value in {"true", "false"}:
        text = str(value)
    else:
        return None
    edit = Edit(start=place.start, end=place.end, text=text)
    return Patch(title=f"write it as {text}", edits=(edit,))


@rule(
    id="IL003",
    name="missing-field",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="a field that the kind must have, and that is not there",
    why="The API server refuses the object. A Deployment without a selector is the most common one: it does not know "
    "which pods are its own.",
    bad="""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  template:
    spec:
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
""",
    good="""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  selector:
    matchLabels:
      app: llama
  template:
    metadata:
      labels:
        app: llama
    spec:
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
""",
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#selector",
            "spec.selector is required and must match the template's labels",
        ),
    ),
)
def missing_field(document: Document, context: Context) -> Iterator[Problem]:
    for mistake in _told(document, context, Wrong.MISSING):
        if _is_selector(document, mistake):
            if is_selected_later(document, context):
                continue
            labels = look.mapping(document.obj, ("spec", "template", "metadata", "labels"))
            bare = () if labels else ("spec.template.metadata.labels is not there either: nothing could be selected",)
            yield _problem(document, mistake, evidence=bare, patch=_add_selector(document))
        else:
            is_template = document.type_name == "v1/Pod" and mistake.message.endswith("'containers'")
            yield _problem(document, mistake, confidence=Confidence.LIKELY if is_template else Confidence.CERTAIN)
    if is_known(document, context) and not is_part(document, context):
        metadata = look.at(document.obj, ("metadata",))
        names = look.mapping(document.obj, ("metadata",))
        if (metadata is None or isinstance(metadata, dict)) and not (names.get("name") or names.get("generateName")):
            is_meant = nearest("name", [key for key in names if key not in _META]) is not None
            if not is_meant:
                yield problem(document, ("metadata",), "the object must have a metadata.name", at_key=True)


_META = frozenset({"namespace", "labels", "annotations", "generateName", "finalizers", "name"})


def _is_selector(document: Document, mistake: Mistake) -> bool:
    return document.kind in WITH_SELECTOR and mistake.path == ("spec",) and mistake.message.endswith("'selector'")


def _add_selector(document: Document) -> Patch | None:
    """The selector of the template's labels; where it has none, the label `app` with the object's name for both."""
    labels = look.mapping(document.obj, ("spec", "template", "metadata", "labels"))
    wanted = {key: value for key, value in labels.items() if isinstance(value, str)} or {"app": document.name}
    if not all(wanted.values()) or len(document.name) > 63:
        return None
    lines = [f"{edits.scalar(key)}: {edits.scalar(value)}" for key, value in wanted.items()]
    made = [edits.add_first(document, ("spec",), ["selector:", "  matchLabels:", *(f"    {line}" for line in lines)])]
    if not labels:
        template: Path = ("spec", "template")
        has_metadata = bool(look.mapping(document.obj, (*template, "metadata")))
        added = ["labels:", *(f"  {line}" for line in lines)]
        if has_metadata:
            made.append(edits.add_first(document, (*template, "metadata"), added))
        else:
            made.append(edits.add_first(document, template, ["metadata:", *(f"  {line}" for line in added)]))
    done = tuple(edit for edit in made if edit is not None)
    return Patch(title="select the pods by a label", edits=done) if len(done) == len(made) else None


@rule(
    id="IL004",
    name="value-not-allowed",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="a value outside of what its field allows",
    why="Of some fields the API server takes a few words or a range of numbers only, written as they are written "
    "there: `ifNotPresent` is none of them. It refuses the object.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    imagePullPolicy: ifNotPresent
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    imagePullPolicy: IfNotPresent
""",
    sources=(
        Source(
            "https://github.com/kubernetes/kubernetes/blob/master/pkg/generated/openapi/zz_generated.openapi.go",
            "the values of each field",
        ),
        CONVENTIONS,
    ),
)
def value_not_allowed(document: Document, context: Context) -> Iterator[Problem]:
    for mistake in _told(document, context, Wrong.VALUE):
        yield _problem(document, mistake, patch=_recase(document, mistake))


def _recase(document: Document, mistake: Mistake) -> Patch | None:
    """The allowed word that differs in the case of its letters alone."""
    value = look.at(document.obj, mistake.path)
    _, _, allowed = mistake.message.partition("must be one of ")
    word = next(
        (word for word in allowed.split(", ") if isinstance(value, str) and word.lower() == value.lower()), None
    )
    edit = edits.replace(document, mistake.path, word) if word and word != value else None
    return Patch(title=f"write {word}", edits=(edit,)) if edit is not None else None


@rule(
    id="IL007",
    name="entry-stands-twice",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="two entries of a list with one key",
    why="Of containers, volumes, mounts and every keyed list of a custom resource the API server refuses doubles. Of "
    "variables it takes them: the last one counts, server-side apply refuses them, and a later edit may merge the two.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    env:
    - name: NCCL_DEBUG
      value: INFO
    - name: NCCL_DEBUG
      value: WARN
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    env:
    - name: NCCL_DEBUG
      value: WARN
""",
    sources=(
        Source("https://github.com/kubernetes/kubernetes/issues/113482", "server-side apply refuses doubled variables"),
        Source("https://github.com/kubernetes/kubernetes/issues/106809", "taking one of two out takes both"),
        Source("https://kubernetes.io/docs/reference/using-api/server-side-apply/#merge-strategy", "lists with keys"),
    ),
)
def entry_stands_twice(document: Document, context: Context) -> Iterator[Problem]:
    for mistake in _told(document, context, Wrong.DOUBLE):
        if not mistake.is_taken:
            yield _problem(document, mistake)
            continue
        yield replace(
            _problem(document, mistake, severity=Severity.WARNING),
            help="the last one counts, and server-side apply refuses the object: keep one",
        )
