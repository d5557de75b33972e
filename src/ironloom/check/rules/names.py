"""Names, labels and selectors as the API server takes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.check import edits, look
from ironloom.check.fields import PLACEHOLDER, WITH_SELECTOR, is_known, is_part
from ironloom.check.finding import Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Workload

NAMES = Source(
    "https://kubernetes.io/docs/concepts/overview/working-with-objects/names/", "which names there may be, and how long"
)
LABELS = Source(
    "https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set",
    "keys and values of labels",
)
LABEL_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
"""RFC 1123: a container, a namespace, a volume."""
SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
MAX_SUBDOMAIN = 253
PORT_NAME = re.compile(r"(?!.*--)(?=[a-z0-9-]*[a-z])[a-z0-9](?:[-a-z0-9]{0,13}[a-z0-9])?")
"""RFC 6335: at most 15 letters, one of them no digit."""
ENV_NAME = re.compile(r"[ -<>-~]+")
"""Printable, without `=`; what a cluster older than 1.30 refuses beside it is let pass."""
QUALIFIED = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
FREE_GROUPS = frozenset({"rbac.authorization.k8s.io", "certificates.k8s.io"})
"""Groups whose objects' names may have colons."""
SHORT: Mapping[tuple[str, str], int] = {
    ("", "Namespace"): 63, ("", "Service"): 63, ("batch", "CronJob"): 52, ("batch", "Job"): 63,
}  # fmt: skip
"""Kinds whose names become labels, host names or parts of names, and are no longer than that."""


@rule(
    id="IL010",
    name="invalid-name",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="a name that the API server does not take",
    why="Names become host names and files: small letters, digits and dashes, 63 of them at most for a Service or a "
    "container, 253 with dots between for most objects, 15 for a port. Model names with capitals, dots or underscores "
    "are the common slip. The object is refused.",
    bad="""\
apiVersion: v1
kind: Service
metadata:
  name: Llama_3.1
spec:
  ports:
  - port: 80
""",
    good="""\
apiVersion: v1
kind: Service
metadata:
  name: llama-3-1
spec:
  ports:
  - port: 80
""",
    sources=(
        NAMES,
        Source("https://github.com/kserve/kserve/issues/1059", "an InferenceService whose name begins with a digit"),
        Source("https://github.com/llm-d/llm-d-model-service/issues/77", "a Service named after a model, with a dot"),
        Source(
            "https://github.com/kubeflow/trainer/blob/v2.3.0/pkg/apis/trainer/v1alpha1/trainjob_types.go",
            "a TrainJob's name is a DNS label of RFC 1035",
        ),
    ),
)
def invalid_name(document: Document, context: Context) -> Iterator[Problem]:
    if not is_known(document, context):
        return
    name, group = look.text(document.obj, ("metadata", "name")), look.group(document)
    if name and group not in FREE_GROUPS and not PLACEHOLDER.search(name):
        longest = SHORT.get((group, document.kind), MAX_SUBDOMAIN)
        is_label = longest == 63 and document.kind in {"Namespace", "Service"}
        shape = LABEL_NAME if is_label else SUBDOMAIN
        if len(name) > longest or not shape.fullmatch(name):
            yield _name(document, ("metadata", "name"), name, longest, "" if is_label else ", with dots between")
    if document.type_name == "serving.kserve.io/v1beta1/InferenceService" and re.match(r"[0-9]", name):
        yield problem(
            document,
            ("metadata", "name"),
            f"the name {name!r} of an InferenceService must begin with a letter: KServe refuses it",
        )
    is_host = len(name) <= 63 and "." not in name and name[:1].isalpha()
    if document.kind == "TrainJob" and SUBDOMAIN.fullmatch(name) and not is_host and not PLACEHOLDER.search(name):
        message = f"the name {name!r} of a TrainJob is no host name: a letter first, no dot, 63 characters at most"
        yield problem(document, ("metadata", "name"), message)


