"""An installation and its end, against a few paths in memory: judged whole first, and told what is not one's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import pytest

from ironloom.backends.kubernetes import install_apply
from ironloom.backends.kubernetes.client import Client, Page
from ironloom.backends.kubernetes.install import Object, Setting, objects
from ironloom.errors import ClusterError

ROLE = install_apply.PATHS["Role"].format(namespace="models", name="ironloom")
ROUTE = install_apply.PATHS["HTTPRoute"].format(namespace="models", name="ironloom")
STATEFUL_SET = install_apply.PATHS["StatefulSet"].format(namespace="models", name="ironloom")
CLAIMS = "/api/v1/namespaces/models/persistentvolumeclaims"
DEPLOYMENT = install_apply.PATHS["Deployment"].format(namespace="models", name="ironloom")
CLUSTER_ROLE = install_apply.PATHS["ClusterRole"].format(name="ironloom-cluster-reads-models")
CLUSTER_BINDING = install_apply.PATHS["ClusterRoleBinding"].format(name="ironloom-cluster-reads-models")
PLAIN = Setting(namespace="models")
KEPT = Setting(namespace="models", state_size="10Gi")
READY = {"status": {"updatedReplicas": 1, "availableReplicas": 1}}
READS = Setting(namespace="models", reads_cluster=True)


class Paths:
    """What an API server has, by path. `refusals` are told by method and path, a dry run's by `TRIAL`."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.refusals: dict[tuple[str, str], ClusterError] = {}
        self.config_maps: list[str] = []
        self.claims: list[str] = []
        self.writes: list[str] = []

    def _refuse(self, method: str, path: str) -> None:
        if error := self.refusals.get((method, path)):
            raise error

    async def get(self, path: str, *, what: str = "") -> bytes:
        self._refuse("GET", path)
        if path not in self.objects:
            raise ClusterError("not found", status=404)
        return json.dumps(self.objects[path]).encode()

    async def apply(
        self, path: str, body: Mapping[str, Any], *, manager: str, forces: bool, is_trial: bool = False
    ) -> bytes:
        assert (manager, forces) == (install_apply.MANAGER, True)
        self._refuse("TRIAL" if is_trial else "APPLY", path)
        before = self.objects.get(path)
        merged = {**(before or {}), **json.loads(json.dumps(body))}
        version = int(before["metadata"]["resourceVersion"]) if before else 0
        merged["metadata"] = {**(before or merged)["metadata"], **body["metadata"], "resourceVersion": str(version)}
        if merged != before and not is_trial:
            merged["metadata"]["resourceVersion"] = str(version + 1)
            self.objects[path] = merged
            self.writes.append(path)
        return json.dumps(merged).encode()

    async def change(self, method: str, path: str, body: Any = None, *, what: str = "") -> bytes:
        self._refuse(method, path)
        if method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                raise ClusterError(f"{what}: it is there", status=409)
            self.objects[path] = body
        elif self.objects.pop(path, None) is None:
            raise ClusterError("not found", status=404)
        self.writes.append(path)
        return b"{}"

    async def pages(self, path: str, **_: Any) -> AsyncIterator[Page]:
        self._refuse("LIST", path)
        if path == CLAIMS:
            items: list[Object] = [{"metadata": {"name": name}} for name in self.claims]
        else:
            items = [{"metadata": {"labels": {"ironloom.dev/service": name}}} for name in self.config_maps]
        encoded = tuple(json.dumps(one).encode() for one in items)
        yield Page(items=encoded, kind="ConfigMapList", is_first=True, num_remaining=0, resource_version="1")


def forbidden(message: str = "no") -> ClusterError:
    return ClusterError(message, status=403)


def installed(paths: Paths, setting: Setting = PLAIN, *, is_trial: bool = False) -> dict[str, str]:
    """Actions by kind and name."""
    client = cast("Client", paths)
    applied = install_apply.install(
        client, objects(setting), namespace=setting.namespace, is_trial=is_trial, follows_within_s=0.0
    )
    done = asyncio.run(applied)
    return {f"{one.kind} {one.name}": one.action for one, _ in done}


def removed(paths: Paths) -> install_apply.Removed:
    return asyncio.run(install_apply.uninstall(cast("Client", paths), namespace="models"))


