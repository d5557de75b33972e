"""ClusterQueues: what Kueue's webhook refuses, and what it accepts and never admits anything by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.check import edits, look
from ironloom.check.fields import is_part
from ironloom.check.finding import Patch, Severity
from ironloom.check.kueue import amount, is_kind
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path

WEBHOOK = Source(
    "https://github.com/kubernetes-sigs/kueue/blob/main/pkg/webhooks/clusterqueue_webhook.go", "what it refuses"
)
TYPES = Source(
    "https://github.com/kubernetes-sigs/kueue/blob/main/apis/kueue/v1beta2/clusterqueue_types.go",
    "rules of the definition",
)
DOCS = "https://kueue.sigs.k8s.io/docs/concepts/"
_QUEUE = """\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ClusterQueue
metadata:
  name: team-a
spec:
  namespaceSelector: {{}}{spec}
  resourceGroups:
  - coveredResources: [{covered}]
    flavors:
    - name: h100
      resources:
      - name: cpu
        nominalQuota: 512
      - name: nvidia.com/gpu
        nominalQuota: 64{quota}
"""


def _queue(spec: str = "", covered: str = "cpu, nvidia.com/gpu", quota: str = "") -> str:
    return _QUEUE.format(spec=spec, covered=covered, quota=quota)


def _cohort(document: Document) -> str:
    return look.text(document.obj, ("spec", "cohortName")) or look.text(document.obj, ("spec", "cohort"))


def _quotas(document: Document) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Each resource of each flavor of a ClusterQueue, with its path."""
    for i, group in enumerate(look.entries(document.obj, ("spec", "resourceGroups"))):
        for j, flavor in enumerate(look.entries(group, ("flavors",))):
            for k, one in enumerate(look.entries(flavor, ("resources",))):
                if isinstance(one, Mapping):
                    yield ("spec", "resourceGroups", i, "flavors", j, "resources", k), one


@rule(
    id="IL620",
    name="limit-without-cohort",
    family="queue",
    severity=Severity.ERROR,
    subject=Document,
    summary="a borrowing or lending limit in a ClusterQueue of no cohort",
    why="Queues borrow from and lend to their cohort. Without one the limits have no meaning, and the API server "
    "refuses the ClusterQueue.",
    bad=_queue(quota="\n        borrowingLimit: 32"),
    good=_queue(spec="\n  cohortName: research", quota="\n        borrowingLimit: 32"),
    sources=(TYPES, Source(f"{DOCS}cluster_queue/#borrowinglimit", "what may be borrowed, and of whom")),
)
def limit_without_cohort(document: Document, _context: Context) -> Iterator[Problem]:
    if not is_kind(document, "ClusterQueue") or _cohort(document):
        return
    for path, one in _quotas(document):
        for key in ("borrowingLimit", "lendingLimit"):
            if one.get(key) is not None:
                yield problem(
                    document,
                    (*path, key),
                    f"{key} without a cohort is refused",
                    at_key=True,
                    help="name a cohort, or leave the limit out",
                )


@rule(
    id="IL621",
    name="quota-not-as-covered",
    family="queue",
    severity=Severity.ERROR,
    subject=Document,
    summary="a flavor whose resources are not the covered ones, in their order",
    why="Every flavor of a resource group has a quota of each of its coveredResources, in the same order. With one "
    "more, one fewer or another order Kueue refuses the ClusterQueue.",
    bad=_queue(covered="nvidia.com/gpu, cpu"),
    good=_queue(),
    sources=(WEBHOOK, TYPES),
)
def quota_not_as_covered(document: Document, _context: Context) -> Iterator[Problem]:
    if not is_kind(document, "ClusterQueue"):
        return
    for i, group in enumerate(look.entries(document.obj, ("spec", "resourceGroups"))):
        covered = look.entries(group, ("coveredResources",))
        for j, flavor in enumerate(look.entries(group, ("flavors",))):
            names = [look.text(one, ("name",)) for one in look.entries(flavor, ("resources",))]
            if not covered or names == covered:
                continue
            path: Path = ("spec", "resourceGroups", i, "flavors", j)
            yield problem(
                document,
                (*path, "resources"),
                f"the resources of flavor {look.text(flavor, ('name',))} are not the covered ones in their order",
                at_key=True,
                evidence=(f"covered: {', '.join(map(str, covered))}", f"the flavor's: {', '.join(names) or 'none'}"),
            )


@rule(
    id="IL622",
    name="lending-above-nominal",
    family="queue",
    severity=Severity.ERROR,
    subject=Document,
    summary="a ClusterQueue that lends more than it has",
    why="What a queue lends is of its own nominal quota. A lendingLimit above it is refused.",
    bad=_queue(spec="\n  cohortName: research", quota="\n        lendingLimit: 128"),
    good=_queue(spec="\n  cohortName: research", quota="\n        lendingLimit: 32"),
    sources=(WEBHOOK,),
)
def lending_above_nominal(document: Document, _context: Context) -> Iterator[Problem]:
    if not is_kind(document, "ClusterQueue"):
        return
    for path, one in _quotas(document):
        lent, nominal = amount(one.get("lendingLimit")), amount(one.get("nominalQuota"))
        if lent is not None and nominal is not None and lent > nominal:
            yield problem(
                document,
                (*path, "lendingLimit"),
                f"lendingLimit {one['lendingLimit']} is above nominalQuota {one['nominalQuota']}, and refused",
            )


