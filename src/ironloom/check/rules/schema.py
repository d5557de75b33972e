"""What the API server refuses, or drops without a word: fields, types, values and kinds, by the tables of fields.

A document is held against its table once a run; each rule takes its share of what came out.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from dataclasses import replace

from ironloom.check import edits, look
from ironloom.check.finding import Edit, Patch, Severity
from ironloom.check.removed import removal
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.manifests import schema
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Mistake, Path, Schema, Wrong
from ironloom.workload.manifests.suggest import nearest

STRICT = Source(
    "https://kubernetes.io/docs/reference/using-api/api-concepts/#setting-the-field-validation-level",
    "strict validation refuses unknown and duplicate fields; without it they are dropped",
)
CONVENTIONS = Source(
    "https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md",
    "types, required fields and lists with keys",
)
PARTIAL_GROUPS = frozenset({"kubeflow.org", "autoscaling.x-k8s.io"})
"""Groups that several projects share: a kind that the tables do not have may be another's."""
PLACEHOLDER = re.compile(
    r"\$\{|\{\{|\$\(|\$[A-Z_]{2}|^<[^>]*>$|%[A-Z_]+%|(?<![A-Za-z0-9])[A-Z]{2,}(?:_[A-Z0-9]+)+(?![A-Za-z0-9])"
)
"""A word of a template that something fills in before the API server sees it."""
_PATCH_NAME = re.compile(r"(?:^|[-_.])patch(?:es)?(?:[-_.]|$)", re.I)
WITH_SELECTOR = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"})


def table_for(document: Document, context: Context) -> Schema:
    """The fields to judge a document by: those of the cluster, else those that come with the package. A cluster whose
    definitions leave a spec open, as KServe's minimal ones do, says less than the package."""
    own, kind = context.schema, document.type_name
    if own is None or kind not in own.kinds:
        return schema.load_all()
    made = own.types[own.kinds[kind]]
    spec = made["object"].get("spec") if isinstance(made, dict) and "object" in made else None
    is_open = spec is None or own.types[spec] == "any"
    return schema.load_all() if is_open and kind in schema.load_all().kinds else own


def is_known(document: Document, context: Context) -> bool:
    """Whether a table has the document's kind."""
    return document.type_name in table_for(document, context).kinds


def mistakes(document: Document, context: Context) -> list[Mistake]:
    """What is wrong with a document by its table; nothing where its kind is in none."""
    key = ("schema", id(document))
    if key not in context.memo:
        context.memo[key] = _mistakes(document, context)
    found: list[Mistake] = context.memo[key]
    return found


def _mistakes(document: Document, context: Context) -> list[Mistake]:
    table = table_for(document, context)
    if document.type_name not in table.kinds:
        return []
    version = context.kubernetes_version
    minor = version[1] if version is not None and version[0] == 1 else None
    found = schema.mistakes(document.positions.root, document.type_name, table, minor=minor)
    part = is_part(document, context)
    return [
        mistake
        for mistake in found
        if not (part and mistake.wrong is Wrong.MISSING) and not is_to_be_filled(document, mistake)
    ]


def is_to_be_filled(document: Document, mistake: Mistake) -> bool:
    """Whether the value is a word of a template, which something fills in before the API server sees it."""
    if mistake.wrong not in (Wrong.TYPE, Wrong.VALUE):
        return False
    value = look.at(document.obj, mistake.path)
    return isinstance(value, str) and PLACEHOLDER.search(value) is not None


def is_part(document: Document, context: Context) -> bool:
    """Whether the document is a part of an object: one that a Kustomization of the run lays over another, or that is
    called a patch by the name of its file."""
    if _PATCH_NAME.search(posixpath.basename(document.file)):
        return True
    if "patches" not in context.memo:
        context.memo["patches"] = frozenset(
            posixpath.normpath(posixpath.join(posixpath.dirname(one.file), path))
            for one in context.documents
            if look.group(one) == "kustomize.config.k8s.io"
            for path in _patch_files(one)
        )
    return posixpath.normpath(document.file) in context.memo["patches"]


