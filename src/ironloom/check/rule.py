"""A rule: a pure function that looks at one subject and says what is wrong, with all that a reader wants to know of it.

    @rule(
        id="IL204",
        name="topology-key-unknown",
        family="topology",
        severity=Severity.ERROR,
        subject=Workload,
        summary="a required topology key that no node has",
        why="…", bad="…yaml…", good="…yaml…",
        sources=(Source("https://github.com/kubernetes-sigs/kueue/issues/4329", "what it shows"),),
    )
    def topology_key_unknown(workload: Workload, context: Context) -> Iterator[Problem]:
        ...
        yield problem(workload.document, path, "message", evidence=(…,), edits=…)

A rule reads nothing but its arguments: no clock, no file, no network. With `context.fleet` None it says what can be
said without one. Rules are collected by `check.registry` from the modules of check/rules/, one a family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import msgspec

from ironloom.check.finding import Confidence, Patch, Severity
from ironloom.fleet.model import Fleet
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.nodes import Place
from ironloom.workload.manifests.schema import Path, Schema, path_text
from ironloom.workload.workload import PodSet, Workload

if TYPE_CHECKING:
    from ironloom.catalog.accelerators import Accelerator
    from ironloom.workload.scripts.model import Script
    from ironloom.workload.shapes.model import ModelShape


class Source(msgspec.Struct, frozen=True):
    """A thread or a document that justifies a rule."""

    url: str
    shows: str
    """What of it: half a sentence."""


class Context(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Everything beside its subject that a rule may look at."""

    documents: tuple[Document, ...] = ()
    """All documents of the run, the ones of kinds that are only context (Service, ConfigMap, …) among them."""
    workloads: tuple[Workload, ...] = ()
    scripts: tuple[Script, ...] = ()
    fleet: Fleet | None = None
    accelerator: Accelerator | None = None
    """What `--accelerator` names, for fits without a fleet."""
    kubernetes_version: tuple[int, int] | None = None
    """(1, 36): the fleet's, or what was asked for; None for no claim."""
    schema: Schema | None = None
    """The kinds and fields of the cluster that is checked against; None takes the tables that come with the package."""
    shapes: Callable[[str], ModelShape | None] = lambda _model: None
    """The shape of a model by hub name, URI or folder; None where it is not known offline."""
    refusals: Callable[[str], str] = lambda _model: ""
    """Why a model has no shape, where something says what it is; empty for others."""

    @cached_property
    def memo(self) -> dict[Any, Any]:
        """What several rules work out alike, by a key of theirs: worked out once a run."""
        return {}

    def named(self, kind: str, name: str, namespace: str) -> Document | None:
        """The document of this run with that kind and name; a document without a namespace is in any."""
        for document in self._by_name.get((kind, name), ()):
            if not namespace or _namespace(document) in {None, namespace}:
                return document
        return None

    def nearest(self, kind: str, name: str, namespace: str, file: str) -> Document | None:
        """As `named`, of a run that has several of the name, as a folder of examples has: the one of the file, or of
        the nearest folder; None where that has several too."""
        found = [
            one for one in self._by_name.get((kind, name), ()) if not namespace or _namespace(one) in {None, namespace}
        ]
        near = [(_num_shared(one.file, file), one) for one in found]
        most = max((shared for shared, _ in near), default=0)
        nearest = [one for shared, one in near if shared == most]
        return nearest[0] if len(nearest) == 1 else None

    def made_by(self, document: Document) -> Sequence[Workload]:
        """The workloads that a document of this run asks for."""
        return self._by_document.get(id(document), ())

    def workloads_named(self, kind: str, name: str) -> Sequence[Workload]:
        """The workloads of this run with that kind and name, in any namespace."""
        return self._workloads_by_name.get((kind, name), ())

    def pods_with(self, labels: Mapping[str, object]) -> Iterator[tuple[Workload, PodSet]]:
        """The sets of pods of this run that have all of these labels; none where there are no labels."""
        wanted = list(labels.items())
        if wanted and all(isinstance(value, str) for _, value in wanted):
            of_each = [self._by_label.get(item, ()) for item in wanted]
            for workload, pod_set in min(of_each, key=len):
                if all(pod_set.labels.get(key) == value for key, value in wanted):
                    yield workload, pod_set

    @cached_property
    def _by_document(self) -> Mapping[int, Sequence[Workload]]:
        found: dict[int, list[Workload]] = {}
        for workload in self.workloads:
            found.setdefault(id(workload.document), []).append(workload)
        return found

    @cached_property
    def _workloads_by_name(self) -> Mapping[tuple[str, str], Sequence[Workload]]:
        found: dict[tuple[str, str], list[Workload]] = {}
        for workload in self.workloads:
            found.setdefault((workload.kind, workload.name), []).append(workload)
        return found

    @cached_property
    def _by_label(self) -> Mapping[tuple[str, object], Sequence[tuple[Workload, PodSet]]]:
        found: dict[tuple[str, object], list[tuple[Workload, PodSet]]] = {}
        for workload in self.workloads:
            for pod_set in workload.pod_sets:
                for item in pod_set.labels.items():
                    found.setdefault(item, []).append((workload, pod_set))
        return found

    @cached_property
    def _by_name(self) -> Mapping[tuple[str, str], Sequence[Document]]:
        found: dict[tuple[str, str], list[Document]] = {}
        for document in self.documents:
            found.setdefault((document.kind, document.name), []).append(document)
        return found


