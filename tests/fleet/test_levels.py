"""Which labels are levels, what they mean, and the tree that they make."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.errors import UsageError
from ironloom.fleet.dialects import DIALECTS
from ironloom.fleet.levels import build_tree, find_levels, meaning_of, natural
from ironloom.fleet.model import FleetNode, Topology

CW = "backend.coreweave.cloud/"
ZONE = "topology.kubernetes.io/zone"


def nodes(count: int, **labels: object) -> list[FleetNode]:
    """`zone=4`: four nodes a value; a text is the same everywhere. `_` stands for what a keyword cannot have."""
    return [
        FleetNode(name=f"n{index}", gpu_resource="nvidia.com/gpu", allocatable={"nvidia.com/gpu": 8}, labels={
            key: f"v{index // value}" if isinstance(value, int) else str(value) for key, value in labels.items()
        })
        for index in range(count)
    ]  # fmt: skip


def names(found: list[FleetNode], **options: object) -> list[str]:
    return [level.name for level in find_levels(found, **options)]  # type: ignore[arg-type]


DIALECT_CASES = {
    "CoreWeave": ({f"{CW}fabric": 32, f"{CW}superpod": 16, f"{CW}leafgroup": 4}, ["fabric", "superpod", "leaf group"]),
    "CoreWeave's older labels": (
        {"ib.coreweave.cloud/fabric": 32, "ib.coreweave.cloud/leafgroup": 4}, ["fabric", "leaf group"]),
    "CoreWeave's older labels beside the newer": (
        {f"{CW}fabric": 32, "ib.coreweave.cloud/fabric": 32, f"{CW}leafgroup": 4, "ib.coreweave.cloud/leafgroup": 4},
        ["fabric", "leaf group"]),
    "CoreWeave NVL72": (
        {f"{CW}fabric": 64, f"{CW}leafgroup": 32, "ds.coreweave.com/nvlink.domain": 16,
         "nvidia.com/gpu.clique": 16}, ["fabric", "leaf group", "NVLink domain", "NVLink partition"]),
    "Topograph 0.1": (
        {"network.topology.nvidia.com/datacenter": 64, "network.topology.nvidia.com/spine": 16,
         "network.topology.nvidia.com/block": 4}, ["core switch", "spine switch", "leaf switch"]),
    "Topograph 0.5": (
        {"network.topology.nvidia.com/core": 64, "network.topology.nvidia.com/spine": 16,
         "network.topology.nvidia.com/leaf": 4, "network.topology.nvidia.com/accelerator": 2},
        ["core switch", "spine switch", "leaf switch", "NVLink domain"]),
    "Topograph 1.0 counts from the node outwards": (
        {"fabric.topograph.run/tier-0": 4, "fabric.topograph.run/tier-1": 16, "fabric.topograph.run/tier-2": 32,
         "accelerator.topograph.run/domain": 2},
        ["fabric tier 2", "fabric tier 1", "fabric tier 0", "NVLink domain"]),
    "GKE": (
        {"cloud.google.com/gce-topology-block": 16, "cloud.google.com/gce-topology-subblock": 4},
        ["block", "sub-block"]),
    "EKS counts from the spine inwards": (
        {"topology.k8s.aws/network-node-layer-1": 32, "topology.k8s.aws/network-node-layer-2": 16,
         "topology.k8s.aws/network-node-layer-3": 4}, ["network layer 1", "network layer 2", "network layer 3"]),
    "OKE": (
        {"oci.oraclecloud.com/host.hpc_island_id": 32, "oci.oraclecloud.com/host.network_block_id": 16,
         "oci.oraclecloud.com/host.local_block_id": 8, "oci.oraclecloud.com/host.rack_id": 4},
        ["HPC island", "network block", "local block", "rack"]),
}  # fmt: skip


@pytest.mark.parametrize("case", DIALECT_CASES)
def test_levels_of_a_dialect_stand_coarse_to_fine(case: str) -> None:
    labels, wanted = DIALECT_CASES[case]
    assert names(nodes(64, **labels)) == wanted


def test_each_dialect_names_its_public_sources_and_when_they_were_read() -> None:
    assert {one.name for one in DIALECTS} == {
        "coreweave", "topograph", "gke", "eks", "oke", "gfd", "hyperpod", "kubernetes"}  # fmt: skip
    for dialect in DIALECTS:
        assert dialect.sources
        assert all(source.startswith("https://") for source in dialect.sources)
        assert len(dialect.date) == 10


def test_two_dialects_that_describe_one_network_are_one_chain() -> None:
    both = nodes(64, **{f"{CW}fabric": 32, f"{CW}leafgroup": 4, "fabric.topograph.run/tier-0": 4})
    assert names(both) == ["fabric", "leaf group"]


def test_labels_with_empty_values_are_no_level() -> None:
    assert names(nodes(8, **{f"{CW}fabric": "", f"{CW}leafgroup": ""})) == []


ZONES = {
    "a rack, where the rack label says the same": (64, {ZONE: 4, "node.coreweave.cloud/rack": 4}, "rack", 0.9),
    "a rack, of a rack's size and inside the leaf groups": (64, {ZONE: 4, f"{CW}leafgroup": 16}, "rack", 0.8),
    "a rack, many of a rack's size": (180, {ZONE: 18}, "rack", 0.7),
    "an availability zone, of hundreds of nodes": (300, {ZONE: 150}, "availability zone", 0.8),
    "an availability zone on a cloud where it is one": (
        8, {ZONE: 4, "cloud.google.com/gke-nodepool": "p"}, "availability zone", 1.0),
    "of several leaf groups, which no rack holds": (16, {ZONE: 8, f"{CW}leafgroup": 4}, "zone", 0.6),
    "anybody's guess, for two of a few nodes": (8, {ZONE: 4}, "zone", 0.5),
}  # fmt: skip


@pytest.mark.parametrize("case", ZONES)
def test_what_a_zone_is_is_read_from_the_data(case: str) -> None:
    count, labels, name, confidence = ZONES[case]
    found = meaning_of(ZONE, nodes(count, **labels))
    assert found.name == name
    assert found.confidence == pytest.approx(confidence, abs=0.06)
    assert found.why


def test_a_zone_that_is_as_large_as_a_hall_stands_above_the_fabric() -> None:
    assert names(nodes(256, **{ZONE: 128, f"{CW}fabric": 64, f"{CW}leafgroup": 8})) == [
        "availability zone", "fabric", "leaf group"]  # fmt: skip


def test_a_zone_that_is_a_rack_stands_below_the_leaf_group() -> None:
    assert names(nodes(64, **{ZONE: 4, f"{CW}fabric": 32, f"{CW}leafgroup": 16})) == ["fabric", "leaf group", "rack"]


def test_racks_that_cross_the_network_are_no_level() -> None:
    crossing = nodes(64, **{f"{CW}fabric": 32, f"{CW}leafgroup": 8})
    crossing = [
        FleetNode(name=one.name, labels={**one.labels, "node.coreweave.cloud/rack": f"r{index % 16}"})
        for index, one in enumerate(crossing)
    ]
    assert names(crossing) == ["fabric", "leaf group"]


def test_one_mislabelled_node_in_a_hundred_changes_no_level() -> None:
    many = nodes(200, **{f"{CW}fabric": 100, f"{CW}leafgroup": 10, "node.coreweave.cloud/rack": 5})
    many[7] = FleetNode(name="n7", labels={**many[7].labels, "node.coreweave.cloud/rack": "v30"})
    assert names(many) == ["fabric", "leaf group", "rack"]


def test_a_topology_object_names_labels_that_no_dialect_knows() -> None:
    topology = Topology(name="default", levels=("example.com/row", "example.com/rack", "kubernetes.io/hostname"))
    found = find_levels(nodes(16, **{"example.com/row": 8, "example.com/rack": 4}), topologies=[topology])
    assert [(one.name, one.dialect) for one in found] == [("row", "kueue"), ("rack", "kueue")]


def test_given_levels_are_the_only_ones_and_keep_their_order() -> None:
    found = find_levels(nodes(16, **{f"{CW}fabric": 8, "a/rack": 4, ZONE: 8}), given=["a/rack", f"{CW}fabric"])
    assert [(one.key, one.dialect) for one in found] == [("a/rack", "given"), (f"{CW}fabric", "given")]


def test_a_given_level_that_no_node_has_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="'no/such'"):
        find_levels(nodes(4), given=["no/such"])


def test_a_node_without_the_label_is_in_no_domain_of_it() -> None:
    some = [*nodes(4, **{f"{CW}leafgroup": 2, f"{CW}fabric": "f"}), FleetNode(name="x"), FleetNode(name="y")]
    root = build_tree(some, find_levels(some), "test")
    assert [one.name for one in root.nodes] == ["x", "y"]
    assert [one.value for one in root.children] == ["f"]


def test_a_node_that_names_a_finer_domain_alone_stands_in_it() -> None:
    some = nodes(4, **{f"{CW}fabric": "f", f"{CW}leafgroup": 2})
    some.append(FleetNode(name="x", labels={f"{CW}leafgroup": "v9"}))
    root = build_tree(some, find_levels(some), "test")
    assert [(one.level.name if one.level else "", one.value) for one in root.children] == [
        ("fabric", "f"), ("leaf group", "v9")]  # fmt: skip


LABELS = st.dictionaries(
    st.sampled_from([f"{CW}fabric", f"{CW}superpod", f"{CW}leafgroup", ZONE, "node.coreweave.cloud/rack",
                     "nvidia.com/gpu.clique", "fabric.topograph.run/tier-0", "fabric.topograph.run/tier-1"]),
    st.sampled_from(["", "a", "b", "c"]),
)  # fmt: skip


@given(st.lists(LABELS, max_size=12), st.randoms(use_true_random=False))
def test_every_node_stands_in_the_tree_once_and_their_order_changes_nothing(
    labels: list[dict[str, str]], shuffle: random.Random
) -> None:
    made = [FleetNode(name=f"n{index}", labels=one) for index, one in enumerate(labels)]
    shuffled = shuffle.sample(made, len(made))
    levels = find_levels(made)
    root = build_tree(made, levels, "test")
    assert sorted((one.name for one in root.all_nodes()), key=natural) == [one.name for one in made]
    assert find_levels(shuffled) == levels
    assert build_tree(shuffled, levels, "test") == root


def test_numbers_in_names_count_as_numbers() -> None:
    assert sorted(["n10", "n2", "n1", "a", "10"], key=natural) == ["a", "n1", "n2", "n10", "10"]
