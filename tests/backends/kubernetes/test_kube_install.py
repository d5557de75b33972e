"""The gateway's objects: what they say for its safety, one source of its rights, and the chart of the same objects."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ironloom.backends.kubernetes import install, roles
from ironloom.cli.main import main
from ironloom.errors import UsageError

GUIDES = Path(__file__).parents[3] / "docs" / "guides"
SETTINGS = {
    "one gateway": install.Setting(namespace="models", num_replicas=1),
    "three gateways": install.Setting(namespace="models", num_replicas=3, image="registry/ironloom@sha256:0"),
    "a route": install.Setting(namespace="models", gateway="edge/public"),
    "an ingress": install.Setting(namespace="models", ingress_host="chat.example.com"),
}


def by_kind(setting: install.Setting) -> dict[str, Any]:
    return {one["kind"]: one for one in install.objects(setting)}


def container(setting: install.Setting) -> Any:
    (found,) = by_kind(setting)["Deployment"]["spec"]["template"]["spec"]["containers"]
    return found


def test_the_guide_shows_the_very_role_that_is_applied() -> None:
    lines = (GUIDES / "kubernetes.md").read_text().splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("    apiVersion: rbac"))
    block = lines[begin : lines.index("", begin)]
    assert "\n".join(line[4:] for line in block) == roles.as_text("models")
    assert yaml.safe_load(roles.as_text("models")) == roles.role("models")


def test_the_role_has_no_wildcard_and_reaches_no_secret_by_list() -> None:
    for rule in roles.role("models")["rules"]:
        assert "*" not in (*rule["verbs"], *rule["resources"], *rule["apiGroups"])
        if rule["resources"] == ["secrets"]:
            assert (rule["resourceNames"], rule["verbs"]) in (
                (["hf-token"], ["get"]),
                (["ironloom"], ["list", "watch", "patch"]),
            )


def test_the_gateway_runs_without_root_and_without_rights() -> None:
    pod = by_kind(SETTINGS["one gateway"])["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    safety = container(SETTINGS["one gateway"])["securityContext"]
    assert safety["readOnlyRootFilesystem"] is True
    assert safety["allowPrivilegeEscalation"] is False
    assert safety["capabilities"] == {"drop": ["ALL"]}


def test_its_arguments_are_those_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--help"]) == 0
    shown = capsys.readouterr().out
    args = container(SETTINGS["one gateway"])["args"]
    assert args[0] == "up"
    assert all(one in shown for one in args if one.startswith("--"))


def test_a_budget_is_there_where_a_gateway_can_be_spared() -> None:
    assert "PodDisruptionBudget" not in by_kind(SETTINGS["one gateway"])
    budget = by_kind(SETTINGS["three gateways"])["PodDisruptionBudget"]
    assert budget["spec"]["maxUnavailable"] == 1


def test_a_named_gateway_or_host_leads_in() -> None:
    route = by_kind(SETTINGS["a route"])["HTTPRoute"]["spec"]
    assert route["parentRefs"] == [{"name": "public", "namespace": "edge"}]
    assert route["rules"][0]["timeouts"] == {"request": "0s"}
    ingress = by_kind(SETTINGS["an ingress"])["Ingress"]["spec"]
    assert ingress["rules"][0]["host"] == "chat.example.com"
    with pytest.raises(UsageError, match="two ways in"):
        install.Setting(namespace="models", gateway="a", ingress_host="b")


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_the_chart_rendered_with_its_own_values_is_the_objects(setting: install.Setting) -> None:
    files = install.chart(setting)
    values = yaml.safe_load(files["values.yaml"])
    known = {".Release.Namespace": setting.namespace, **{f".Values.{key}": str(one) for key, one in values.items()}}
    rendered = [
        yaml.safe_load(re.sub(r"{{ (\S+) }}", lambda found: known[found[1]], text))
        for name, text in files.items()
        if name.startswith("templates/")
    ]
    assert {one["kind"]: one for one in rendered} == by_kind(setting)
    assert yaml.safe_load(files["Chart.yaml"])["apiVersion"] == "v2"


def test_the_image_is_of_the_user_and_the_port_that_the_pod_has_and_its_wheels_are_pinned_by_hash() -> None:
    root = GUIDES.parents[1]
    lines = (root / "deploy" / "Dockerfile").read_text().splitlines()
    assert f"USER {install.USER_ID}:{install.USER_ID}" in lines
    assert f"EXPOSE {install.PORT}" in lines
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    assert all((root / name).exists() for names in copied for name in names)
    assert any("--require-hashes" in line for line in lines)
    assert "httpx2==" in (root / "requirements" / "base.txt").read_text()  # a live cluster is read with it


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a cluster that nobody can reach."""
    path = tmp_path / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "u", "user": {"token": "x"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "models"}}],
    }
    path.write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


@pytest.mark.usefixtures("kubeconfig")
def test_a_dry_run_of_the_client_prints_the_objects_and_asks_no_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--context", "c", "--dry-run=client", "-o", "yaml"]) == 0
    printed = list(yaml.safe_load_all(capsys.readouterr().out))
    assert printed == install.objects(install.Setting(namespace="models"))
    assert main(["install", "--context", "c", "--dry-run=client", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["items"] == printed


@pytest.mark.usefixtures("kubeconfig")
def test_a_chart_is_not_written_over_other_files_and_loses_what_it_no_longer_has(tmp_path: Path) -> None:
    chart = tmp_path / "chart"
    assert main(["install", "--context", "c", "--helm", str(chart), "--gateway", "public"]) == 0
    assert (chart / "templates" / "httproute.yaml").is_file()
    assert main(["install", "--context", "c", "--helm", str(chart)]) == 0
    assert not (chart / "templates" / "httproute.yaml").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes").write_text("mine")
    assert main(["install", "--context", "c", "--helm", str(other)]) == 2
    assert [path.name for path in other.iterdir()] == ["notes"]