def _name(document: Document, path: Path, name: str, longest: int, more: str) -> Problem:
    if len(name) > longest:
        said = f"the name {name[:40]!r}… has {len(name)} characters, and {document.kind} takes {longest}"
    else:
        said = f"the name {name!r} must be small letters, digits and dashes{more}, and begin and end with no dash"
    return problem(document, path, said)


@rule(
    id="IL011",
    name="invalid-part-name",
    family="schema",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a container, volume, port or variable with a name that is refused",
    why="Containers and volumes take small letters, digits and dashes, 63 at most; a port's name takes 15 of them, and "
    "one must be a letter. `http_metrics` and `prometheus-metrics` are refused, and the pods with them.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    ports:
    - name: prometheus-metrics
      containerPort: 8000
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
    ports:
    - name: metrics
      containerPort: 8000
""",
    sources=(
        NAMES,
        Source("https://datatracker.ietf.org/doc/html/rfc6335#section-5.1", "names of services: 15 characters"),
    ),
)
def invalid_part_name(workload: Workload, _context: Context) -> Iterator[Problem]:
    document = workload.document
    for path, name, what, shape, is_wanted in _parts(workload):
        if name and not PLACEHOLDER.search(name) and not shape.fullmatch(name):
            yield problem(document, (*path, "name"), f"the {what} name {name[:80]!r} must be {is_wanted}")


_LABEL_SAID = "small letters, digits and dashes, at most 63, no dash at the ends"
_PORT_SAID = "small letters, digits and single dashes, at most 15, one of them a letter"


def _parts(workload: Workload) -> Iterator[tuple[Path, str, str, re.Pattern[str], str]]:
    """Every named part that is written in the document: its path, name, what it is, the shape it must have."""
    obj = workload.document.obj
    for pod_set in workload.pod_sets:
        for list_name, what in (("containers", "container"), ("initContainers", "container"), ("volumes", "volume")):
            for index, part in enumerate(look.entries(obj, (*pod_set.path, list_name))):
                path: Path = (*pod_set.path, list_name, index)
                yield path, look.text(part, ("name",)), what, LABEL_NAME, _LABEL_SAID
                if what == "volume":
                    continue
                for number, port in enumerate(look.entries(part, ("ports",))):
                    yield (*path, "ports", number), look.text(port, ("name",)), "port", PORT_NAME, _PORT_SAID
                for number, variable in enumerate(look.entries(part, ("env",))):
                    name = look.text(variable, ("name",))
                    yield (*path, "env", number), name, "variable's", ENV_NAME, "printable characters without `=`"


@rule(
    id="IL012",
    name="invalid-label",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="a label or annotation key, or a label's value, that is refused",
    why="A label's value has at most 63 letters, digits, dashes, dots and underscores, and a slash is none of them: a "
    "hub name such as `meta-llama/Llama-3.1-8B` cannot stand there. A key may have one slash, after a domain. "
    "Annotations take any value.",
    bad="""\
apiVersion: v1
kind: Service
metadata:
  name: llama
  labels:
    model: meta-llama/Llama-3.1-8B
spec:
  ports:
  - port: 80
""",
    good="""\
apiVersion: v1
kind: Service
metadata:
  name: llama
  labels:
    model: Llama-3.1-8B
  annotations:
    model: meta-llama/Llama-3.1-8B
spec:
  ports:
  - port: 80
""",
    sources=(
        LABELS,
        Source(
            "https://github.com/llm-d/llm-d-model-service/issues/72", "a hub name as a label: refused for its slash"
        ),
    ),
)
def invalid_label(document: Document, context: Context) -> Iterator[Problem]:
    if not is_known(document, context):
        return
    for path in _label_places(document, context):
        for key, value in look.mapping(document.obj, path).items():
            is_annotation = path[-1] == "annotations"
            wrong = _wrong_key(key.lower() if is_annotation else key)
            if wrong and not PLACEHOLDER.search(key):
                yield problem(document, (*path, key), f"the key {key!r} {wrong}", at_key=True)
            if is_annotation or not isinstance(value, str) or PLACEHOLDER.search(value):
                continue
            if len(value) > 63:
                yield problem(document, (*path, key), f"the value of {key} has {len(value)} characters, at most 63 go")
            elif value and not QUALIFIED.fullmatch(value):
                said = "must be letters, digits, '-', '_' and '.', with a letter or digit at both ends"
                yield problem(document, (*path, key), f"{key} = {value!r} {said}")


def _label_places(document: Document, context: Context) -> Iterator[Path]:
    """Mappings of a document whose keys, and but for annotations values, are labels."""
    yield ("metadata", "labels")
    yield ("metadata", "annotations")
    if document.type_name == "v1/Service":
        yield ("spec", "selector")
    if document.kind in WITH_SELECTOR:
        yield ("spec", "selector", "matchLabels")
    seen: set[Path] = {("metadata",)}
    for workload in context.made_by(document):
        for pod_set in workload.pod_sets:
            yield (*pod_set.path, "nodeSelector")
            if pod_set.metadata_path not in seen:
                seen.add(pod_set.metadata_path)
                yield (*pod_set.metadata_path, "labels")
                yield (*pod_set.metadata_path, "annotations")


def _wrong_key(key: str) -> str:
    prefix, slash, name = key.rpartition("/")
    if slash and (not SUBDOMAIN.fullmatch(prefix) or len(prefix) > MAX_SUBDOMAIN):
        return "must have a domain before its one slash"
    if not QUALIFIED.fullmatch(name):
        return "must be at most 63 letters, digits, '-', '_' and '.', after an optional domain and slash"
    return ""


@rule(
    id="IL013",
    name="selector-matches-not-its-own",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="a selector that does not match its own template's labels",
    why="The API server refuses a Deployment, StatefulSet or DaemonSet whose selector does not select the pods of its "
    "template: it would make pods without end and find none of them.",
    bad="""\
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
        app: llama3
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
            "it must match the labels of the template, or the API server refuses it",
        ),
    ),
)
def selector_matches_not_its_own(document: Document, context: Context) -> Iterator[Problem]:
    if look.group(document) != "apps" or document.kind not in WITH_SELECTOR or is_part(document, context):
        return
    wanted = look.mapping(document.obj, ("spec", "selector", "matchLabels"))
    labels = look.mapping(document.obj, ("spec", "template", "metadata", "labels"))
    path: Path = ("spec", "template", "metadata", "labels")
    for key, value in wanted.items():
        if key not in labels:
            patch = _add_label(document, path, key, value) if labels else None
            message = f"the template has no label {key}, which the selector wants"
            yield problem(document, path, message, at_key=bool(labels), patch=patch)
        elif labels[key] != value and isinstance(value, str) and isinstance(labels[key], str):
            edit = edits.replace(document, (*path, key), edits.scalar(value))
            yield problem(
                document,
                (*path, key),
                f"the template's label {key} is {labels[key]!r}, and the selector wants {value!r}",
                patch=Patch(title=f"label the pods {key}: {value}", edits=(edit,), is_safe=False) if edit else None,
            )
    if "selector" in look.mapping(document.obj, ("spec",)) and not look.mapping(document.obj, ("spec", "selector")):
        yield problem(document, ("spec", "selector"), "an empty selector is refused: it must name a label", at_key=True)


def _add_label(document: Document, path: Path, key: str, value: Any) -> Patch | None:
    if not value or not isinstance(value, str) or not isinstance(key, str):
        return None
    edit = edits.add_first(document, path, [f"{edits.scalar(key)}: {edits.scalar(value)}"])
    return Patch(title=f"label the pods {key}: {value}", edits=(edit,)) if edit is not None else None
