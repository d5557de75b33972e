"""The chart by the real Helm: well made in its judgement, and rendered into objects that a real API server takes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.kube.cluster import Cluster, cache, kubectl
from tests.kube.needs import need_programs

from ironloom.backends.kubernetes.chart import chart
from ironloom.backends.kubernetes.install import KEY_SECRET, NAME, Setting, objects

pytestmark = pytest.mark.kube
NAMESPACE = "charted"
VALUES = {
    "its own values": {},
    "three gateways and an ingress": {
        "replicas": 3,
        "resources": {"limits": {"memory": "2Gi"}},
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"pool": "cpu"},
        "tolerations": [{"operator": "Exists"}],
        "clusterReads": True,
        "ingress": {"host": "chat.example.com", "className": "nginx", "annotations": {"x/timeout": "3600"}},
    },
    "two gateways with volumes": {"replicas": 2, "state": {"size": "10Gi", "storageClass": "fast"}},
}
SETTING = Setting(namespace=NAMESPACE)


def helm(*arguments: str, status: int = 0) -> str:
    """What it prints; what it complains of where it refuses."""
    program = cache() / "bin" / "helm"
    need_programs([] if program.exists() else ["helm"])
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr if status else done.stdout


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The chart, as `ironloom install --helm` writes it."""
    folder = tmp_path / NAME
    for name, text in chart(SETTING).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def rendered(folder: Path, values: object, *, status: int = 0) -> str:
    file = folder.parent / "values.json"
    file.write_text(json.dumps(values))
    return helm("template", NAME, str(folder), "--namespace", NAMESPACE, "--values", str(file), status=status)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_helm_finds_nothing_wrong_and_the_api_server_takes_what_it_renders(
    cluster: Cluster, written: Path, values: object
) -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in helm("lint", "--strict", str(written))
    text = rendered(written, values)
    made = kubectl(cluster, "create", "namespace", NAMESPACE, "--dry-run=client", "-o", "yaml")
    kubectl(cluster, "apply", "-f", "-", text="\n".join(made))
    wanted = [one for one in yaml.safe_load_all(text) if one]
    taken = kubectl(cluster, "apply", "--dry-run=server", "--validate=strict", "-f", "-", text=text)
    assert len(taken) == len(wanted)
    assert all(line.endswith(" created (server dry run)") for line in taken), taken


def test_what_helm_renders_is_what_an_installation_applies(written: Path) -> None:
    kept = Setting(namespace=NAMESPACE, state_size="10Gi", state_class="fast")
    for values, setting in ({}, SETTING), ({"state": {"size": "10Gi", "storageClass": "fast"}}, kept):
        found = [one for one in yaml.safe_load_all(rendered(written, values)) if one]
        assert {one["kind"]: one for one in found} == {one["kind"]: one for one in objects(setting)}


def test_a_value_of_another_name_or_type_is_refused_by_helm(written: Path) -> None:
    assert "replica" in rendered(written, {"replica": 3}, status=1)
    assert "replicas" in rendered(written, {"replicas": "many"}, status=1)


def test_an_installation_by_helm_says_how_its_key_is_made(cluster: Cluster, written: Path) -> None:
    where = ("--kubeconfig", str(cluster.kubeconfig), "--namespace", "default")
    said = helm("install", "tried", str(written), "--dry-run=server", *where)
    assert f"kubectl -n default create secret generic {KEY_SECRET}" in said
