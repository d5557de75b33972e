"""Keys of several gateways: in a Secret, hashed, good at each of them, and there after all of them are gone."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from tests.kube.cluster import Cluster, kubectl
from tests.kube.gateway import running
from tests.kube.test_backend import wait_until

from ironloom.backends.kubernetes import roles

pytestmark = pytest.mark.kube
NAMESPACE = "keys"
TOKEN = "il-" + "0123456789abcdef" * 2
SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/ironloom"


def call(url: str, token: str, method: str, path: str, body: Any = None) -> Any:
    request = urllib.request.Request(
        f"{url}{path}",
        data=json.dumps(body).encode() if body is not None else None,
        method=method,
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or b"null")


def opens(url: str, token: str) -> bool:
    """Whether a key is good at a gateway."""
    try:
        call(url, token, "GET", "/v1/models")
    except urllib.error.HTTPError as error:
        if error.code != 401:
            raise
        return False
    return True


def test_a_key_is_good_at_every_gateway_outlives_them_and_its_token_is_nowhere(
    cluster: Cluster, tmp_path: Path
) -> None:
    """With the rights of an installation's Role alone."""
    kubectl(cluster, "create", "namespace", NAMESPACE)
    kubectl(cluster, "create", "serviceaccount", "ironloom", "-n", NAMESPACE)
    kubectl(cluster, "apply", "-f", "-", text=json.dumps(roles.role(NAMESPACE)))
    bound = ("--role=ironloom", f"--serviceaccount={NAMESPACE}:ironloom", "-n", NAMESPACE)
    kubectl(cluster, "create", "rolebinding", "ironloom", *bound)
    (token,) = kubectl(cluster, "create", "token", "ironloom", "-n", NAMESPACE)
    kubectl(cluster, "create", "secret", "generic", "ironloom", "-n", NAMESPACE)
    limited = Cluster(tmp_path / "limited")
    limited.folder.mkdir()
    config = json.loads(cluster.kubeconfig.read_text())
    config["users"] = [{"name": "test", "user": {"token": token}}]
    limited.kubeconfig.write_text(json.dumps(config))
    (tmp_path / "token").write_text(TOKEN)
    more = ("--namespace", NAMESPACE, "--shared", "--require-keys", "--control-key-file", str(tmp_path / "token"))

    def folder(name: str) -> Path:
        made = tmp_path / name
        made.mkdir()
        return made

    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(running(limited, folder(name), *more)).url for name in ("a", "b"))
        made: dict[str, Any] = {}

        def is_made() -> bool:
            """By the one that decides; the other one refuses."""
            for url in (first, second):
                with contextlib.suppress(urllib.error.HTTPError):
                    made.update(call(url, TOKEN, "POST", "/api/v1/keys", {"name": "team", "scope": "inference"}))
                    return True
            return False

        wait_until(is_made)
        wait_until(lambda: opens(first, made["key"]) and opens(second, made["key"]))
        kept = cluster.request("GET", SECRET)["data"]
        assert list(kept) == [made["id"]]
        assert made["key"] not in b64decode(kept[made["id"]]).decode()
    with running(limited, folder("c"), *more) as later:
        assert opens(later.url, made["key"]), "a gateway that takes requests knows the keys"

        def is_revoked() -> bool:
            with contextlib.suppress(urllib.error.HTTPError):
                call(later.url, TOKEN, "DELETE", f"/api/v1/keys/{made['id']}")
                return True
            return False

        wait_until(is_revoked)
        assert not opens(later.url, made["key"])
        assert not cluster.request("GET", SECRET).get("data")
    kubectl(cluster, "delete", "namespace", NAMESPACE, "--wait=false")
