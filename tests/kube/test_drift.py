"""What others do to what was applied is told, and put back or left: against a real API server and its controllers."""

from __future__ import annotations

import asyncio
import json
import urllib.error
from pathlib import Path
from typing import Any

import pytest
from tests.kube.cluster import Cluster, kubectl
from tests.kube.gateway import SHORT, apply, running
from tests.kube.manifests import inference_service
from tests.kube.test_backend import deployment, opened, run, serving, until, wait_until

from ironloom.account.events import Event, EventKind
from ironloom.backends.kubernetes.backend import KubernetesBackend
from ironloom.serve.replica import ScaleOrder

pytestmark = pytest.mark.kube
APPS = "/apis/apps/v1/namespaces/default/deployments"
CORE = "/api/v1/namespaces/default"
IMAGE = "spec.template.spec.containers[kserve-container].image"


@pytest.fixture(autouse=True)
def node(cluster: Cluster) -> None:
    if not cluster.nodes:
        cluster.add_node("gpu-1", allocatable={"nvidia.com/gpu": "64"})


def image_of(cluster: Cluster, name: str) -> str:
    return str(deployment(cluster, name)["spec"]["template"]["spec"]["containers"][0]["image"])


def is_there(cluster: Cluster, path: str) -> bool:
    try:
        cluster.request("GET", path)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return False
    return True


def pods_of(cluster: Cluster, name: str) -> list[str]:
    found = cluster.request("GET", f"{CORE}/pods?labelSelector=ironloom.dev/service={name}")["items"]
    return [one["metadata"]["name"] for one in found if not one["metadata"].get("deletionTimestamp")]


def drifts(events: list[Event]) -> list[tuple[str, str]]:
    return [(one.reason, one.message) for one in events if one.kind is EventKind.SERVICE_DRIFTED]


def listened(backend: KubernetesBackend) -> list[Event]:
    """Events from now on."""
    events: list[Event] = []
    backend._record = events.append
    return events


def test_an_apply_of_the_same_puts_back_what_kubectl_changed_and_says_by_whom(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, _):
            events = listened(backend)
            assert await backend.apply(serving("edited"), 1) == ()
            was = image_of(cluster, "edited")
            generation = deployment(cluster, "edited")["metadata"]["generation"]
            asked = len(cluster.requests_of("ironloom/"))
            assert await backend.apply(serving("edited"), 1) == ()
            again = cluster.requests_of("ironloom/")[asked:]
            assert {one["verb"] for one in again} <= {"get", "list"}, "what is as it is wanted is not written"
            assert deployment(cluster, "edited")["metadata"]["generation"] == generation
            kubectl(cluster, "set", "image", "deployment/edited", "kserve-container=other:1")
            trial = await backend.trial(serving("edited"), 1)
            assert trial.put_back == (f"deployment/edited is changed by kubectl-set ({IMAGE}): an apply puts it back",)
            assert image_of(cluster, "edited") == "other:1", "a trial changes nothing"
            told = f"deployment/edited had been changed by kubectl-set ({IMAGE}): put back"
            assert await backend.apply(serving("edited"), 1) == (told,)
            assert image_of(cluster, "edited") == was
            assert drifts(events) == [("PutBack", told)]
            assert await backend.apply(serving("edited"), 1) == ()
            await backend.delete("edited")

    run(story())


def test_what_kubectl_took_away_is_made_again_by_an_apply_of_the_same(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, _):
            wanted = serving("robbed", minReplicas=2)
            await backend.apply(wanted, 1)
            kubectl(cluster, "delete", "service/robbed", "pdb/robbed")
            gone = '[{"op":"remove","path":"/spec/template/spec/containers/0/args"}]'
            kubectl(cluster, "patch", "deployment", "robbed", "--type=json", "-p", gone)
            assert sorted(await backend.apply(wanted, 1)) == [
                "deployment/robbed lacked spec.template.spec.containers[kserve-container].args: put back",
                "poddisruptionbudget/robbed was gone: made again",
                "service/robbed was gone: made again",
            ]
            assert deployment(cluster, "robbed")["spec"]["template"]["spec"]["containers"][0]["args"]
            assert is_there(cluster, f"{CORE}/services/robbed")
            kubectl(cluster, "delete", "deployment/robbed")
            await until(lambda: not is_there(cluster, f"{CORE}/services/robbed"))  # it goes with its owner
            assert "deployment/robbed was gone: made again" in await backend.apply(wanted, 1)
            assert is_there(cluster, f"{CORE}/services/robbed")
            await backend.delete("robbed")

    run(story())


