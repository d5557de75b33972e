"""A fleet as table, picture, data and difference: the numbers add up, and nothing breaks the picture."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tests.fleet.kube import Object, listed, named, node, pod

from ironloom.cli.fleet import fleet as command
from ironloom.errors import UsageError
from ironloom.fleet import diff, picture, table
from ironloom.fleet.build import build_fleet
from ironloom.fleet.here import fleet_of
from ironloom.fleet.model import Fleet, Lifecycle
from ironloom.fleet.node import Gpu, Node
from ironloom.fleet.tally import problems_of, summary, tally, tally_node, walk
from ironloom.fleet.view import view
from ironloom.units import GIB

COUNT = "nvidia.com/gpu.count"
RACK = "backend.coreweave.cloud/leafgroup"
FABRIC = "backend.coreweave.cloud/fabric"


def labels(index: int) -> dict[str, str]:
    return {FABRIC: "f", RACK: f"lg{index // 2}", "node.kubernetes.io/instance-type": "gd-8xh100ib-i128"}


OBJECTS = [
    node("n0", labels=labels(0)),
    node("n1", labels=labels(1), gpus=7),
    node("n2", labels=labels(2), unschedulable=True),
    node("n3", labels=labels(3), ready="False"),
    pod("a", on="n0", gpu=8),
    pod("b", on="n1", gpu=2),
    pod("c", on="n2", gpu=1),
    pod("d", on="n3", gpu=4),
    pod("waits", phase="Pending", gpu=8),
    named("compute.coreweave.com/v1alpha1", "NodePool", "h100",
          spec={"instanceType": "gd-8xh100ib-i128", "targetNodes": 4, "autoscaling": True, "maxNodes": 9}),
]  # fmt: skip


def built(*objects: Object, name: str = "east") -> Fleet:
    return build_fleet(objects or OBJECTS, name=name, source="a test")


def test_each_gpu_is_used_free_closed_or_broken() -> None:
    total = tally(built().nodes)
    assert (total.num_gpus, total.num_used, total.num_free, total.num_closed, total.num_broken) == (32, 15, 5, 7, 5)
    assert (total.num_nodes, total.num_ready, total.num_whole_free) == (4, 2, 0)


NODES = st.builds(
    lambda index, gpus, expected, ready, cordoned, asked: (
        node(f"n{index}", gpus=gpus, ready=ready, unschedulable=cordoned, labels={COUNT: str(expected)}),
        pod(f"p{index}", on=f"n{index}", gpu=asked),
    ),
    st.integers(0, 9), st.one_of(st.none(), st.integers(0, 20)), st.integers(0, 20),
    st.sampled_from(["True", "False", "Unknown"]), st.booleans(), st.integers(0, 30),
)  # fmt: skip


@given(st.lists(NODES, max_size=8))
def test_the_counts_of_any_fleet_add_up_at_every_domain(pairs: list[tuple[Object, Object]]) -> None:
    fleet = built(*[one for pair in pairs for one in pair], named("v1", "Namespace", "x"))
    for _, domain in walk(fleet.root):
        total = tally(domain.all_nodes())
        assert total.num_gpus == total.num_used + total.num_free + total.num_closed + total.num_broken
        assert min(getattr(total, name) for name in total.__slots__) >= 0
    ElementTree.fromstring(picture.render(fleet))
    assert table.render(fleet)
    json.dumps(view(fleet))


def test_tallies_add() -> None:
    fleet = built()
    one, two, *rest = (tally_node(each) for each in fleet.nodes)
    total = one + two
    for each in rest:
        total += each
    assert total == tally(fleet.nodes)


def test_a_node_s_problems_are_sentences() -> None:
    found = {one.name: problems_of(one) for one in built().nodes}
    assert found["n0"] == ()
    assert found["n1"] == ("7 of 8 GPUs",)
    assert found["n2"] == ("cordoned: spec.unschedulable",)
    assert found["n3"][0].startswith("not-ready: its condition Ready is False")


def test_the_table_says_everything_that_is_not_well_and_what_could_come() -> None:
    text = table.render(built())
    assert text.startswith("east: 4 nodes, 32 GPUs (H100-SXM5-80GB): 15 used, 5 free, 7 closed, 5 broken.")
    assert "leaf group lg0" in text
    assert "7 of 8 GPUs" in text
    assert "team-a/waits" in text
    assert "h100" in text


def test_a_large_fleet_s_table_stays_short_and_says_what_it_leaves_out() -> None:
    many = [node(f"n{index}", labels={FABRIC: f"f{index // 100}", RACK: f"lg{index // 4}"}) for index in range(400)]
    fleet = built(*many)
    assert len(table.render(fleet).splitlines()) < 60
    assert "100 more domains below: -o wide" in table.render(fleet)
    assert "n399" in table.render(fleet, wide=True)


def test_a_fleet_without_gpus_says_so() -> None:
    assert summary(built(node("n1", gpus=None))) == "east: 1 node, no GPUs"


def test_the_picture_is_well_formed_has_a_title_for_each_node_and_no_script() -> None:
    text = picture.render(built())
    root = ElementTree.fromstring(text)
    titles = [one.text or "" for one in root.iter("{http://www.w3.org/2000/svg}title")]
    for name in ("n0", "n1", "n2", "n3"):
        assert any(title.startswith(f"{name}: ") for title in titles), name
    assert "script" not in text
    assert "href" not in text


def test_names_that_no_xml_may_have_break_no_picture() -> None:
    odd = node("a<b>&\x07\"'", labels={FABRIC: "<script>alert(1)</script>"})
    text = picture.render(built(odd, name="]]>"))
    assert not list(ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}script"))


def test_the_picture_is_the_same_for_any_order_of_the_objects() -> None:
    shuffled = random.Random(1).sample(OBJECTS, len(OBJECTS))
    assert picture.render(built(*shuffled)) == picture.render(built())


def test_a_picture_has_as_many_marks_as_there_are_gpus() -> None:
    root = ElementTree.fromstring(picture.render(built()))
    drawn = dict.fromkeys("ufcb", 0)
    for path in root.iter("{http://www.w3.org/2000/svg}path"):
        drawn[path.get("class", "")] += path.get("d", "").count("M")
    # One of each stands in the legend.
    assert drawn == {"u": 16, "f": 6, "c": 8, "b": 6}


def test_nothing_changed_between_a_fleet_and_itself_in_another_order() -> None:
    found = diff.diff(built(), built(*reversed(OBJECTS)))
    assert not found
    assert diff.render(found) == "Nothing changed."


def test_what_changed_is_named() -> None:
    after = [
        node("n0", labels=labels(0), gpus=6),
        node("n1", labels={**labels(1), RACK: "lg9"}, taints=("a=b:NoSchedule",), gpus=7),
        node("n3", labels=labels(3)),
        node("n9", labels=labels(9)),
        pod("a", on="n1", gpu=8),
        pod("b", on="n1", gpu=2),
        pod("new", phase="Pending", gpu=1),
    ]
    found = diff.diff(built(), built(*after))
    assert (found.nodes_gone, found.nodes_new) == (("n2",), ("n9",))
    assert (found.pods_gone, found.pods_new) == (("team-a/c", "team-a/d", "team-a/waits"), ("team-a/new",))
    changed = {(one.name, one.what): (one.before, one.after) for one in found.nodes_changed}
    assert changed["n0", "GPUs"] == ("8", "6")
    assert changed["n1", RACK] == ("lg0", "lg9")
    assert changed["n1", "taints"] == ("", "a=b:NoSchedule")
    assert changed["n3", "lifecycle"] == ("not-ready (its condition Ready is False)", "ready")
    assert [(one.name, one.what, one.after) for one in found.pods_changed] == [("team-a/a", "node", "n1")]
    assert "Nodes gone: 1" in diff.render(found)


def machine(*gpus: Gpu) -> Node:
    return Node(name="box", num_cpus=4, memory_bytes=16 * GIB, available_memory_bytes=12 * GIB, gpus=gpus)


def test_this_machine_is_a_fleet_of_one_node() -> None:
    fleet = fleet_of(machine())
    assert [one.name for one in fleet.nodes] == ["box"]
    assert fleet.nodes[0].free("memory") == 12 * GIB
    assert summary(fleet) == "box: 1 node, no GPUs"


def test_a_gpu_whose_memory_is_taken_is_used() -> None:
    sizes = (80 * GIB, 79 * GIB), (80 * GIB, 20 * GIB)
    gpus = [
        Gpu(index=index, uuid=str(index), name="NVIDIA H100 80GB HBM3", memory_bytes=total, free_memory_bytes=free)
        for index, (total, free) in enumerate(sizes)
    ]
    (found,) = fleet_of(machine(*gpus)).nodes
    assert (found.num_gpus, found.num_free_gpus, found.accelerator) == (2, 1, "H100-SXM5-80GB")
    assert found.links[0].kind == "nvlink"
    assert found.lifecycle is Lifecycle.READY


def invoke(*args: str, **options: Any) -> str:
    done = CliRunner().invoke(command, args, standalone_mode=False, catch_exceptions=False, **options)
    return done.output


@pytest.fixture
def snapshot(tmp_path: Path) -> str:
    path = tmp_path / "east.json"
    path.write_text(json.dumps(listed(*OBJECTS)))
    return str(path)


def test_the_command_prints_a_table_data_and_a_picture(snapshot: str) -> None:
    assert invoke("--fleet", snapshot).startswith("east: 4 nodes")
    data = json.loads(invoke("--fleet", snapshot, "-o", "json"))
    assert yaml.safe_load(invoke("--fleet", snapshot, "-o", "yaml")) == data
    assert data["num_free"] == 5
    assert data["tree"]["domains"][0]["level"] == FABRIC
    ElementTree.fromstring(invoke("--fleet", snapshot, "-o", "svg"))


def test_the_command_reads_standard_input() -> None:
    told = invoke("--fleet", "-", input=json.dumps(listed(*OBJECTS)))
    assert told.startswith("fleet: 4 nodes")
    assert "From standard input" in told


def test_the_command_without_arguments_shows_this_machine() -> None:
    assert "From this machine." in invoke()


def test_the_command_takes_levels(snapshot: str) -> None:
    data = json.loads(invoke("--fleet", snapshot, "--levels", RACK, "-o", "json"))
    assert [one["key"] for one in data["levels"]] == [RACK]
    with pytest.raises(UsageError, match="'no/such'"):
        invoke("--fleet", snapshot, "--levels", "no/such")


def test_the_diff_command_says_what_changed(snapshot: str, tmp_path: Path) -> None:
    after = tmp_path / "after.json"
    after.write_text(json.dumps(listed(*OBJECTS[1:])))
    assert "Nodes gone: 1" in invoke("diff", snapshot, str(after))
    assert json.loads(invoke("diff", snapshot, str(after), "-o", "json"))["nodes_gone"] == ["n0"]
    assert invoke("diff", snapshot, snapshot) == "Nothing changed.\n"


@pytest.mark.parametrize("args", [("--fleet", "x", "--context", "y"), ("--levels", "a")])
def test_contradictions_are_refused(args: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        invoke(*args)
