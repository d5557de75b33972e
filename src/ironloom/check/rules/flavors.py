"""ResourceFlavors and Topologies: whether they are taken, and whether nodes have what they name."""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.check import look
from ironloom.check.finding import Severity
from ironloom.check.kueue import is_kind
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules import examples
from ironloom.check.rules.cluster_queues import DOCS
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.manifests.suggest import nearest

HOST = "kubernetes.io/hostname"


@rule(
    id="IL625",
    name="flavor-on-no-node",
    family="queue",
    severity=Severity.WARNING,
    subject=Document,
    summary="a ResourceFlavor whose labels no node has",
    why="Kueue counts quota, not nodes: it admits a workload into the flavor and adds its labels to the pods as a "
    "selector. On no node are they found, so the pods are Pending and hold the quota.",
    bad="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ResourceFlavor
metadata:
  name: h100
spec:
  nodeLabels:
    node.kubernetes.io/instance-type: gd-8xh100-i128
""",
    good="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ResourceFlavor
metadata:
  name: h100
spec:
  nodeLabels:
    node.kubernetes.io/instance-type: gd-8xh100ib-i128
""",
    sources=(Source(f"{DOCS}resource_flavor/", "the flavor's labels become a selector of the pods"),),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(*examples.leaf_groups(a=2)),
)
def flavor_on_no_node(document: Document, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    labels = look.mapping(document.obj, ("spec", "nodeLabels"))
    if fleet is None or not fleet.nodes or not labels or not is_kind(document, "ResourceFlavor"):
        return
    if any(labels.items() <= node.labels.items() for node in fleet.nodes) or any(
        pool.num_more != 0 for pool in fleet.pools
    ):
        return
    counts = {key: sum(1 for node in fleet.nodes if node.labels.get(key) == value) for key, value in labels.items()}
    key = min(counts, key=lambda one: counts[one])
    near = nearest(str(labels[key]), {node.labels[key] for node in fleet.nodes if key in node.labels})
    yield problem(
        document,
        ("spec", "nodeLabels", key),
        f"no node has the labels of flavor {document.name}: what is admitted into it stays Pending",
        evidence=tuple(f"{one}={labels[one]}: {count} of {len(fleet.nodes)} nodes" for one, count in counts.items()),
        help=f"did you mean {near}?" if near and near != labels[key] else "",
    )


@rule(
    id="IL626",
    name="topology-flavor-without-labels",
    family="queue",
    severity=Severity.ERROR,
    subject=Document,
    summary="a ResourceFlavor with a topology and without node labels",
    why="The labels say which nodes the topology is of. Without at least one the API server refuses the flavor.",
    bad="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ResourceFlavor
metadata:
  name: h100
spec:
  topologyName: infiniband
""",
    good="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ResourceFlavor
metadata:
  name: h100
spec:
  nodeLabels:
    backend.coreweave.cloud/flavor: infiniband
  topologyName: infiniband
""",
    sources=(
        Source(
            "https://github.com/kubernetes-sigs/kueue/blob/main/apis/kueue/v1beta2/resourceflavor_types.go",
            "at least one nodeLabel is required when topology is set",
        ),
    ),
)
def topology_flavor_without_labels(document: Document, _context: Context) -> Iterator[Problem]:
    if not is_kind(document, "ResourceFlavor") or not look.text(document.obj, ("spec", "topologyName")):
        return
    if not look.mapping(document.obj, ("spec", "nodeLabels")):
        yield problem(
            document,
            ("spec", "topologyName"),
            "a flavor with a topology needs at least one of nodeLabels",
            at_key=True,
        )


@rule(
    id="IL627",
    name="topology-levels-wrong",
    family="queue",
    severity=Severity.ERROR,
    subject=Document,
    summary="a Topology with a level twice, or with the host above another level",
    why="Levels stand from coarse to fine. The host can only be the last, and no label may stand twice: the API server "
    "refuses it otherwise.",
    bad="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: Topology
metadata:
  name: infiniband
spec:
  levels:
  - nodeLabel: kubernetes.io/hostname
  - nodeLabel: backend.coreweave.cloud/leafgroup
""",
    good="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: Topology
metadata:
  name: infiniband
spec:
  levels:
  - nodeLabel: backend.coreweave.cloud/leafgroup
  - nodeLabel: kubernetes.io/hostname
""",
    sources=(
        Source(
            "https://github.com/kubernetes-sigs/kueue/blob/main/apis/kueue/v1beta2/topology_types.go",
            "rules of the definition",
        ),
    ),
)
def topology_levels_wrong(document: Document, _context: Context) -> Iterator[Problem]:
    if not is_kind(document, "Topology"):
        return
    levels = [look.text(one, ("nodeLabel",)) for one in look.entries(document.obj, ("spec", "levels"))]
    for index, key in enumerate(levels):
        path: Path = ("spec", "levels", index, "nodeLabel")
        if key == HOST and index < len(levels) - 1:
            yield problem(document, path, f"{HOST} can only be the last level", evidence=(" > ".join(levels),))
        elif key and key in levels[:index]:
            yield problem(document, path, f"{key} is a level twice", evidence=(" > ".join(levels),))


@rule(
    id="IL628",
    name="topology-level-on-no-node",
    family="queue",
    severity=Severity.ERROR,
    subject=Document,
    summary="a Topology with a level that no node is labelled with",
    why="A node belongs to a topology only with every label of it. When no node has one of them there is no domain, "
    "and all workloads with topology wait: `no topology domains at level`.",
    bad="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: Topology
metadata:
  name: infiniband
spec:
  levels:
  - nodeLabel: backend.coreweave.cloud/leaf-group
  - nodeLabel: kubernetes.io/hostname
""",
    good="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: Topology
metadata:
  name: infiniband
spec:
  levels:
  - nodeLabel: backend.coreweave.cloud/leafgroup
  - nodeLabel: kubernetes.io/hostname
""",
    sources=(
        Source("https://github.com/kubernetes-sigs/kueue/issues/5039", "all labels of the topology are required"),
        Source("https://github.com/kubernetes-sigs/kueue/issues/6996", "a label that only some nodes have"),
    ),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(*examples.leaf_groups(a=2)),
)
def topology_level_on_no_node(document: Document, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    if fleet is None or not fleet.nodes or not is_kind(document, "Topology"):
        return
    for index, one in enumerate(look.entries(document.obj, ("spec", "levels"))):
        key = look.text(one, ("nodeLabel",))
        if not key or any(key in node.labels for node in fleet.nodes):
            continue
        near = nearest(key, {label for node in fleet.nodes for label in node.labels})
        yield problem(
            document,
            ("spec", "levels", index, "nodeLabel"),
            f"no node has the label {key}: the topology has no domain",
            evidence=(f"0/{len(fleet.nodes)} nodes have {key}",),
            help=f"did you mean {near}?" if near else "",
        )