def _patch_files(kustomization: Document) -> Iterator[str]:
    for entry in look.entries(kustomization.obj, ("patches",)):
        yield look.text(entry, ("path",))
    for entry in look.entries(kustomization.obj, ("patchesStrategicMerge",)):
        if isinstance(entry, str):
            yield entry


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
            labels = look.mapping(document.obj, ("spec", "template", "metadata", "labels"))
            bare = () if labels else ("spec.template.metadata.labels is not there either: nothing could be selected",)
            yield _problem(document, mistake, evidence=bare, patch=_add_selector(document))
        else:
            yield _problem(document, mistake)
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
    id="IL005",
    name="unknown-kind",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="a kind, or a version of it, that its API group does not have",
    why="The API server answers `no matches for kind`: nothing of the object is made. With a cluster, its own list of "
    "kinds is what counts: a controller's kind that is not there means a controller that is not there.",
    bad="""\
apiVersion: apps/v1beta3
kind: Deployment
metadata:
  name: llama
spec: {}
""",
    good="""\
apiVersion: v1
kind: Service
metadata:
  name: llama
spec:
  ports:
  - port: 80
""",
    sources=(
        Source("https://kubernetes.io/docs/reference/generated/kubernetes-api/v1.34/", "the kinds of Kubernetes"),
        Source(
            "https://kubernetes.io/docs/concepts/extend-kubernetes/api-extension/custom-resources/",
            "other kinds are there once their definitions are",
        ),
    ),
)
def unknown_kind(document: Document, context: Context) -> Iterator[Problem]:
    gone, served = removal(document), is_served(document, context)
    if served or (gone is not None and (gone.gone_in or served is None)):
        return  # of versions that went another rule speaks
    if served is None and document.type_name in schema.load_all().known:
        return
    of_cluster = served_kinds(context) if served is False else None
    known = of_cluster if of_cluster is not None else schema.load_all().known
    group = look.group(document)
    siblings = [kind for kind in known if kind.rpartition("/")[0].rpartition("/")[0] == group]
    versions = sorted({kind.split("/")[-2] for kind in siblings if kind.rpartition("/")[2] == document.kind})
    if versions:
        said = " or ".join(f"{group}/{version}".lstrip("/") for version in versions)
        edit = edits.replace(document, ("apiVersion",), f"{group}/{versions[0]}".lstrip("/"))
        patch = Patch(title=f"use {said}", edits=(edit,), is_safe=False) if len(versions) == 1 and edit else None
        message = f"apiVersion = {document.api_version!r}, {document.kind} is in {said}"
        yield problem(document, ("apiVersion",), message, patch=patch)
    elif served is False:
        message = f"this cluster has no kind {document.kind} of {document.api_version}"
        yield problem(document, ("kind",), message, help="install the controller that brings it, or leave it out")
    elif siblings and group not in PARTIAL_GROUPS:
        near = nearest(document.kind, {kind.rpartition("/")[2] for kind in siblings})
        yield problem(
            document,
            ("kind",),
            f"{document.api_version} has no kind {document.kind!r}" + (f"; did you mean {near!r}?" if near else ""),
        )


def served_kinds(context: Context) -> frozenset[str] | None:
    """What the cluster serves, as `group/version/Kind`; None where nobody says."""
    if context.schema is not None:
        return context.schema.known
    if context.fleet is None or context.fleet.kinds_served is None:
        return None
    if "served" not in context.memo:
        context.memo["served"] = frozenset(kind.lstrip("/") for kind in context.fleet.kinds_served)
    served: frozenset[str] = context.memo["served"]
    return served


def is_served(document: Document, context: Context) -> bool | None:
    """Whether the cluster serves the document's kind; None where nobody says, or the run brings its definition."""
    served = served_kinds(context)
    if served is None:
        return None
    if document.type_name in served:
        return True
    return None if _is_brought(document, context) or _is_no_object(document) else False


def _is_no_object(document: Document) -> bool:
    """Whether it is a file of a tool's own, which no API server sees."""
    return look.group(document).endswith(("kustomize.config.k8s.io", "config.k8s.io")) or (
        document.type_name in {"v1/List", "v1/Config"}
    )


def _is_brought(document: Document, context: Context) -> bool:
    return any(
        one.kind == "CustomResourceDefinition"
        and look.text(one.obj, ("spec", "group")) == look.group(document)
        and look.text(one.obj, ("spec", "names", "kind")) == document.kind
        for one in context.documents
    )


@rule(
    id="IL006",
    name="not-in-this-version",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="a field or kind that the cluster's version of Kubernetes does not have",
    why="A field that came with a later version is refused by kubectl and dropped by others; one that was taken away "
    "likewise. The version is the fleet's, or what --kubernetes-version says; without one nothing is claimed.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  hostnameOverride: llama
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  hostname: llama
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
""",
    sources=(
        Source("https://kubernetes.io/docs/reference/using-api/deprecation-policy/", "what goes, and when"),
        STRICT,
    ),
    options={"kubernetes_version": (1, 33)},
)
def not_in_this_version(document: Document, context: Context) -> Iterator[Problem]:
    for mistake in _told(document, context, Wrong.VERSION):
        yield _problem(document, mistake)
    table, version = schema.load_all(), context.kubernetes_version
    if version is None or removal(document) is not None or is_served(document, context) is not None:
        return
    since, until = table.since.get(document.type_name), table.until.get(document.type_name)
    said = f"{document.kind} of {document.api_version} is in Kubernetes"
    if since is not None and version < (1, since):
        yield problem(document, ("apiVersion",), f"{said} 1.{since} and newer, not in 1.{version[1]}")
    elif until is not None and version > (1, until):
        others = sorted(
            kind.rpartition("/")[0]
            for kind in table.known
            if kind.endswith(f"/{document.kind}")
            and kind.startswith(f"{look.group(document)}/")
            and version >= (1, table.since.get(kind, 0))
            and (kind not in table.until or version <= (1, table.until[kind]))
        )
        yield problem(
            document,
            ("apiVersion",),
            f"{said} up to 1.{until}, not in 1.{version[1]}",
            help=f"it is in {' and '.join(others)} there" if others else "",
        )


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