def test_the_same_again_is_unchanged_and_a_trial_tells_what_a_change_would_configure_and_does_not() -> None:
    paths = Paths()
    assert set(installed(paths).values()) == {"created"}
    assert set(installed(paths).values()) == {"unchanged"}
    two = Setting(namespace="models", num_replicas=2)
    writes = list(paths.writes)
    tried = installed(paths, two, is_trial=True)
    assert tried["Deployment ironloom"] == "configured"
    assert tried["Role ironloom"] == "unchanged"
    assert tried["PodDisruptionBudget ironloom"] == "created"
    assert paths.writes == writes
    done = installed(paths, two)
    assert {key: done[key] for key in tried} == tried


@pytest.mark.parametrize(
    ("path", "refusal", "said"),
    [
        pytest.param(DEPLOYMENT, ClusterError("quota x is used up", status=403), "quota x is used up", id="a quota"),
        pytest.param(ROLE, forbidden("attempting to grant RBAC permissions not currently held"),
                     "gives rights that you do not hold yourself", id="an escalation"),
        pytest.param(CLUSTER_ROLE, forbidden("cannot patch clusterroles"), "cannot patch", id="the cluster's roles"),
    ],
)  # fmt: skip
def test_what_one_object_is_refused_for_changes_nothing(path: str, refusal: ClusterError, said: str) -> None:
    paths = Paths()
    paths.refusals["TRIAL", path] = refusal
    with pytest.raises(ClusterError, match=said) as caught:
        installed(paths, READS)
    assert caught.value.hint
    assert paths.writes == []


@pytest.mark.parametrize("message", ["answered 404 to apply httproutes", "could not find the requested resource"])
def test_a_kind_that_is_not_served_is_told_by_its_name(message: str) -> None:
    paths = Paths()
    paths.refusals["TRIAL", ROUTE] = ClusterError(message, status=404)
    with pytest.raises(ClusterError, match=r"does not serve HTTPRoute \(gateway.networking.k8s.io/v1\)"):
        installed(paths, Setting(namespace="models", gateway="public"))
    assert paths.writes == []


def test_a_namespace_that_is_not_there_keeps_its_own_words() -> None:
    paths = Paths()
    for one in objects(PLAIN):
        path = install_apply.PATHS[one["kind"]].format(namespace="models", name="ironloom")
        paths.refusals["TRIAL", path] = ClusterError("there is no namespace models", status=404)
    with pytest.raises(ClusterError, match=r"^there is no namespace models$"):
        installed(paths)
    assert paths.writes == []


def test_a_webhook_that_takes_no_dry_run_is_asked_by_the_change_itself() -> None:
    paths = Paths()
    paths.refusals["TRIAL", DEPLOYMENT] = ClusterError("webhook a.b does not support dry run", status=400)
    assert installed(paths)["Deployment ironloom"] == "created"
    assert DEPLOYMENT in paths.objects


def test_reads_of_the_cluster_that_are_no_longer_asked_for_are_taken_back() -> None:
    paths = Paths()
    installed(paths, READS)
    assert {CLUSTER_ROLE, CLUSTER_BINDING} <= paths.objects.keys()
    done = installed(paths)
    assert done["ClusterRole ironloom-cluster-reads-models"] == "deleted"
    assert not {CLUSTER_ROLE, CLUSTER_BINDING} & paths.objects.keys()


@pytest.mark.parametrize(
    ("first", "then"), [((DEPLOYMENT, PLAIN), (STATEFUL_SET, KEPT)), ((STATEFUL_SET, KEPT), (DEPLOYMENT, PLAIN))]
)
def test_what_made_the_pods_goes_once_what_follows_it_answers_and_not_before(
    first: tuple[str, Setting], then: tuple[str, Setting]
) -> None:
    paths = Paths()
    installed(paths, first[1])
    tried = installed(paths, then[1], is_trial=True)
    assert "created" in tried.values()
    assert then[0] not in paths.objects
    done = installed(paths, then[1])
    assert {first[0], then[0]} <= paths.objects.keys()
    assert list(done.values())[-1] == "kept"
    paths.objects[then[0]] |= READY
    done = installed(paths, then[1])
    assert list(done.values())[-1] == "deleted"
    assert first[0] not in paths.objects
    assert "kept" not in installed(paths, then[1]).values()


