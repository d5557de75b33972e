"""The hint of a refusal names the right that is missing, by the API server's own words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.backends.kubernetes.rights import hint_of


def said(verb: str, resource: str, group: str = "", namespace: str = "models", user: str = "ada") -> str:
    """As the API server writes it."""
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    kind = f"{resource}.{group}" if group else resource
    return f'{kind} is forbidden: User "{user}" cannot {verb} resource "{resource}" in API group "{group}" {where}'


GATEWAY = "system:serviceaccount:models:ironloom"
WAY = "get on lease ironloom and secret ironloom-key, and get, create and delete on pods/proxy: ask for a role"
RUNS = "and services, list on pods and get on pods/log: ask for a role with these in namespace models"
CASES = {
    "jobs of one namespace": (said("list", "jobs", "batch"), f"patch and delete on jobs.batch {RUNS}"),
    "a run's log": (said("get", "pods/log"), f"patch and delete on jobs {RUNS}"),
    "nodes": (said("list", "nodes", namespace=""), "ask for a role that allows to list nodes in all of the cluster"),
    "the Lease": (said("get", "leases", "coordination.k8s.io"), WAY),
    "the key": (said("get", "secrets"), WAY),
    "the proxy": (said("create", "pods/proxy"), f"{WAY} with these in namespace models"),
    "an installation": (
        said("patch", "roles", "rbac.authorization.k8s.io"),
        "ask for a role that allows to patch roles.rbac.authorization.k8s.io in namespace models",
    ),
    "the gateway itself": (said("patch", "deployments", "apps", user=GATEWAY), "`ironloom install -n models` gives"),
    "what the gateway reads of the cluster": (
        said("list", "nodes", namespace="", user=GATEWAY),
        "`ironloom install -n models --cluster-reads` gives the gateway the rights",
    ),
    "another account of its namespace": (
        said("patch", "deployments", "apps", user="system:serviceaccount:models:other"),
        "ask for a role that allows to patch deployments.apps in namespace models",
    ),
    "a path": ('User "ada" cannot get path "/metrics"', "ask who looks after the cluster for a role"),
    "no word": ("", "ask who looks after the cluster for a role"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_right_that_is_missing_is_named(name: str) -> None:
    message, hint = CASES[name]
    assert hint in hint_of(message)


@given(st.text(max_size=60))
def test_any_words_have_a_hint(message: str) -> None:
    assert hint_of(message)


def test_no_hint_leads_to_a_file_that_an_installed_package_lacks() -> None:
    assert not any("docs/" in hint_of(message) for message, _ in CASES.values())
