"""The gateway's objects: what they say for its safety, what they may be called, and the chart of the same objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes import helm

from ironloom.backends.kubernetes import install, install_check, roles, supply
from ironloom.backends.kubernetes.chart import chart
from ironloom.cli.main import main
from ironloom.errors import UsageError

GUIDES = Path(__file__).parents[3] / "docs" / "guides"
SETTINGS = {
    "one gateway": install.Setting(namespace="models", num_replicas=1),
    "three gateways": install.Setting(namespace="models", num_replicas=3, image=f"registry/a@sha256:{'0' * 64}"),
    "a route": install.Setting(namespace="models", gateway="edge/public"),
    "an ingress": install.Setting(namespace="models", ingress_host="chat.example.com"),
    "volumes of their own": install.Setting(namespace="models", num_replicas=2, state_size="10Gi"),
    "volumes of a class": install.Setting(namespace="models", state_size="512Mi", state_class="fast.example.com"),
    "reads of the cluster": install.Setting(namespace="models", reads_cluster=True),
}


def by_kind(setting: install.Setting) -> dict[str, Any]:
    return {one["kind"]: one for one in install.objects(setting)}


def pod_of(setting: install.Setting) -> Any:
    made = by_kind(setting)
    ((found,)) = [made[kind]["spec"]["template"]["spec"] for kind in ("Deployment", "StatefulSet") if kind in made]
    return found


def container(setting: install.Setting) -> Any:
    (found,) = pod_of(setting)["containers"]
    return found


def test_no_right_has_a_wildcard_and_no_secret_is_reached_but_by_its_name() -> None:
    for one in (*roles.ROLE, *roles.CLUSTER_READS):
        assert "*" not in (*one.verbs, one.resource, one.group)
        assert one.resource != "secrets" or one.names in (("hf-token",), ("ironloom",))
        assert one.what_for


def test_the_cluster_as_a_whole_is_read_and_never_written() -> None:
    assert {verb for one in roles.CLUSTER_READS for verb in one.verbs} == {"get", "list"}


def test_every_kind_of_pool_that_is_read_is_among_the_rights() -> None:
    listed = {(one.group, one.resource) for one in roles.CLUSTER_READS}
    assert {(group, f"{kind.lower()}{'es' if kind.endswith('ss') else 's'}") for group, kind in supply.KINDS} <= listed


def test_rights_on_the_cluster_are_asked_for_and_those_of_two_namespaces_are_two() -> None:
    assert not {"ClusterRole", "ClusterRoleBinding"} & by_kind(SETTINGS["one gateway"]).keys()
    one, other = (
        by_kind(install.Setting(namespace=namespace, reads_cluster=True)) for namespace in ("models", "other")
    )
    for kind in ("ClusterRole", "ClusterRoleBinding"):
        assert one[kind]["metadata"]["name"] != other[kind]["metadata"]["name"]
        assert "namespace" not in one[kind]["metadata"]
    binding = one["ClusterRoleBinding"]
    assert binding["roleRef"]["name"] == one["ClusterRole"]["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "ironloom", "namespace": "models"}]


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_the_gateway_runs_without_root_and_without_rights(setting: install.Setting) -> None:
    pod = pod_of(setting)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"] == install.USER_ID
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    safety = container(setting)["securityContext"]
    assert safety["readOnlyRootFilesystem"] is True
    assert safety["allowPrivilegeEscalation"] is False
    assert safety["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize(
    ("setting", "url"),
    [
        (install.Setting(namespace="models"), "http://ironloom.models.svc"),
        (install.Setting(namespace="models", gateway="edge/public"), "http://ironloom.models.svc"),
        (install.Setting(namespace="models", ingress_host="llm.example.com"), "http://llm.example.com"),
    ],
)
def test_it_knows_where_its_clients_reach_it(setting: install.Setting, url: str) -> None:
    assert container(setting)["args"][-2:] == ["--url", url]


def test_its_arguments_are_those_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--help"]) == 0
    shown = capsys.readouterr().out
    args = container(SETTINGS["one gateway"])["args"]
    assert args[0] == "up"
    assert all(one in shown for one in args if one.startswith("--"))


def test_each_gateway_has_a_volume_of_its_own_that_outlives_it_where_a_size_is_named() -> None:
    made = by_kind(SETTINGS["volumes of their own"])
    assert "Deployment" not in made
    spec = made["StatefulSet"]["spec"]
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}}
    assert claim["metadata"]["labels"] == {**install.LABELS, "app.kubernetes.io/managed-by": "ironloom"}
    assert set(spec["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    mounted = {one["name"]: one["mountPath"] for one in container(SETTINGS["volumes of their own"])["volumeMounts"]}
    assert mounted[claim["metadata"]["name"]] == install.STATE
    assert claim["metadata"]["name"] not in {one["name"] for one in spec["template"]["spec"]["volumes"]}
    assert made["PodDisruptionBudget"]["spec"]["selector"] == spec["selector"]
    (classed,) = by_kind(SETTINGS["volumes of a class"])["StatefulSet"]["spec"]["volumeClaimTemplates"]
    assert classed["spec"]["storageClassName"] == "fast.example.com"


def test_both_forms_run_the_same_pod_but_for_where_its_state_is() -> None:
    plain, kept = pod_of(SETTINGS["one gateway"]), pod_of(SETTINGS["volumes of a class"])
    assert plain["containers"] == kept["containers"]
    assert [one for one in plain["volumes"] if one not in kept["volumes"]] == [{"name": "state", "emptyDir": {}}]


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


@pytest.mark.parametrize(
    "image",
    [
        "ironloom",
        "ironloom:0.1.0",
        "registry.example.com/ironloom:0.1.0",
        "localhost:5000/team/iron-loom__x:v1",
        f"registry.example.com:443/a/b@sha256:{'0a' * 32}",
        "[2001:db8::1]:5000/a",
        "Registry/a",
    ],
)
def test_an_image_that_a_node_can_pull_is_taken(image: str) -> None:
    assert install.Setting(namespace="models", image=image).image == image


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        pytest.param({"namespace": "Models"}, "'Models' is no name of a namespace", id="an upper-case namespace"),
        pytest.param({"namespace": "a.b"}, "'a.b' is no name", id="a namespace with a dot"),
        pytest.param({"namespace": "a" * 64}, "is no name of a namespace", id="a namespace of 64 letters"),
        pytest.param({"namespace": ""}, "'' is no name of a namespace", id="no namespace"),
        pytest.param({"namespace": "a\n"}, "is no name of a namespace", id="a namespace with a line's end"),
        pytest.param({"image": ""}, "'' is no image", id="no image"),
        pytest.param({"image": "https://a/b"}, "'https://a/b' is no image", id="a URL as image"),
        pytest.param({"image": "a b"}, "'a b' is no image", id="an image with a blank"),
        pytest.param({"image": "reg/Ironloom"}, "is no image", id="an upper-case image"),
        pytest.param({"image": "a:"}, "is no image", id="an empty tag"),
        pytest.param({"image": "a@sha256:12"}, "is no image", id="a short digest"),
        pytest.param({"image": "a" * 256}, "is no image", id="an image of 256 letters"),
        pytest.param({"gateway": "a/b/c"}, "'a/b' is no name of a namespace", id="a gateway of three parts"),
        pytest.param({"gateway": "edge/"}, "'edge/' names no Gateway", id="a gateway without a name"),
        pytest.param({"gateway": "/edge"}, "'' is no name of a namespace", id="a gateway of no namespace"),
        pytest.param({"state_class": "fast"}, "--state-class says nothing without", id="a class and no size"),
        pytest.param({"state_size": "10Gi", "state_class": "Fast"}, "no name of a StorageClass", id="a bad class"),
        pytest.param({"state_size": "10GB"}, "'10GB' is no size of a volume", id="a suffix that is none"),
        pytest.param({"state_size": "-1Gi"}, "'-1Gi' is no size of a volume", id="less than nothing"),
        pytest.param({"state_size": "\u0661Gi"}, "is no size of a volume", id="a digit of another script"),
        pytest.param({"state_size": " 1Gi"}, "' 1Gi' is no size of a volume", id="a blank before a size"),
        pytest.param({"state_size": "10"}, "'10' is too small", id="a size without its suffix"),
        pytest.param({"ingress_host": "10.0.0.1"}, "10.0.0.1 is an address", id="an address as host"),
        pytest.param({"ingress_host": "https://a.b"}, "'https://a.b' is no host name", id="a URL as host"),
        pytest.param({"ingress_host": "a.b:80"}, "'a.b:80' is no host name", id="a host with a port"),
        pytest.param({"ingress_host": "A.b"}, "'A.b' is no host name", id="an upper-case host"),
        pytest.param({"ingress_host": "a.*.b"}, "is no host name", id="a star in the middle"),
    ],
)
def test_a_name_that_is_none_is_refused_with_what_one_looks_like(fields: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        install.Setting(**{"namespace": "models", **fields})  # type: ignore[arg-type]
    assert said in caught.value.message
    assert caught.value.hint


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    for check in (
        install_check.check_namespace,
        install_check.check_image,
        install_check.check_gateway,
        install_check.check_host,
        lambda size: size and install_check.check_state(size, ""),
        lambda name: install_check.check_state("1Gi", name),
    ):
        try:
            check(text)
        except UsageError:
            continue
        assert text.isascii()
        assert text.isprintable()
        assert " " not in text


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_the_chart_rendered_with_its_own_values_is_the_objects(setting: install.Setting) -> None:
    files = chart(setting)
    rendered = helm.render(files, namespace=setting.namespace)
    assert {one["kind"]: one for one in rendered} == by_kind(setting)
    assert yaml.safe_load(files["Chart.yaml"])["apiVersion"] == "v2"


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_the_chart_of_any_setting_has_every_way_by_its_values(setting: install.Setting) -> None:
    files = chart(setting)
    for wanted, values in (
        (SETTINGS["one gateway"], {"replicas": 1, "image": install.IMAGE}),
        (SETTINGS["three gateways"], {"replicas": 3, "image": SETTINGS["three gateways"].image}),
        (SETTINGS["a route"], {"gateway": {"name": "public", "namespace": "edge"}}),
        (install.Setting(namespace="models", gateway="near"), {"gateway": {"name": "near", "namespace": ""}}),
        (SETTINGS["an ingress"], {"ingress": {"host": "chat.example.com"}}),
        (SETTINGS["reads of the cluster"], {"clusterReads": True}),
        (SETTINGS["volumes of their own"], {"replicas": 2, "state": {"size": "10Gi", "storageClass": ""}}),
        (SETTINGS["volumes of a class"], {"state": {"size": "512Mi", "storageClass": "fast.example.com"}}),
    ):
        bare = {"replicas": 1, "image": install.IMAGE, "clusterReads": False, "gateway": {"name": ""},
                "ingress": {"host": ""}, "state": {"size": "", "storageClass": ""}}  # fmt: skip
        rendered = helm.render(files, namespace="models", values={**bare, **values})
        assert {one["kind"]: one for one in rendered} == by_kind(wanted)


@pytest.mark.parametrize("form", ["Deployment", "StatefulSet"])
def test_the_chart_s_other_values_go_where_kubernetes_has_them(form: str) -> None:
    values: dict[str, Any] = {
        "resources": {"limits": {"memory": "2Gi"}},
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"pool": "cpu: 'a'"},
        "tolerations": [{"operator": "Exists"}],
        "ingress": {"host": "a.example.com", "className": "nginx", "annotations": {"x/timeout": "3600"}},
    }
    size = {"state": {"size": "1Gi"}} if form == "StatefulSet" else {}
    files = chart(SETTINGS["one gateway"])
    rendered = {one["kind"]: one for one in helm.render(files, namespace="1", values={**values, **size})}
    pod = rendered[form]["spec"]["template"]["spec"]
    for key in ("imagePullSecrets", "nodeSelector", "tolerations"):
        assert pod[key] == values[key]
    assert pod["containers"][0]["resources"] == {**install.RESOURCES, **values["resources"]}
    assert rendered["Ingress"]["spec"]["ingressClassName"] == "nginx"
    assert rendered["Ingress"]["metadata"]["annotations"] == {"x/timeout": "3600"}
    assert rendered[form]["metadata"]["namespace"] == "1"


def test_the_chart_describes_its_values_and_says_how_its_key_is_made() -> None:
    files = chart(SETTINGS["one gateway"])
    schema, values = json.loads(files["values.schema.json"]), yaml.safe_load(files["values.yaml"])
    assert schema["properties"].keys() == {*values, "global"}
    assert "kubectl -n models create secret generic ironloom-key" in helm.notes(files, namespace="models")


def test_the_image_is_of_the_user_and_the_port_that_the_pod_has_and_its_wheels_are_pinned_by_hash() -> None:
    root = GUIDES.parents[1]
    lines = (root / "deploy" / "Dockerfile").read_text().splitlines()
    assert f"USER {install.USER_ID}:{install.USER_ID}" in lines
    assert f"EXPOSE {install.PORT}" in lines
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    assert all((root / name).exists() for names in copied for name in names)
    let_through = (root / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in let_through
    assert all(f"!{Path(name).parts[0]}" in let_through for names in copied for name in names)
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
    said = capsys.readouterr()
    printed = list(yaml.safe_load_all(said.out))
    assert printed == install.objects(install.Setting(namespace="models"))
    assert "Secret ironloom-key is not among them" in said.err
    assert f"the image {install.IMAGE} is in no registry: --image names" in said.err
    assert "kubectl -n models create secret generic ironloom-key --from-literal=token=" in said.err
    assert main(["install", "--context", "c", "--dry-run", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["items"] == printed
    assert main(["install", "--context", "c", "-n", "other", "--cluster-reads", "--dry-run"]) == 0
    assert list(yaml.safe_load_all(capsys.readouterr().out)) == install.objects(
        install.Setting(namespace="other", reads_cluster=True)
    )


def test_what_is_only_printed_needs_neither_a_context_nor_a_kubeconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    for more, namespace in ([], "default"), (["-n", "models"], "models"):
        assert main(["install", "--dry-run", *more]) == 0
        said = capsys.readouterr()
        assert list(yaml.safe_load_all(said.out)) == install.objects(install.Setting(namespace=namespace))
        assert f"kubectl -n {namespace} create secret generic ironloom-key" in said.err
    assert main(["install", "--helm", str(tmp_path / "chart")]) == 0
    assert (tmp_path / "chart" / "Chart.yaml").is_file()
    for more in [], ["--dry-run=server"]:
        assert main(["install", *more]) == 2
        assert "An installation needs --context" in capsys.readouterr().err


@pytest.mark.usefixtures("kubeconfig")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["install", "--image", "A B"], "'A B' is no image"),
        (["install", "-n", "No_Such"], "'No_Such' is no name of a namespace"),
        (["uninstall", "-n", "No_Such"], "'No_Such' is no name of a namespace"),
        (["install", "--ingress-host", "https://x"], "'https://x' is no host name"),
        (["install", "--gateway", "a b"], "'a b' names no Gateway"),
        (["install", "--state-size", "much"], "--state-size: 'much' is no size of a volume"),
        (["install", "--state-class", "fast"], "--state-class says nothing without --state-size"),
    ],
)
def test_a_bad_name_is_told_with_a_hint_and_no_cluster_is_asked(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    command, *more = arguments
    assert main([command, "--context", "c", *more]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "hint: " in err


@pytest.mark.usefixtures("kubeconfig")
def test_a_chart_is_not_written_over_other_files_and_loses_what_it_no_longer_has(tmp_path: Path) -> None:
    chart = tmp_path / "chart"
    assert main(["install", "--context", "c", "--helm", str(chart), "--gateway", "public"]) == 0
    (chart / "templates" / "of-an-older-version.yaml").write_text("kind: Old\n")
    assert main(["install", "--context", "c", "--helm", str(chart)]) == 0
    assert not (chart / "templates" / "of-an-older-version.yaml").exists()
    assert yaml.safe_load((chart / "values.yaml").read_text())["gateway"]["name"] == ""
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes").write_text("mine")
    assert main(["install", "--context", "c", "--helm", str(other)]) == 2
    assert [path.name for path in other.iterdir()] == ["notes"]


def test_no_right_is_given_twice() -> None:
    for rights in (roles.ROLE, roles.CLUSTER_READS):
        given = [(one.group, one.resource, one.names, verb) for one in rights for verb in one.verbs]
        assert len(given) == len(set(given))
