"""A document against the table of its kind, once a run, and what the cluster says that it serves.

What stands here is what several rules ask alike; no rule stands here.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping

from ironloom.check import look
from ironloom.check.rule import Context
from ironloom.workload.manifests import schema
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Mistake, Schema, Wrong

PLACEHOLDER = re.compile(
    r"\$\{|\{\{|\$\(|\$[A-Z_]{2}|^<[^>]*>$|%[A-Z_]+%|(?<![A-Za-z0-9])[A-Z]{2,}(?:_[A-Z0-9]+)+(?![A-Za-z0-9])"
)
"""A word of a template that something fills in before the API server sees it."""
_PATCH_NAME = re.compile(r"(?:^|[-_.])patch(?:es)?(?:[-_.]|$)", re.I)
_POD_TEMPLATE = re.compile(r"(?:pod|driver|executor)[-_.]?templates?(?:[-_.]|$)", re.I)
_OF_SPARK = frozenset({"spark-kubernetes-driver", "spark-kubernetes-executor"})
DIRECTIVES = ("$patch", "$retainKeys", "$setElementOrder/", "$deleteFromPrimitiveList/")
"""Keys by which a patch says what it does.

Source: https://github.com/kubernetes/community/blob/main/contributors/devel/sig-api-machinery/strategic-merge-patch.md
"""
KUSTOMIZE = "kustomize.config.k8s.io"
KUSTOMIZE_BUILTIN = "builtin"
"""The apiVersion of kustomize's own generators and transformers."""
WITH_SELECTOR = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"})
"""Kinds of the group apps whose selector must match their own template."""


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
        if not (part and mistake.wrong is Wrong.MISSING)
        and not is_to_be_filled(document, mistake)
        and not (mistake.wrong is Wrong.UNKNOWN and str(mistake.path[-1]).startswith(DIRECTIVES))
    ]


def is_to_be_filled(document: Document, mistake: Mistake) -> bool:
    """Whether the value is a word of a template, which something fills in before the API server sees it."""
    if mistake.wrong not in (Wrong.TYPE, Wrong.VALUE):
        return False
    value = look.at(document.obj, mistake.path)
    return isinstance(value, str) and PLACEHOLDER.search(value) is not None


def is_part(document: Document, context: Context) -> bool:
    """Whether the document is a part of an object: one that a Kustomization of the run lays over another, that is
    called a patch by the name of its file or folder, or by itself, or that has so little that it can be nothing
    else; or that a program makes pods of.
    """
    *_, folder, name = "", *document.file.split("/")
    if _PATCH_NAME.search(name) or _PATCH_NAME.search(folder) or DIRECTIVES[0] in document.obj:
        return True
    if "patches" not in context.memo:
        context.memo["patches"] = frozenset(
            posixpath.normpath(posixpath.join(posixpath.dirname(one.file), path))
            for one in context.documents
            if look.group(one) == KUSTOMIZE
            for path in _patch_files(one)
        )
    return (
        posixpath.normpath(document.file) in context.memo["patches"] or _is_bare(document) or _is_pod_template(document)
    )


def _is_bare(document: Document) -> bool:
    """Whether a workload has containers, and neither a selector nor any image: it is laid over one that has both, by a
    Kustomization that is not among the files."""
    spec = document.obj.get("spec")
    if document.kind not in WITH_SELECTOR or look.group(document) != "apps" or not isinstance(spec, dict):
        return False
    containers = look.entries(spec, ("template", "spec", "containers"))
    return bool(containers) and "selector" not in spec and not any(look.at(one, ("image",)) for one in containers)


def _is_pod_template(document: Document) -> bool:
    """Whether it is a Pod that Spark, or another program, fills images and containers into: none of its containers has
    an image, and it is called a template by its file or folder, or a container has the name that Spark looks for.

    Sources: https://spark.apache.org/docs/latest/running-on-kubernetes.html#pod-template,
    https://docs.aws.amazon.com/emr/latest/EMR-on-EKS-DevelopmentGuide/pod-templates.html.
    """
    if document.type_name != "v1/Pod":
        return False
    containers = look.entries(document.obj, ("spec", "containers"))
    if any(look.at(one, ("image",)) for one in containers):
        return False
    parts = document.file.split("/")[-2:]
    return any(_POD_TEMPLATE.search(part) for part in parts) or any(
        look.text(one, ("name",)) in _OF_SPARK for one in containers
    )


def _patch_files(kustomization: Document) -> Iterator[str]:
    for entry in look.entries(kustomization.obj, ("patches",)):
        yield look.text(entry, ("path",))
    for entry in look.entries(kustomization.obj, ("patchesStrategicMerge",)):
        if isinstance(entry, str):
            yield entry


def is_selected_later(document: Document, context: Context) -> bool:
    """Whether a Kustomization of the run puts selectors into the document, and the labels that they select.

    Source: https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/labels/, includeSelectors, and
    commonLabels before it.
    """
    if "selected" not in context.memo:
        kustomizations = {
            posixpath.normpath(posixpath.dirname(one.file)): one
            for one in context.documents
            if look.group(one) == KUSTOMIZE and one.kind in {"Kustomization", "Component"}
        }
        context.memo["selected"] = frozenset(
            path
            for folder, one in kustomizations.items()
            if _puts_selectors(one)
            for path in _resources(folder, kustomizations, set())
        )
    return posixpath.normpath(document.file) in context.memo["selected"]


def _puts_selectors(kustomization: Document) -> bool:
    entries = look.entries(kustomization.obj, ("labels",))
    is_meant = any(isinstance(one, dict) and one.get("includeSelectors") is True for one in entries)
    return is_meant or bool(look.mapping(kustomization.obj, ("commonLabels",)))


def _resources(folder: str, kustomizations: Mapping[str, Document], seen: set[str]) -> Iterator[str]:
    """The files that the Kustomization of a folder takes, and those that it takes them from do."""
    seen.add(folder)
    listed = [look.entries(kustomizations[folder].obj, (key,)) for key in ("resources", "bases")]
    for one in (one for entries in listed for one in entries):
        path = posixpath.normpath(posixpath.join(folder, one)) if isinstance(one, str) else folder
        if path not in kustomizations:
            yield path
        elif path not in seen:
            yield from _resources(path, kustomizations, seen)


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
    return (
        look.group(document).endswith(("kustomize.config.k8s.io", "config.k8s.io"))
        or document.type_name in {"v1/List", "v1/Config"}
        or document.api_version == KUSTOMIZE_BUILTIN
    )


def _is_brought(document: Document, context: Context) -> bool:
    return any(
        one.kind == "CustomResourceDefinition"
        and look.text(one.obj, ("spec", "group")) == look.group(document)
        and look.text(one.obj, ("spec", "names", "kind")) == document.kind
        for one in context.documents
    )