def test_a_count_that_a_person_wrote_is_told_and_put_back_without_another_order(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, seen):
            events = listened(backend)
            await backend.apply(serving("pulled"), 1)
            backend.scale("pulled", ScaleOrder(num_ready=1))
            await until(lambda: len(pods_of(cluster, "pulled")) == 1)
            for number, who in ((3, "kubectl"), (0, "somebody")):  # a count of 0 has no owner
                kubectl(cluster, "scale", "deployment/pulled", f"--replicas={number}")
                report = await seen.until("pulled", lambda one: any(f"set to {number}" in n for n in one.notes))  # noqa: B023
                (note,) = [note for note in report.notes if "was set to" in note]
                assert note == (
                    f"its count was set to {number} by {who} and is put back to 1: "
                    f"`ironloom scale pulled {number}` would keep it there"
                )
                await until(lambda: len(pods_of(cluster, "pulled")) == 1)
            assert [reason for reason, _ in drifts(events)] == ["CountPutBack"] * 2
            backend.scale("pulled", ScaleOrder(num_ready=2))
            await seen.until("pulled", lambda one: not any("was set to" in note for note in one.notes))
            await backend.delete("pulled")

    run(story())


def test_a_count_that_an_autoscaler_wrote_is_told_without_another_order_and_left(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, seen):
            events = listened(backend)
            await backend.apply(serving("keda"), 1)
            backend.scale("keda", ScaleOrder(num_ready=1))
            await until(lambda: len(pods_of(cluster, "keda")) == 1)
            scale = {
                "apiVersion": "autoscaling/v1",
                "kind": "Scale",
                "metadata": {"name": "keda", "namespace": "default"},
                "spec": {"replicas": 2},
            }
            merge = "application/merge-patch+json"
            cluster.request("PATCH", f"{APPS}/keda/scale?fieldManager=keda", scale, content=merge)
            report = await seen.until("keda", lambda one: any("left alone" in note for note in one.notes))
            assert "its scale is left alone: keda writes it" in report.notes
            assert [reason for reason, _ in drifts(events)] == ["CountLeftAlone"]
            assert deployment(cluster, "keda")["spec"]["replicas"] == 2
            kubectl(cluster, "scale", "deployment/keda", "--replicas=3")  # given back
            await until(lambda: deployment(cluster, "keda")["spec"]["replicas"] == 1)
            await seen.until("keda", lambda one: not any("left alone" in note for note in one.notes))
            await backend.delete("keda")

    run(story())


def test_a_deployment_that_was_deleted_by_hand_is_made_again_with_its_replicas_and_told(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, seen):
            events = listened(backend)
            await backend.apply(serving("felled"), 1)
            backend.scale("felled", ScaleOrder(num_ready=1))
            await until(lambda: len(pods_of(cluster, "felled")) == 1)
            (first,) = pods_of(cluster, "felled")
            kubectl(cluster, "delete", "deployment/felled", "--wait=false")
            await until(lambda: len(pods_of(cluster, "felled")) == 1 and pods_of(cluster, "felled") != [first])
            await until(lambda: is_there(cluster, f"{CORE}/services/felled"))
            assert ("PutBack", "deployment/felled was gone: made again") in drifts(events)
            report = await seen.until("felled", lambda one: any(each.id != first for each in one.replicas))
            assert report.failure is None
            backend.scale("felled", ScaleOrder(num_ready=0))
            await until(lambda: pods_of(cluster, "felled") == [])
            kubectl(cluster, "delete", "deployment/felled")  # nobody sees it while there are no pods
            backend.scale("felled", ScaleOrder(num_ready=1))
            await until(lambda: len(pods_of(cluster, "felled")) == 1)
            await backend.delete("felled")
            assert not is_there(cluster, f"{APPS}/felled")

    run(story())


def test_a_change_that_a_person_rolls_out_is_told_and_left_until_the_next_apply(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, seen):
            await backend.apply(serving("tried"), 1)
            backend.scale("tried", ScaleOrder(num_ready=1))
            await until(lambda: bool(list(cluster.run_pods("ironloom.dev/service=tried"))))
            kubectl(cluster, "set", "image", "deployment/tried", "kserve-container=other:1")
            told = f"deployment/tried is changed by kubectl-set ({IMAGE}): an apply puts it back"
            await seen.until("tried", lambda one: told in one.notes)
            assert image_of(cluster, "tried") == "other:1"
            await backend.apply(serving("tried"), 1)
            await seen.until("tried", lambda one: told not in one.notes)
            await backend.delete("tried")

    run(story())


def test_what_a_service_no_longer_has_goes_with_the_next_apply_but_for_what_was_fetched(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, _):
            kept = inference_service("slim", {"ironloom.dev/model-cache": "1Gi"})
            kept["spec"]["predictor"]["minReplicas"] = 2
            less = inference_service("slim")
            await backend.apply(declared(kept), 1)
            claim = f"{CORE}/persistentvolumeclaims/slim-models"
            budget = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/slim"
            assert is_there(cluster, claim)
            assert is_there(cluster, budget)
            assert [one["name"] for one in volumes(cluster, "slim")].count("model-cache") == 1
            assert await backend.apply(declared(less), 2) == ()
            assert not is_there(cluster, budget)
            assert [one["name"] for one in volumes(cluster, "slim")].count("model-cache") == 0
            await backend.delete("slim")
            assert not is_there(cluster, f"{CORE}/services/slim")
            assert is_there(cluster, claim), "to fetch it again takes hours: it is its owner's to delete"
            kubectl(cluster, "delete", "pvc/slim-models", "--wait=false")

    run(story())


