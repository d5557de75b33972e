"""Which node labels are the levels of a fleet's topology, coarse to fine, and the tree of domains that they make.

Dialects say what a label means; the data says whether it nests. A label without a value says nothing: a node without
one stands below the domains that it does name, and is never put together with others for what neither of them says.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import msgspec

from ironloom.errors import UsageError
from ironloom.fleet.dialects import DIALECTS, level_of
from ironloom.fleet.dialects.dialect import NVLINK_DOMAIN, Axis, LevelKey, Rank
from ironloom.fleet.dialects.kubernetes import HOSTNAME
from ironloom.fleet.model import Domain, FleetNode, Level, Topology

GIVEN = "given"
KUEUE = "kueue"
NESTED_SHARE = 0.99
"""Share of the nodes that must agree for one label to be inside another: one mislabelled node changes no tree."""
RACK_MAX_NODES = 20
"""A rack of the largest kind holds 18 nodes of GPUs (NVL72)."""
HALL_MIN_NODES = 64
"""More than any rack or row holds."""
_CLOUDS = {
    "cloud.google.com/": "Google Cloud",
    "eks.amazonaws.com/": "AWS",
    "topology.k8s.aws/": "AWS",
    "karpenter.k8s.aws/": "AWS",
    "k8s.io/cloud-provider-aws": "AWS",
    "oci.oraclecloud.com/": "Oracle Cloud",
    "kubernetes.azure.com/": "Azure",
}
"""Label prefixes of clouds whose zones are availability zones."""
_DIGITS = re.compile(r"(\d{1,1000})")
"""At most as many as are read as one number: Python reads none of more than 4300."""


class _Candidate(msgspec.Struct, frozen=True):
    level: LevelKey
    dialect: str
    coverage: int
    """Nodes that have a value."""


class _Coverage(dict[str, int]):
    """Nodes that have a value of a label, counted when it is asked for: a node has a hundred labels, few are levels."""

    def __init__(self, nodes: Sequence[FleetNode]) -> None:
        super().__init__()
        self._nodes = nodes

    def __missing__(self, key: str) -> int:
        self[key] = sum(1 for node in self._nodes if node.labels.get(key))
        return self[key]


def find_levels(
    nodes: Sequence[FleetNode], *, given: Sequence[str] = (), topologies: Sequence[Topology] = ()
) -> tuple[Level, ...]:
    """The levels of these nodes, coarse to fine.

    `given` names the labels and their order, and nothing else counts. Otherwise: of the network's labels those of the
    dialect that says most; NVLink domains and partitions; regions, zones and racks where they nest with these. The host
    itself is no level unless given: nodes are the leaves. Raises UsageError for a given label that no node has.
    """
    if given:
        return tuple(_given(key, nodes) for key in dict.fromkeys(given))
    candidates = _candidates(nodes, topologies)
    values = {one.level.key: _column(one.level.key, nodes) for one in candidates}
    chain = _best(candidates, Axis.NETWORK)
    for one in _one_of_each_name(candidates, Axis.NVLINK):
        _insert(chain, one, values, or_by_rank=True)
    # Racks first: a zone that is a rack is recognised beside it.
    for one in sorted((one for one in candidates if one.level.axis is Axis.PLACE), key=_order, reverse=True):
        _insert(chain, one, values, or_by_rank=False)
    return tuple(_meaning(one, nodes, values) for one in chain)


def meaning_of(key: str, nodes: Sequence[FleetNode]) -> Level:
    """What a node label means on these nodes, whether it is a level of the tree or not."""
    known = level_of(key)
    if known is None:
        if key == HOSTNAME:
            return Level(key=key, name="host", dialect="kubernetes", why="each node is its own")
        return Level(key=key, name=key.rpartition("/")[2], dialect=GIVEN, confidence=0.0, why="no dialect knows it")
    dialect, level = known
    candidates = _candidates(nodes, ())
    values = {one.level.key: _column(one.level.key, nodes) for one in candidates}
    values.setdefault(key, _column(key, nodes))
    return _meaning(_Candidate(level, dialect.name, 0), nodes, values)


def build_tree(nodes: Iterable[FleetNode], levels: Sequence[Level], name: str) -> Domain:
    """The domains of these nodes. The same for any order of the nodes."""
    ordered = sorted(nodes, key=lambda node: natural(node.name))
    children, alone = _branches(ordered, levels, 0)
    return Domain(value=name, level=None, children=children, nodes=alone)


@lru_cache(maxsize=65_536)  # the same names are put in order several times
def natural(text: str) -> tuple[tuple[int, str], ...]:
    """A key by which `n2` stands before `n10`."""
    # A pair a part, so that digits and letters compare with each other.
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in _DIGITS.split(text) if part)


def _branches(
    nodes: list[FleetNode], levels: Sequence[Level], depth: int
) -> tuple[tuple[Domain, ...], tuple[FleetNode, ...]]:
    """The domains of the level at this depth, and the nodes that name none of it nor of any below."""
    if depth == len(levels) or not nodes:
        return (), tuple(nodes)
    level = levels[depth]
    by_value: dict[str, list[FleetNode]] = defaultdict(list)
    for node in nodes:
        by_value[node.labels.get(level.key, "")].append(node)
    unnamed = by_value.pop("", [])
    domains = []
    for value in sorted(by_value, key=natural):
        children, alone = _branches(by_value[value], levels, depth + 1)
        domains.append(Domain(value=value, level=level, children=children, nodes=alone))
    deeper, alone = _branches(unnamed, levels, depth + 1)
    return (*domains, *deeper), alone


def _given(key: str, nodes: Sequence[FleetNode]) -> Level:
    if not any(node.labels.get(key) for node in nodes):
        raise UsageError(
            f"No node has the label {key!r}, which --levels names",
            hint="`ironloom fleet` without --levels lists the levels that it finds; kubectl get nodes --show-labels"
            " lists all labels",
        )
    known = level_of(key)
    name = known[1].name if known is not None else "host" if key == HOSTNAME else key.rpartition("/")[2]
    return Level(key=key, name=name, dialect=GIVEN, why="named by --levels")


def _candidates(nodes: Sequence[FleetNode], topologies: Sequence[Topology]) -> list[_Candidate]:
    keys = set[str]().union(*(node.labels for node in nodes))
    coverage = _Coverage(nodes)
    found = []
    for dialect in DIALECTS:
        known = {level.key: level for level in dialect.levels if level.key in keys}
        for pattern in dialect.patterns:
            known.update({key: level for key in keys if (level := pattern.level(key)) is not None})
        found += [
            _Candidate(level, dialect.name, coverage[key])
            for key, level in known.items()
            if coverage[key] and not (level.same_as and coverage[level.same_as])
        ]
    taken: set[str] = {one.level.key for one in found}
    for topology in topologies:
        for index, key in enumerate(topology.levels):
            if coverage[key] and key not in taken and key != HOSTNAME and level_of(key) is None:
                taken.add(key)
                name = key.rpartition("/")[2]
                level = LevelKey(key=key, name=name, rank=Rank.SPINE + index, axis=Axis.NETWORK)
                found.append(_Candidate(level, KUEUE, coverage[key]))
    return found


def _order(one: _Candidate) -> tuple[int, str]:
    return one.level.rank, one.level.key


def _best(candidates: list[_Candidate], axis: Axis) -> list[_Candidate]:
    """The levels of one axis of the dialect that names most nodes; of two that name as many, the deeper one."""
    by_dialect: dict[str, list[_Candidate]] = defaultdict(list)
    for one in candidates:
        if one.level.axis is axis:
            by_dialect[one.dialect].append(one)
    if not by_dialect:
        return []
    # The registry's order decides last: max takes the first of equals.
    best = max(by_dialect, key=lambda name: (max(one.coverage for one in by_dialect[name]), len(by_dialect[name])))
    return sorted(by_dialect[best], key=_order)


def _one_of_each_name(candidates: list[_Candidate], axis: Axis) -> list[_Candidate]:
    """The levels of one axis, of each name the one that most nodes have: who labels it does not matter."""
    by_name: dict[str, _Candidate] = {}
    for one in candidates:
        if one.level.axis is axis:
            best = by_name.get(one.level.name)
            # The registry's order decides between equals.
            if best is None or one.coverage > best.coverage:
                by_name[one.level.name] = one
    return sorted(by_name.values(), key=_order)


def _insert(chain: list[_Candidate], one: _Candidate, values: Mapping[str, list[str]], *, or_by_rank: bool) -> None:
    """Put a level where the data says that it nests; where it crosses the chain, by its rank or nowhere."""
    column = values[one.level.key]
    low, high = 0, len(chain)
    for index, other in enumerate(chain):
        beside = values[other.level.key]
        is_inside, is_around = _nesting(column, beside)
        if is_inside is is_around and is_inside is not False:
            # Nothing to tell them apart by, or the same domains: what they are decides.
            is_inside = one.level.rank >= other.level.rank
            is_around = not is_inside
        if is_inside:
            low = max(low, index + 1)
        elif is_around:
            high = min(high, index)
        elif or_by_rank:
            low = max(low, index + 1) if one.level.rank >= other.level.rank else low
        else:
            return
    if low <= high or or_by_rank:
        chain.insert(low, one)


def _column(key: str, nodes: Sequence[FleetNode]) -> list[str]:
    return [node.labels.get(key, "") for node in nodes]


def _nesting(one: list[str], other: list[str]) -> tuple[bool | None, bool | None]:
    """(whether each value of the one lies in one value of the other, the same the other way around); None for both
    when no node has both."""
    total = 0
    most: dict[str, int] = {}
    other_most: dict[str, int] = {}
    for (value, beside), count in Counter(zip(one, other, strict=True)).items():
        if value and beside:
            total += count
            most[value] = max(most.get(value, 0), count)
            other_most[beside] = max(other_most.get(beside, 0), count)
    if not total:
        return None, None
    least = NESTED_SHARE * total
    return sum(most.values()) >= least, sum(other_most.values()) >= least


def _meaning(one: _Candidate, nodes: Sequence[FleetNode], values: Mapping[str, list[str]]) -> Level:
    level = one.level
    if level.is_open:
        name, confidence, why = _open_meaning(level.key, nodes, values)
        return Level(key=level.key, name=name, dialect=one.dialect, confidence=confidence, why=why)
    if level.key == "cloud.google.com/gce-topology-subblock":
        kinds = {node.accelerator for node in nodes if node.labels.get(level.key) and node.accelerator}
        if kinds and all(kind.startswith(("GB200", "GB300")) for kind in kinds):
            why = "a sub-block of A4X is one NVLink domain"
            return Level(key=level.key, name=NVLINK_DOMAIN, dialect=one.dialect, confidence=0.9, why=why)
    if one.dialect == KUEUE:
        why = "a Topology object of Kueue names it"
        return Level(key=level.key, name=level.name, dialect=KUEUE, confidence=0.8, why=why)
    return Level(key=level.key, name=level.name, dialect=one.dialect, why="its label means this")


def _open_meaning(key: str, nodes: Sequence[FleetNode], values: Mapping[str, list[str]]) -> tuple[str, float, str]:
    """(name, confidence, why) of a zone label: an availability zone, or a rack under that name."""
    column = values[key]
    for other, beside in values.items():
        known = level_of(other)
        if other == key or known is None or known[1].rank not in (Rank.RACK, Rank.NVLINK):
            continue
        if len(set(filter(None, column))) > 1 and _nesting(column, beside) == (True, True):
            return "rack", 0.95, f"its values and those of {other} are the same domains"
    cloud = next((cloud for prefix, cloud in _CLOUDS.items() if _has_prefix(nodes, prefix)), None)
    if cloud is not None:
        return "availability zone", 1.0, f"the nodes are of {cloud}, where a zone is one"
    with_gpus = [value for value, node in zip(column, nodes, strict=True) if value and node.gpu_resource]
    sizes = Counter(with_gpus or filter(None, column))
    if not sizes:
        return "zone", 0.3, "no node has it"
    size = _median(sorted(sizes.values()))
    nodes_each = f"{size:g} node{'s' if size != 1 else ''}"
    count = f"{len(sizes)} values of {nodes_each} each" if len(sizes) > 1 else f"one value of {nodes_each}"
    if size > HALL_MIN_NODES:
        return "availability zone", 0.8, f"{count}: more than a rack or a row holds"
    if len(sizes) > 1 and size <= RACK_MAX_NODES:
        leaf = _nearest_network_key(values)
        if leaf and _nesting(column, values[leaf]) == (True, False):
            return "rack", 0.85, f"{count}, inside the domains of {leaf}: of a rack's size"
        if leaf and _nesting(column, values[leaf]) == (False, True):
            return "zone", 0.6, f"{count}, each of several domains of {leaf}: more than one rack"
        if len(sizes) >= 4:
            return "rack", 0.7, f"{count}: of a rack's size, up to {RACK_MAX_NODES}, and many"
    return "zone", 0.5, f"{count}: that fits a small zone and a rack alike"


def _median(numbers: list[int]) -> float:
    """Of numbers in order. The standard library's own imports fractions and random, which takes longer than a check."""
    half = len(numbers) // 2
    return numbers[half] if len(numbers) % 2 else (numbers[half - 1] + numbers[half]) / 2


def _nearest_network_key(values: Mapping[str, list[str]]) -> str:
    ranked = [(known[1].rank, key) for key in values if (known := level_of(key)) and known[1].axis is Axis.NETWORK]
    return max(ranked, default=(0, ""))[1]


def _has_prefix(nodes: Sequence[FleetNode], prefix: str) -> bool:
    return any(key.startswith(prefix) for node in nodes[:100] for key in node.labels)
