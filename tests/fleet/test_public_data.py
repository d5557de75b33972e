"""Real clusters of Alibaba's public traces, as nodes: what is counted here is what stands in their tables."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest
from tests.fleet.kube import node

from ironloom.fleet.build import build_fleet
from ironloom.fleet.levels import find_levels
from ironloom.fleet.model import Topology
from ironloom.fleet.tally import accelerators_of, tally, walk

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SWITCHES = ("DSW", "PSW", "ASW")


def rows(name: str) -> list[dict[str, str]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} of the public traces is not beside the repository")
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_openb_cluster_has_its_nodes_and_gpus() -> None:
    table = rows("openb/openb_node_list_gpu_node.csv")
    fleet = build_fleet(
        (
            node(
                row["sn"],
                gpus=int(row["gpu"]),
                capacity={"cpu": f"{row['cpu_milli']}m", "memory": f"{row['memory_mib']}Mi"},
                labels={"nvidia.com/gpu.product": row["model"]},
            )
            for row in table
        ),
        name="openb",
        source="a test",
    )
    total = tally(fleet.nodes)
    assert total.num_nodes == 1213
    assert total.num_free == total.num_gpus == sum(int(row["gpu"]) for row in table) == 6212
    # One product stands in machines of one, four and eight GPUs there: the smaller ones are not broken.
    assert not [one.name for one in fleet.nodes if one.is_degraded]
    assert sum(accelerators_of(fleet.nodes).values()) == 6212
    assert fleet.nodes[0].allocatable["cpu"] == int(table[0]["cpu_milli"])


def lingjun(prefix: str) -> list[dict[str, str]]:
    """Labels of each host. A switch's name counts within the one above it alone."""
    return [
        {
            f"{prefix}{level}": "-".join(row[above] for above in SWITCHES[:depth])
            for depth, level in enumerate(SWITCHES, 1)
        }
        for row in rows("lingjun2023/topo.csv")
    ]


@pytest.mark.parametrize("how", ["--levels", "a Topology object"])
def test_the_lingjun_clos_has_its_switches(how: str) -> None:
    labels = lingjun("example.com/")
    keys = tuple(f"example.com/{level}" for level in SWITCHES)
    objects = [node(f"host-{index}", labels=one) for index, one in enumerate(labels)]
    fleet = build_fleet(objects, name="lingjun", source="a test", levels=keys if how == "--levels" else ())
    levels = (
        fleet.levels if how == "--levels" else find_levels(fleet.nodes, topologies=[Topology(name="t", levels=keys)])
    )
    assert [level.key for level in levels] == list(keys)
    if how == "--levels":
        domains = Counter(domain.level.key for _, domain in walk(fleet.root) if domain.level is not None)
        assert domains == {key: len({one[key] for one in labels}) for key in keys}
        assert len(list(fleet.root.all_nodes())) == len(labels) == 847
