"""Whether there is such a kind: in its API group, in this cluster, in this version of Kubernetes."""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.check import edits, look
from ironloom.check.fields import KUSTOMIZE_BUILTIN, is_served, mistakes, served_kinds
from ironloom.check.finding import Confidence, Patch, Severity
from ironloom.check.removed import removal
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.manifests import schema
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Wrong
from ironloom.workload.manifests.suggest import nearest, within_one

PARTIAL_GROUPS = frozenset({"kubeflow.org", "autoscaling.x-k8s.io", "inference.networking.x-k8s.io"})
"""Groups that several projects share: a kind that the tables do not have may be another's. One that is a letter off a
kind that they have is still told, as what it may be."""
MADE_PLAIN = frozenset(
    {
        ("serving.kserve.io", "InferenceService"),
        ("serving.kserve.io", "LLMInferenceService"),
        ("trainer.kubeflow.org", "TrainJob"),
        ("jobset.x-k8s.io", "JobSet"),
        ("kubeflow.org", "PyTorchJob"),
    }
)
"""Kinds that `ironloom apply` makes of Kubernetes' own ones where their controller is not there."""


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
    if document.api_version == KUSTOMIZE_BUILTIN:
        return
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
        yield problem(document, ("kind",), message, help=_without_its_controller(group, document.kind))
    elif siblings:
        kinds = {kind.rpartition("/")[2] for kind in siblings}
        near = nearest(document.kind, kinds)
        if group in PARTIAL_GROUPS:
            meant = within_one(document.kind, kinds)
            if meant:
                said = f"no kind {document.kind!r} of {document.api_version} is known; did you mean {meant!r}?"
                yield problem(document, ("kind",), said, severity=Severity.WARNING, confidence=Confidence.LIKELY)
            return
        yield problem(
            document,
            ("kind",),
            f"{document.api_version} has no kind {document.kind!r}" + (f"; did you mean {near!r}?" if near else ""),
        )


def _without_its_controller(group: str, kind: str) -> str:
    """What to do about a kind that the cluster has not."""
    if (group, kind) in MADE_PLAIN:
        return "`ironloom apply -f FILE --context NAME` runs it there as plain kinds; or install its controller"
    return "install the controller that brings it, or leave it out"


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
        Source(
            "https://kubernetes.io/docs/reference/using-api/api-concepts/#setting-the-field-validation-level",
            "what happens to a field that is not known",
        ),
    ),
    options={"kubernetes_version": (1, 33)},
)
def not_in_this_version(document: Document, context: Context) -> Iterator[Problem]:
    for mistake in mistakes(document, context):
        if mistake.wrong is Wrong.VERSION:
            yield problem(document, mistake.path, mistake.message, at_key=True)
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