@rule(
    id="IL623",
    name="preemption-contradicts-itself",
    family="queue",
    severity=Severity.ERROR,
    subject=Document,
    summary="borrowWithinCohort while reclaimWithinCohort is Never",
    why="A queue that may preempt while it borrows must be one that may reclaim: the API server refuses the pair. "
    "reclaimWithinCohort is Never where it is not written.",
    bad=_queue(spec="\n  cohortName: research\n  preemption:\n    borrowWithinCohort:\n      policy: LowerPriority"),
    good=_queue(
        spec="\n  cohortName: research\n  preemption:\n    reclaimWithinCohort: Any\n    borrowWithinCohort:\n"
        "      policy: LowerPriority"
    ),
    sources=(TYPES, Source(f"{DOCS}preemption/", "which preemptions there are")),
)
def preemption_contradicts_itself(document: Document, _context: Context) -> Iterator[Problem]:
    if not is_kind(document, "ClusterQueue"):
        return
    path: Path = ("spec", "preemption")
    policy = look.text(document.obj, (*path, "borrowWithinCohort", "policy"))
    if policy in ("", "Never") or look.text(document.obj, (*path, "reclaimWithinCohort")) not in ("", "Never"):
        return
    yield problem(
        document,
        (*path, "borrowWithinCohort", "policy"),
        f"borrowWithinCohort {policy} needs reclaimWithinCohort, which is Never",
        help="set reclaimWithinCohort: LowerPriority or Any",
    )


@rule(
    id="IL624",
    name="queue-of-no-namespace",
    family="queue",
    severity=Severity.WARNING,
    subject=Document,
    summary="a ClusterQueue without a namespaceSelector: it admits nothing",
    why="A selector that is not there is null, and null matches no namespace; {} matches all. Every workload of such a "
    "queue is inadmissible.",
    bad=_queue().replace("  namespaceSelector: {}\n", ""),
    good=_queue(),
    sources=(Source(f"{DOCS}cluster_queue/#namespace-selector", "{} is every namespace, null is none"),),
)
def queue_of_no_namespace(document: Document, _context: Context) -> Iterator[Problem]:
    if not is_kind(document, "ClusterQueue") or not look.mapping(document.obj, ("spec",)):
        return
    if look.at(document.obj, ("spec", "namespaceSelector")) is None:
        edit = edits.add_first(document, ("spec",), ["namespaceSelector: {}"])
        yield problem(
            document,
            ("spec",),
            "the ClusterQueue has no namespaceSelector: it admits workloads of no namespace",
            at_key=True,
            help="namespaceSelector: {} admits all",
            patch=Patch(title="admit all namespaces", edits=(edit,), is_safe=False) if edit is not None else None,
            # Others of its cohort may borrow what it has: it may be meant to admit nothing itself.
            severity=Severity.NOTE if _cohort(document) else None,
        )


@rule(
    id="IL634",
    name="fungibility-preference-alone",
    family="queue",
    severity=Severity.ERROR,
    subject=Document,
    summary="a preference between borrowing and preemption in a ClusterQueue that stops at the first flavor",
    why="preference says which flavor is best of all that were looked at. Kueue looks at all of them only with "
    "TryNextFlavor for whenCanBorrow and for whenCanPreempt, and the first is MayStopSearch by default: the API "
    "server refuses the preference without them.",
    bad="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ClusterQueue
metadata:
  name: team-a
spec:
  namespaceSelector: {}
  flavorFungibility:
    preference: PreemptionOverBorrowing
""",
    good="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ClusterQueue
metadata:
  name: team-a
spec:
  namespaceSelector: {}
  flavorFungibility:
    whenCanBorrow: TryNextFlavor
    whenCanPreempt: TryNextFlavor
    preference: PreemptionOverBorrowing
""",
    sources=(
        Source(
            "https://github.com/kubernetes-sigs/kueue/blob/main/apis/kueue/v1beta2/clusterqueue_types.go",
            "preference can only be set when both are TryNextFlavor",
        ),
    ),
)
def fungibility_preference_alone(document: Document, context: Context) -> Iterator[Problem]:
    path: Path = ("spec", "flavorFungibility")
    if document.kind != "ClusterQueue" or is_part(document, context):
        return
    said = look.mapping(document.obj, path)
    defaults = {"whenCanBorrow": "MayStopSearch", "whenCanPreempt": "TryNextFlavor"}
    stops = [name for name, default in defaults.items() if (said.get(name) or default) != "TryNextFlavor"]
    if look.group(document) == "kueue.x-k8s.io" and said.get("preference") and stops:
        yield problem(
            document,
            (*path, "preference"),
            f"preference needs TryNextFlavor for {' and '.join(stops)}",
            at_key=True,
            evidence=tuple(f"{name}: {said.get(name) or f'{defaults[name]} by default'}" for name in stops),
        )
