"""What a cluster checks of every object and refuses, told with its name. The words are those of API servers 1.37."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.backends.kubernetes.conftest import WriteKubeconfig
from tests.fakes.kube_api import KubeApi, status

from ironloom.backends.kubernetes import kubeconfig
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.credentials import Proof
from ironloom.backends.kubernetes.failures import object_at, of_status
from ironloom.backends.kubernetes.kubeconfig import Target, User
from ironloom.errors import ClusterError

CASES = {
    "a quota": (
        403,
        'pods "a" is forbidden: exceeded quota: team, requested: requests.nvidia.com/gpu=1, used: 8, limited: 8',
        "refused to apply a: quota team is used up",
        "kubectl describe resourcequota team",
    ),
    "a namespace that goes": (
        403,
        'pods "a" is forbidden: unable to create new content in namespace models because it is being terminated',
        "namespace models is being deleted",
        "use another namespace",
    ),
    "a webhook that refuses": (
        403,
        'admission webhook "validate.kyverno.svc" denied the request: no owner',
        "no owner",
        "validate.kyverno.svc is a rule of this cluster",
    ),
    "a webhook that is silent": (
        500,
        'Internal error occurred: failed calling webhook "w.example.com": connection refused',
        "could not apply a: admission webhook w.example.com does not answer",
        "must run",
    ),
    "a policy": (
        422,
        "pods \"a\" is forbidden: ValidatingAdmissionPolicy 'owners' with binding 'b' denied request: no owner",
        "no owner",
        "owners is a rule of this cluster",
    ),
    "a field of another manager": (
        409,
        'Apply failed with 1 conflict: conflict with "somebody" using apps/v1: .spec.progressDeadlineSeconds',
        "refused to apply a: .spec.progressDeadlineSeconds belongs to field manager somebody",
        "somebody must give it up",
    ),
    "several fields of another manager": (
        409,
        'Apply failed with 2 conflicts: conflicts with "kubectl-edit" using apps/v1:\n- .spec.a\n- .spec.b[name="x"].c',
        '.spec.a, .spec.b[name="x"].c belongs to field manager kubectl-edit',
        "kubectl-edit must give it up",
    ),
    "a namespace that is not there": (
        404,
        'namespaces "models" not found',
        "refused to apply a: there is no namespace models",
        "kubectl create namespace models",
    ),
    "an object that means nothing": (
        422,
        'Deployment.apps "a" is invalid: spec.selector: Required value',
        "answered 422 to apply a: Deployment.apps",
        "change what it names in the manifest",
    ),
    "a kind that is not served": (
        404,
        "the server could not find the requested resource",
        "answered 404 to apply a: the server could not find the requested resource",
        "ironloom fleet --context prod --parts",
    ),
    "a right that is missing is none of them": (
        403,
        'pods is forbidden: User "u" cannot list resource "pods" in API group "" in the namespace "models"',
        "forbids user u to apply a",
        "ask for a role that allows to list pods in namespace models",
    ),
}


PATHS = {
    "/api/v1/nodes": "nodes",
    "/api/v1/namespaces/models": "namespace models",
    "/apis/networking.k8s.io/v1/namespaces/models/ingresses/a": "ingress a in namespace models",
    "/apis/networking.k8s.io/v1/namespaces/models/networkpolicies/a": "networkpolicy a in namespace models",
    "/apis/coordination.k8s.io/v1/namespaces/models/leases/a": "lease a in namespace models",
    "/api/v1/namespaces/models/pods": "pods in namespace models",
    "/apis/apps/v1/namespaces/models/deployments/chat": "deployment chat in namespace models",
    "/apis/apps/v1/namespaces/models/deployments/chat/scale": "deployments/scale chat in namespace models",
    "/version": "/version",
    "/apis": "/apis",
    "/openapi/v3/apis/apps/v1": "/openapi/v3/apis/apps/v1",
}


@pytest.mark.parametrize("path", PATHS)
def test_an_object_is_named_by_its_kind_and_namespace(path: str) -> None:
    assert object_at(path) == PATHS[path]


MAPS = "/api/v1/namespaces/models/configmaps"
ENDING = "unable to create new content in namespace models because it is being terminated"


@pytest.mark.parametrize(
    ("method", "path", "what"),
    [("POST", MAPS, "create configmap a"), ("PUT", f"{MAPS}/a", "update configmap a"),
     ("PATCH", f"{MAPS}/a", "patch configmap a"), ("DELETE", f"{MAPS}/a", "delete configmap a")],
)  # fmt: skip
def test_a_change_that_is_refused_is_named_by_its_verb_and_its_object(
    write_kubeconfig: WriteKubeconfig, method: str, path: str, what: str
) -> None:
    api = KubeApi()
    api.always[path] = status(403, "Forbidden", f'configmaps "a" is forbidden: {ENDING}')

    async def change() -> None:
        async with Client(kubeconfig.load([write_kubeconfig(api.url)]).target("prod")) as client:
            await client.change(method, path, {"metadata": {"name": "a"}})

    with api.running(), pytest.raises(ClusterError) as refused:
        asyncio.run(change())
    assert f"refused to {what} in namespace models: namespace models is being deleted" in refused.value.message


@pytest.mark.parametrize("name", CASES)
def test_who_refuses_is_named_with_what_to_do(name: str) -> None:
    code, message, sentence, hint = CASES[name]
    body = json.dumps({"kind": "Status", "message": message, "reason": "Forbidden"}).encode()
    target = Target(context="prod", server="https://a", namespace="models", file="config", user=User(name="u"))
    error = of_status(code, body, target, Proof(), "apply a")
    assert sentence in error.message
    assert hint in str(error.hint)
    assert error.status == code
