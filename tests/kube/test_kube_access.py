"""Who may not in, and why, in a sentence that says what to do: commands against a real API server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.kube.cluster import Cluster, kubectl
from tests.kube.test_backend import until

from ironloom.backends.kubernetes import failures
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.elector import Elector
from ironloom.backends.kubernetes.kubeconfig import load
from ironloom.errors import ClusterError

pytestmark = pytest.mark.kube


def told(cluster: Cluster, folder: Path, *arguments: str, user: dict[str, Any] | None = None) -> str:
    """What a command that fails says: one sentence and a hint, and nothing on stdout."""
    file = folder / "kubeconfig"
    config = json.loads(cluster.kubeconfig.read_text())
    if user is not None:
        config["users"] = [{"name": "test", "user": user}]
    file.write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-m", "ironloom.cli", *arguments],
        env={**os.environ, "KUBECONFIG": str(file), "IRONLOOM_HOME": str(folder / "state")},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert not done.stdout
    sentence, _, hint = done.stderr.strip().partition("\n\n")
    assert hint.startswith("hint: ")
    assert "Traceback" not in done.stderr
    return f"{' '.join(sentence.split())} | {hint}"


FLEET = ("fleet", "--context", "test")
COMMANDS = (("fleet",), ("get",), ("describe", "chat"), ("snapshot", "--out", "-"), ("install", "--image", "a:1"))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_context_that_is_not_there_is_named_with_those_that_are(
    cluster: Cluster, tmp_path: Path, command: tuple[str, ...]
) -> None:
    said = told(cluster, tmp_path, *command, "--context", "tset")
    assert "tset" in said
    assert "test" in said.replace("tset", "")


def test_a_client_certificate_that_has_ended_is_told_with_its_end(cluster: Cluster, tmp_path: Path) -> None:
    user = cluster.clients.issue("ada", group="system:masters", begins=timedelta(days=-3), ends=timedelta(hours=-2))
    said = told(cluster, tmp_path, *FLEET, user=user)
    end = datetime.now(UTC) - timedelta(hours=2)
    assert "answered 401: the client certificate of user test expired " in said
    assert f"on {end:%Y-%m-%d %H:}" in said
    assert "fetch the cluster's kubeconfig anew" in said


def test_a_client_certificate_that_is_not_valid_yet_is_told_with_its_begin(cluster: Cluster, tmp_path: Path) -> None:
    user = cluster.clients.issue("bob", group="system:masters", begins=timedelta(days=2), ends=timedelta(days=3))
    begin = datetime.now(UTC) + timedelta(days=2)
    said = told(cluster, tmp_path, *FLEET, user=user)
    assert f"the client certificate of user test is not valid before {begin:%Y-%m-%d}" in said


def test_a_client_certificate_that_is_good_opens_the_door_and_one_without_rights_is_told_which(
    cluster: Cluster, tmp_path: Path
) -> None:
    said = told(cluster, tmp_path, *FLEET, user=cluster.clients.issue("eve"))
    # Several lists are asked for at once: the first refusal that comes is told.
    refusal = r'forbids user test to list (\w+): (\w+) is forbidden: User "eve" cannot list resource "(\w+)"'
    found = re.search(refusal, said)
    assert found is not None, said
    assert len(set(found.groups())) == 1, said
    assert f"ask for a role that allows to list {found[1]}" in said
    assert "in all of the cluster" in said
    runs = told(cluster, tmp_path, "get", "runs", "--context", "test", "-n", "default",
                user=cluster.clients.issue("eve"))  # fmt: skip
    assert "training runs need get, list, create, patch and delete on " in runs
    assert "ask for a role with these in namespace default" in runs


@pytest.mark.parametrize(("ahead", "how"), [(timedelta(hours=3), "ahead of"), (timedelta(hours=-3), "behind")])
def test_where_this_machines_clock_is_wrong_a_refusal_says_so(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, ahead: timedelta, how: str
) -> None:
    monkeypatch.setattr(failures, "clock", lambda: datetime.now(UTC) + ahead)
    target = load([cluster.kubeconfig]).target("test")
    stranger = replace(target, user=replace(target.user, token="nonsense"))

    async def story() -> None:
        async with Client(stranger) as client:
            with pytest.raises(ClusterError, match=f"this machine's clock is .* {how} that of the API server"):
                await client.get("/api/v1/nodes")

    asyncio.run(story())


def test_one_gateway_decides_and_another_follows_it_however_their_clocks_differ(cluster: Cluster) -> None:
    """Each of the two has been killed once, an hour ahead of the other and an hour behind."""
    kubectl(cluster, "create", "namespace", "skewed")
    target = load([cluster.kubeconfig]).target("test")

    def elector(client: Client, name: str, ahead: timedelta) -> Elector:
        return Elector(
            client,
            namespace="skewed",
            name="ironloom",
            identity=name,
            on_change=lambda _: None,
            wall=lambda: datetime.now(UTC) + ahead,
        )

    async def story() -> None:
        async with Client(target) as client:
            ahead, behind = elector(client, "a", timedelta(hours=1)), elector(client, "b", timedelta(hours=-1))
            first = asyncio.create_task(ahead.run())
            await until(lambda: ahead.leads)
            second = asyncio.create_task(behind.run())
            await until(lambda: behind.leader is not None)
            first.cancel()
            await until(lambda: behind.leads)
            assert not ahead.leads
            again = asyncio.create_task(ahead.run())
            await until(lambda: ahead.leader is not None and ahead.leader.holder == "b")
            assert (ahead.leads, behind.leads) == (False, True)
            second.cancel()
            await until(lambda: ahead.leads)
            assert not behind.leads
            again.cancel()
            await asyncio.gather(first, second, again, return_exceptions=True)

    asyncio.run(story())
    kubectl(cluster, "delete", "namespace", "skewed", "--wait=false")
