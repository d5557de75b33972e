"""Which right to ask for where an API server forbids something, read off its own words: who may not do what, and where.

Source: https://github.com/kubernetes/kubernetes/blob/master/staging/src/k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/errors.go
"""

from __future__ import annotations

import re
from typing import Final

from ironloom.backends.kubernetes.install import KEY_SECRET
from ironloom.backends.kubernetes.roles import NAME

_FORBIDDEN: Final = re.compile(
    r'User "([^"]*)" cannot (\S+) resource "([^"]+)" in API group "([^"]*)"'
    r'(?: in the namespace "([^"]+)"| (at the cluster scope))'
)
_ACCOUNT: Final = re.compile(rf"system:serviceaccount:([^:]+):{NAME}")
_WAY: Final = frozenset({"leases", "secrets", "pods/proxy"})
"""What a user's way to the gateway goes through."""
_OF_RUNS: Final = {
    "jobs.batch", "jobsets.jobset.x-k8s.io", "trainjobs.trainer.kubeflow.org", "pytorchjobs.kubeflow.org",
    "podgroups.scheduling.k8s.io", "pods/log",
}  # fmt: skip
"""What a training run is made of and looked at by, with its user's own rights."""


def hint_of(message: str) -> str:
    """What to do about a refusal; `message` is the API server's."""
    found = _FORBIDDEN.search(message)
    if found is None:
        return "ask who looks after the cluster for a role that allows it"
    user, verb, resource, group, namespace, _ = found.groups()
    kind = f"{resource}.{group}" if group else resource
    if (account := _ACCOUNT.fullmatch(user)) is not None:
        reads = "" if namespace else " --cluster-reads"
        return f"`ironloom install -n {account[1]}{reads}` gives the gateway the rights that it is to have"
    if namespace and resource in _WAY and verb in {"get", "create", "delete"}:
        return (
            f"the way to the gateway needs get on lease {NAME} and secret {KEY_SECRET}, and get, create and delete on "
            f"pods/proxy: ask for a role with these in namespace {namespace}"
        )
    if namespace and kind in _OF_RUNS:
        of_it = "jobs" if resource == "pods/log" else kind
        return (
            f"training runs need get, list, create, patch and delete on {of_it} and services, list on pods and get on "
            f"pods/log: ask for a role with these in namespace {namespace}"
        )
    where = f"in namespace {namespace}" if namespace else "in all of the cluster"
    return f"ask for a role that allows to {verb} {kind} {where}"