def _namespace(document: Document) -> object:
    metadata = document.obj.get("metadata")
    return metadata.get("namespace") if isinstance(metadata, dict) else None


def _num_shared(a: str, b: str) -> int:
    """How many parts the paths of two files begin with alike; one more for the same file than for its neighbour."""
    pairs = zip((*a.split("/"), ""), (*b.split("/"), ""), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule found, before it is placed and named: see `Finding`."""

    file: str
    place: Place
    path: str
    subject: str
    message: str
    evidence: tuple[str, ...] = ()
    help: str = ""
    patch: Patch | None = None
    severity: Severity | None = None
    """None takes the rule's."""
    confidence: Confidence = Confidence.CERTAIN


Check = Callable[[Any, Context], Iterator[Problem]]


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A rule with its words. `bad` must fire it and `good` must not: a test runs both."""

    id: str
    name: str
    """A stable name in kebab-case."""
    family: str
    severity: Severity
    subject: type
    """What it looks at: Workload, Document, Script, or Context for the run as a whole (its `check` gets it twice)."""
    summary: str
    """Half a sentence, for lists."""
    why: str
    """What happens, and what it costs; a paragraph."""
    bad: str
    """An example that it finds, complete (YAML or Python)."""
    good: str
    """The same, mended."""
    sources: tuple[Source, ...]
    check: Check
    needs_fleet: bool = False
    example_fleet: Callable[[], Fleet] | None = None
    """The fleet that the examples are checked against."""
    options: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """Of the Context for the examples: `accelerator`, `kubernetes_version`."""


RULES: dict[str, Rule] = {}
"""By id; filled as the modules of check/rules are imported."""


def rule(**words: Any) -> Callable[[Check], Check]:
    """Register a rule; see the module. Raises ValueError for an id that is taken."""

    def register(check: Check) -> Check:
        made = Rule(check=check, **words)
        if made.id in RULES:
            raise ValueError(f"the rule id {made.id} is taken by {RULES[made.id].name}")
        RULES[made.id] = made
        return check

    return register


def problem(
    document: Document,
    path: Path,
    message: str,
    *,
    at_key: bool = False,
    evidence: tuple[str, ...] = (),
    help: str = "",  # noqa: A002 (what it is)
    patch: Patch | None = None,
    severity: Severity | None = None,
    confidence: Confidence = Confidence.CERTAIN,
) -> Problem:
    """A problem at a path of a document: at the value; at the key of a mapping or list that is written over lines
    below it; for what is absent, at the nearest part above that is there."""
    place = document.positions.key(path) if at_key else _place(document, path)
    metadata = document.obj.get("metadata") or {}
    namespace = metadata.get("namespace") if isinstance(metadata, dict) else None
    name = f"{namespace}/{document.name}" if namespace else document.name
    return Problem(
        file=document.file,
        place=place,
        path=path_text(path),
        subject=f"{document.kind} {name}".strip(),
        message=message,
        evidence=evidence,
        help=help,
        patch=patch,
        severity=severity,
        confidence=confidence,
    )


def _place(document: Document, path: Path) -> Place:
    """Where a reader is to look for what stands, or should stand, at a path."""
    obj: Any = document.obj
    there = 0
    for step in path:
        if isinstance(obj, dict):
            is_in = step in obj
        else:
            is_in = isinstance(obj, list) and isinstance(step, int) and 0 <= step < len(obj)
        if not is_in:
            break
        obj, there = obj[step], there + 1
    path = path[:there]
    place = document.positions.value(path)
    is_over_lines = isinstance(obj, dict | list) and document.text[place.start : place.start + 1] not in {"{", "["}
    return document.positions.key(path) if is_over_lines and path else place
