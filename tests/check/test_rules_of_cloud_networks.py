"""EFA on AWS and GPUDirect on GKE: what a gang must ask for to have the network that it pays for."""

from __future__ import annotations

import pytest

from ironloom.catalog import efa, instances
from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.finding import Finding, Severity
from ironloom.check.inputs import read_texts
from ironloom.check.rules import examples
from ironloom.fleet.model import Fleet

RULES = registry.select(["IL304", "IL311", "IL312", "IL313", "IL314"])


def findings(text: str, fleet: Fleet | None = None) -> list[Finding]:
    result = check(read_texts({"a.yaml": text}), RULES, Setting(fleet=fleet))
    assert result.faults == ()
    return list(result.findings)


def job(
    *, selector: str = "", limits: str = "", requests: str = "", annotations: str = "", env: str = "", more: str = "",
    gpus: int = 8, pods: int = 2,
) -> str:  # fmt: skip
    return f"""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: {pods}
  completions: {pods}
  completionMode: Indexed
  template:
    metadata:
      annotations: {{{annotations}}}
    spec:
      restartPolicy: Never
      {more}
      nodeSelector: {{{selector}}}
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes={pods}, --nproc-per-node=8, train.py]
        env: [{env}]
        resources:
          limits: {{nvidia.com/gpu: {gpus}, {limits}}}
          requests: {{{requests}}}
"""


def on(kind: str) -> str:
    return f"node.kubernetes.io/instance-type: {kind}"


def with_efa(number: int, kind: str = "p5.48xlarge", **more: object) -> str:
    limits = f"vpc.amazonaws.com/efa: {number}, hugepages-2Mi: 5120Mi"
    return job(selector=on(kind), limits=limits, **more)  # type: ignore[arg-type]


def test_the_counts_of_efa_are_of_instance_types_that_have_it() -> None:
    assert {instances.INSTANCES[name].network for name in efa.DEVICES} == {"efa"}


@pytest.mark.parametrize(
    ("text", "severity"),
    [
        (with_efa(1), Severity.WARNING),
        (with_efa(32), None),
        (with_efa(64), Severity.ERROR),
        (with_efa(32, "p5en.48xlarge"), Severity.ERROR),
        (with_efa(16, "p5en.48xlarge"), None),
        (with_efa(4, "p4d.24xlarge"), None),
        (with_efa(1, gpus=1), None),
        (with_efa(1, pods=1), None),
        (with_efa(1, "g6e.48xlarge"), None),
    ],
)
def test_a_pod_that_takes_a_node_takes_its_efa_devices(text: str, severity: Severity | None) -> None:
    found = findings(text)
    assert [(one.rule, one.severity) for one in found] == ([("IL311", severity)] if severity else [])


def test_the_patch_of_a_few_efa_devices_changes_request_and_limit_alike() -> None:
    text = with_efa(1, requests="vpc.amazonaws.com/efa: 1")
    (found,) = findings(text)
    assert found.patch is not None
    for edit in sorted(found.patch.edits, key=lambda one: -one.start):
        text = text[: edit.start] + edit.text + text[edit.end :]
    assert text.count("vpc.amazonaws.com/efa: 32") == 2
    assert findings(text) == []


def test_with_a_fleet_the_nodes_types_count_for_efa() -> None:
    fleet = examples.fleet(*(examples.node(name, instance_type="p5.48xlarge") for name in ("a", "b")))
    text = job(limits="vpc.amazonaws.com/efa: 8, hugepages-2Mi: 5120Mi")
    assert [one.rule for one in findings(text, fleet)] == ["IL311"]


@pytest.mark.parametrize(
    ("more", "is_told"),
    [
        ({}, True),
        ({"env": "{name: FI_EFA_USE_HUGE_PAGE, value: '0'}"}, False),
        ({"pods": 1}, False),
    ],
)
def test_efa_without_huge_pages_is_a_note(more: dict[str, object], is_told: bool) -> None:
    text = job(selector=on("p5.48xlarge"), limits="vpc.amazonaws.com/efa: 32", **more)  # type: ignore[arg-type]
    assert [(one.rule, one.severity) for one in findings(text)] == ([("IL312", Severity.NOTE)] if is_told else [])


MEGA = "cloud.google.com/gke-accelerator: nvidia-h100-mega-80gb"
INTERFACES = (
    "networking.gke.io/interfaces: "
    """'[{"interfaceName":"eth0","network":"default"},{"interfaceName":"eth1","network":"vpc1"}]'"""
)


@pytest.mark.parametrize(
    ("text", "is_told"),
    [
        (job(selector=MEGA), True),
        (job(selector=on("a3-megagpu-8g")), True),
        (job(selector="cloud.google.com/gke-accelerator: nvidia-b200"), True),
        (job(selector=MEGA, annotations=INTERFACES), False),
        (job(selector=MEGA, limits="networking.gke.io.networks/vpc1: 1"), False),
        (job(selector=MEGA, more="hostNetwork: true"), False),
        (job(selector=MEGA, more="resourceClaims: [{name: nics, resourceClaimTemplateName: nics}]"), False),
        (job(selector=MEGA, pods=1), False),
        (job(selector=MEGA, gpus=1), False),
        (job(selector="cloud.google.com/gke-accelerator: nvidia-l4"), False),
        (job(), False),
    ],
)
def test_a_gang_on_gke_asks_for_the_networks_of_its_gpus(text: str, is_told: bool) -> None:
    assert [one.rule for one in findings(text)] == (["IL313"] if is_told else [])


@pytest.mark.parametrize(
    ("annotations", "severity"),
    [
        ("networking.gke.io/interfaces: '[{eth0: default}]'", Severity.ERROR),
        ("""networking.gke.io/interfaces: '{"interfaceName":"eth0","network":"default"}'""", Severity.ERROR),
        ("""networking.gke.io/interfaces: '[{"interfaceName":"eth0"}]'""", Severity.ERROR),
        ("networking.gke.io/interfaces: '[3]'", Severity.ERROR),
        (f"{INTERFACES}, networking.gke.io/default-interface: eth7", Severity.ERROR),
        (INTERFACES.replace("eth1", "eth0"), Severity.ERROR),
        ("devices.gke.io/container.tcpxo-daemon: '- path: /dev/nvidia0'", Severity.WARNING),
        ("devices.gke.io/container.main: '- path: /dev/nvidia0'", None),
        (f"{INTERFACES}, networking.gke.io/default-interface: eth1", None),
        ("networking.gke.io/interfaces: '${INTERFACES}'", None),
    ],
)
def test_gkes_annotations_are_what_gke_reads(annotations: str, severity: Severity | None) -> None:
    found = findings(job(annotations=annotations))
    assert [(one.rule, one.severity) for one in found] == ([("IL314", severity)] if severity else [])