def declared(manifest: dict[str, Any]) -> Any:
    from ironloom.workload.manifests.read import parse_object

    return parse_object(manifest)


def volumes(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    return list(deployment(cluster, name)["spec"]["template"]["spec"].get("volumes") or ())


def owners(cluster: Cluster, path: str) -> list[tuple[str, str]]:
    found = cluster.request("GET", path)["metadata"].get("ownerReferences") or ()
    return [(one["kind"], one["name"]) for one in found]


def test_the_objects_of_a_service_go_with_its_deployment_where_no_declaration_is_in_the_cluster(
    cluster: Cluster,
) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, _):
            await backend.apply(serving("owning", minReplicas=1), 1)
            assert owners(cluster, f"{APPS}/owning") == []
            assert owners(cluster, f"{CORE}/services/owning") == [("Deployment", "owning")]
        kubectl(cluster, "delete", "deployment/owning")
        await until(lambda: not is_there(cluster, f"{CORE}/services/owning"))

    run(story())


def test_a_service_whose_declaration_is_deleted_by_hand_goes_with_all_that_is_its(
    cluster: Cluster, tmp_path: Path
) -> None:
    with running(cluster, tmp_path, "--shared") as gateway:
        wait_until(lambda: can_apply(gateway, "declared"))
        config_map = f"{CORE}/configmaps/ironloom-service-declared"
        assert is_there(cluster, config_map)
        wait_until(lambda: is_there(cluster, f"{CORE}/services/declared"))
        for path in (f"{APPS}/declared", f"{CORE}/services/declared"):
            assert owners(cluster, path) == [("ConfigMap", "ironloom-service-declared")]
        kubectl(cluster, "delete", "configmap/ironloom-service-declared")
        wait_until(lambda: not gateway.call("GET", "/api/v1/services"))
        wait_until(lambda: not is_there(cluster, f"{APPS}/declared"))
        wait_until(lambda: not is_there(cluster, f"{CORE}/services/declared"))
        assert not is_there(cluster, config_map)
        (gone,) = [one for one in gateway.call("GET", "/api/v1/events") if one["kind"] == "service.deleted"]
        assert gone["message"] == "its declaration was taken out of the cluster"
        # the same name may be used again, and one that is only spoilt is written anew
        wait_until(lambda: can_apply(gateway, "declared"))
        spoilt = json.dumps({"data": {"service.json": "{"}})
        kubectl(cluster, "patch", "configmap", "ironloom-service-declared", "--type=merge", "-p", spoilt)
        wait_until(lambda: cluster.request("GET", config_map)["data"]["service.json"] != "{")
        assert [one["name"] for one in gateway.call("GET", "/api/v1/services")] == ["declared"]
    # no gateway: the garbage collector alone
    kubectl(cluster, "delete", "configmap/ironloom-service-declared")
    wait_until(lambda: not is_there(cluster, f"{APPS}/declared"))
    wait_until(lambda: not is_there(cluster, f"{CORE}/services/declared"))


def can_apply(gateway: Any, name: str) -> bool:
    """Once it decides."""
    try:
        apply(gateway, inference_service(name, {**SHORT, "autoscaling.knative.dev/initial-scale": "1"}))
    except urllib.error.HTTPError:
        return False
    return True


def test_an_apply_of_the_same_tells_what_it_put_back_and_a_dry_run_what_it_would(
    cluster: Cluster, tmp_path: Path
) -> None:
    with running(cluster, tmp_path) as gateway:
        manifest = inference_service("told", SHORT)
        apply(gateway, manifest)
        (same,) = apply(gateway, manifest)["services"]
        assert same["action"] == "unchanged"
        kubectl(cluster, "set", "image", "deployment/told", "kserve-container=other:1")
        body = {"manifests": [manifest], "dry_run": True}
        (tried,) = gateway.call("POST", "/api/v1/apply", body)["services"]
        assert f"deployment/told is changed by kubectl-set ({IMAGE}): an apply puts it back" in tried["notes"]
        (done,) = apply(gateway, manifest)["services"]
        told = f"deployment/told had been changed by kubectl-set ({IMAGE}): put back"
        assert (done["action"], done["generation"]) == ("configured", 1)
        assert told in done["notes"]
        events = gateway.call("GET", "/api/v1/events?service=told")
        assert [one["message"] for one in events if one["kind"] == "service.drifted"] == [told]
        gateway.call("DELETE", "/api/v1/services/told")


def test_many_services_that_are_applied_again_cost_reads_alone(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, _):
            names = [f"again-{number}" for number in range(4)]
            await asyncio.gather(*(backend.apply(serving(name), 1) for name in names))
            asked = len(cluster.requests_of("ironloom/"))
            await asyncio.gather(*(backend.apply(serving(name), 1) for name in names))
            again = cluster.requests_of("ironloom/")[asked:]
            assert {one["verb"] for one in again} <= {"get", "list"}
            await asyncio.gather(*(backend.delete(name) for name in names))

    run(story())