def test_a_stateful_set_of_that_name_that_another_made_stays_and_is_not_waited_for() -> None:
    paths = Paths()
    paths.objects[STATEFUL_SET] = {"metadata": {"name": "ironloom", "labels": {"app": "other"}}}
    assert set(installed(paths).values()) == {"created"}
    assert STATEFUL_SET in paths.objects


def test_an_uninstall_takes_both_forms_and_names_the_claims_that_stay() -> None:
    paths = Paths()
    installed(paths)
    installed(paths, KEPT)
    paths.claims = ["state-ironloom-1", "state-ironloom-0", "another"]
    found = removed(paths)
    assert paths.objects == {}
    assert found.claims == ("state-ironloom-0", "state-ironloom-1")
    paths.refusals["LIST", CLAIMS] = forbidden()
    assert removed(paths).claims == ()


@pytest.mark.parametrize(
    "message",
    [
        "spec: Forbidden: updates to statefulset spec for fields other than 'replicas' are forbidden",
        'StatefulSet.apps "ironloom" is invalid: spec.volumeClaimTemplates: Invalid value: [{}]: field is immutable',
    ],
)
def test_volumes_of_another_size_are_refused_before_anything_is_changed_with_what_to_do(message: str) -> None:
    paths = Paths()
    installed(paths, KEPT)
    writes = list(paths.writes)
    paths.refusals["TRIAL", STATEFUL_SET] = ClusterError(message, status=422)
    with pytest.raises(ClusterError, match="keep their size and their class") as caught:
        installed(paths, Setting(namespace="models", num_replicas=2, state_size="20Gi"))
    assert "kubectl -n models delete statefulset ironloom --cascade=orphan" in str(caught.value.hint)
    assert paths.writes == writes


def test_whoever_administers_a_namespace_alone_installs_and_uninstalls_there() -> None:
    paths = Paths()
    for path in (ROUTE, CLUSTER_ROLE, CLUSTER_BINDING):
        paths.refusals["GET", path] = forbidden()
    assert set(installed(paths).values()) == {"created"}
    found = removed(paths)
    assert {one.kind for one in found.unseen} == {"HTTPRoute", "ClusterRole", "ClusterRoleBinding"}
    assert paths.objects == {}


def test_what_may_be_seen_and_not_deleted_is_left_and_told() -> None:
    paths = Paths()
    installed(paths, READS)
    paths.refusals["DELETE", CLUSTER_ROLE] = forbidden()
    found = removed(paths)
    assert [(one.kind, one.name) for one in found.left] == [("ClusterRole", "ironloom-cluster-reads-models")]
    assert found.unseen == ()


def test_a_right_that_is_missing_for_the_gateway_itself_is_an_error() -> None:
    paths = Paths()
    installed(paths)
    paths.refusals["DELETE", DEPLOYMENT] = forbidden("cannot delete deployments")
    with pytest.raises(ClusterError, match="cannot delete deployments"):
        removed(paths)


def test_services_that_stay_are_named_and_those_that_may_not_be_listed_are_not() -> None:
    paths = Paths()
    installed(paths)
    paths.config_maps = ["embed", "chat"]
    assert removed(paths).services == ("chat", "embed")
    paths.refusals["LIST", "/api/v1/namespaces/models/configmaps"] = forbidden()
    assert removed(paths).services == ()


def test_whoever_has_no_right_to_stateful_sets_installs_without_volumes_and_is_told_what_was_not_seen() -> None:
    paths = Paths()
    paths.refusals["GET", STATEFUL_SET] = forbidden()
    assert set(installed(paths).values()) == {"created"}
    assert {one.kind for one in removed(paths).unseen} == {"StatefulSet"}
    with pytest.raises(ClusterError):
        installed(paths, KEPT)


def test_what_others_made_of_its_name_stays() -> None:
    paths = Paths()
    paths.objects[CLUSTER_ROLE] = {"metadata": {"name": "ironloom-cluster-reads-models", "labels": {}}}
    assert removed(paths).done == ()
    assert CLUSTER_ROLE in paths.objects
