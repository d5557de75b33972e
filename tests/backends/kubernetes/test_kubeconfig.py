"""kubeconfig files mean what kubectl makes of them, and only a context that is named is used."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backends.kubernetes.conftest import kubeconfig_of

from ironloom.backends.kubernetes import kubeconfig
from ironloom.errors import IronloomError, ManifestError, UsageError


def write(path: Path, config: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return path


def target(tmp_path: Path, context: str = "prod", **words: Any) -> kubeconfig.Target:
    config = kubeconfig_of(words.pop("server", "https://203.0.113.7:6443"), **words)
    return kubeconfig.load([write(tmp_path / "config", config)]).target(context)


def test_the_files_are_those_of_the_variable_else_the_one_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert kubeconfig.files({}) == (Path("/home/ada/.kube/config"),)
    listed = os.pathsep.join(["/a", "", "/b", "/a"])
    assert kubeconfig.files({"KUBECONFIG": listed}) == (Path("/a"), Path("/b"))


def test_of_two_clusters_of_one_name_the_first_files_counts_whole(tmp_path: Path) -> None:
    first = kubeconfig_of("https://one:6443")
    del first["contexts"]
    second = kubeconfig_of("https://two:6443", cluster={"tls-server-name": "two"}, namespace="research")
    paths = [write(tmp_path / "a", first), tmp_path / "is-not-there", write(tmp_path / "b", second)]
    found = kubeconfig.load(paths).target("prod")
    assert (found.server, found.tls_server_name, found.namespace) == ("https://one:6443", "", "research")


def test_the_current_context_is_never_used_and_a_wrong_name_shows_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "config", kubeconfig_of("https://x", context="production"))
    with pytest.raises(UsageError, match=r"no context 'prodution' in .*config; did you mean production\?") as caught:
        kubeconfig.load([path]).target("prodution")
    assert caught.value.hint == "contexts there: production"
    with pytest.raises(UsageError, match="no context ''"):
        kubeconfig.load([path]).target("")


def test_no_file_at_all_is_no_context(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        kubeconfig.load([tmp_path / "none"]).target("prod")
    assert caught.value.message == f"There is no kubeconfig {tmp_path / 'none'}, so no context 'prod'"
    assert caught.value.hint == "KUBECONFIG names another file"


def test_a_context_whose_cluster_is_not_there_says_so(tmp_path: Path) -> None:
    config = kubeconfig_of("https://x")
    config["clusters"] = []
    with pytest.raises(UsageError, match="no cluster 'prod-cluster' that context prod names"):
        kubeconfig.load([write(tmp_path / "config", config)]).target("prod")


def test_credentials_inline_outrank_files_and_paths_are_relative_to_their_file(tmp_path: Path) -> None:
    write(tmp_path / "certs/ca.pem", "authority")
    write(tmp_path / "certs/client.pem", "from the file")
    write(tmp_path / "certs/client.key", "key of the file")
    found = target(
        tmp_path,
        cluster={"certificate-authority": "certs/ca.pem"},
        user={
            "client-certificate": "certs/client.pem",
            "client-certificate-data": b64encode(b"inline").decode(),
            "client-key": "certs/client.key",
            "tokenFile": "certs/token",
        },
    )
    assert found.authority == b"authority"
    assert (found.user.certificate, found.user.key) == (b"inline", b"key of the file")
    assert found.user.token_file == tmp_path / "certs/token"


def test_secrets_are_not_in_a_repr(tmp_path: Path) -> None:
    data = b64encode(b"hunter2").decode()
    found = target(
        tmp_path, user={"token": "hunter2", "password": "hunter2", "client-key-data": data, "username": "ada"}
    )
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize(
    ("server", "cluster", "means"),
    [
        ("https://h:6443/k8s/clusters/c-1/", {}, "https://h:6443/k8s/clusters/c-1"),
        ("h:8080", {}, "http://h:8080"),
        ("h:6443", {"insecure-skip-tls-verify": True}, "https://h:6443"),
    ],
)
def test_a_server_is_an_url(server: str, cluster: dict[str, Any], means: str, tmp_path: Path) -> None:
    assert target(tmp_path, server=server, cluster=cluster).server == means


def test_impersonation_becomes_headers(tmp_path: Path) -> None:
    found = target(tmp_path, user={"as": "bob", "as-groups": ["a", "b"], "as-user-extra": {"team": ["x"]}})
    assert found.user.impersonate == (
        ("Impersonate-User", "bob"),
        ("Impersonate-Group", "a"),
        ("Impersonate-Group", "b"),
        ("Impersonate-Extra-team", "x"),
    )


def test_a_plugin_is_read_with_its_arguments_and_a_relative_command_is_its_files(tmp_path: Path) -> None:
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "bin/login",
        "args": ["--cluster", "x"],
        "env": [{"name": "PROFILE", "value": "prod"}],
        "interactiveMode": "Never",
        "provideClusterInfo": True,
        "installHint": "fetch it",
    }
    found = target(tmp_path, user={"exec": plugin}).user.plugin
    assert found is not None
    assert (found.command, found.args, found.env) == (
        str(tmp_path / "bin/login"), ("--cluster", "x"), (("PROFILE", "prod"),)
    )  # fmt: skip
    assert (found.interactive_mode, found.provides_cluster_info, found.install_hint) == ("Never", True, "fetch it")
    bare = target(tmp_path, user={"exec": {**plugin, "command": "login"}}).user.plugin
    assert bare is not None
    assert bare.command == "login", "a bare name is looked for on PATH"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"server": ""}, r"clusters\[0\].cluster.server is not set"),
        ({"server": "https://"}, "'https://' is no URL"),
        ({"server": "https://h:port"}, "is no URL"),
        ({"server": "ftp://h"}, "is no URL"),
        ({"cluster": {"certificate-authority": "no-such-file"}}, "No such file"),
        ({"cluster": {"certificate-authority-data": "!!"}}, "certificate-authority-data is not base64"),
        ({"cluster": {"insecure-skip-tls-verify": "yes"}}, "= 'yes', must be true or false"),
        ({"user": {"token": 7}}, "token is int, must be text"),
        ({"user": {"exec": {"args": []}}}, "exec has no command"),
        ({"user": {"exec": {"command": "x", "args": [1]}}}, "args must be a list of texts"),
        ({"user": {"exec": {"command": "x", "env": ["A=b"]}}}, "env must be a list of name and value"),
        ({"user": {"auth-provider": {"name": "gcp"}}}, "auth-provider was removed"),
    ],
)
def test_what_means_nothing_is_one_sentence_with_the_file(words: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=said) as caught:
        target(tmp_path, **words)
    assert caught.value.file == str(tmp_path / "config")


@pytest.mark.parametrize(
    ("text", "said", "line"),
    [
        ("a: }\n", "the kubeconfig is no YAML", 1),
        ("- a\n- b\n", "the kubeconfig is no mapping", 1),
        ("clusters: 3\n", "clusters must be a list", 0),
        ("users: [{user: {}}]\n", r"users\[0\] must have a name and a user", 0),
        ("users: [{name: a}, {name: a}]\n", "two users named 'a'", 0),
        ("a: !!python/object:os.system x\n", "the kubeconfig is no YAML", 1),
    ],
)
def test_a_file_that_is_no_kubeconfig_is_one_sentence(text: str, said: str, line: int, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=said) as caught:
        kubeconfig.load([write(tmp_path / "config", text)])
    assert caught.value.line == line


def test_a_file_that_is_no_text_and_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "config").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="not text in UTF-8"):
        kubeconfig.load([tmp_path / "config"])
    assert kubeconfig.load([write(tmp_path / "empty", "")]).contexts == {}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "cluster", "user", "context", "server", "exec", "command", "args", "env", "token"])
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(clusters=values, users=values, contexts=values)
def test_whatever_stands_in_it_ends_in_a_target_or_a_sentence(
    clusters: object, users: object, contexts: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-config"
    path.write_text(json.dumps({"clusters": clusters, "users": users, "contexts": contexts}))
    with suppress(IronloomError):
        found = kubeconfig.load([path])
        for name in found.contexts:
            with suppress(IronloomError):
                found.target(name)
