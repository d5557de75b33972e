"""What others did to an object that is applied here, by what its managedFields say."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from ironloom.backends.kubernetes.counts import other_owner, written_count
from ironloom.backends.kubernetes.drift import by_hand, is_as, text, told

CONTAINER = 'k:{"name":"engine"}'
PORT = 'k:{"containerPort":8000,"protocol":"TCP"}'
OURS: dict[str, Any] = {
    "f:metadata": {"f:labels": {"f:ironloom.dev/service": {}}},
    "f:spec": {
        "f:selector": {},
        "f:template": {
            "f:spec": {
                "f:containers": {
                    CONTAINER: {
                        ".": {},
                        "f:name": {},
                        "f:image": {},
                        "f:args": {},
                        "f:ports": {PORT: {".": {}, "f:containerPort": {}}},
                    }
                }
            }
        },
    },
}
"""As an API server writes what is in `wanted()`."""


def wanted() -> dict[str, Any]:
    container = {"name": "engine", "image": "vllm:1", "args": ["--port", "8000"], "ports": [{"containerPort": 8000}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "x", "namespace": "models", "labels": {"ironloom.dev/service": "x"}},
        "spec": {
            "selector": {"matchLabels": {"ironloom.dev/service": "x"}},
            "template": {"spec": {"containers": [container]}},
        },
    }


def entry(manager: str, fields: dict[str, Any], operation: str = "Apply", **words: str) -> dict[str, Any]:
    return {"manager": manager, "operation": operation, "fieldsV1": fields, **words}


def live() -> dict[str, Any]:
    """As it is when nobody else has written but its controllers."""
    one = deepcopy(wanted())
    status = entry("kube-controller-manager", {"f:status": {"f:replicas": {}}}, "Update", subresource="status")
    one["metadata"] |= {"resourceVersion": "7", "managedFields": [entry("ironloom", deepcopy(OURS)), status]}
    one["spec"] |= {"replicas": 1, "progressDeadlineSeconds": 600}
    one["spec"]["template"]["spec"]["containers"][0]["ports"][0]["protocol"] = "TCP"
    one["status"] = {"replicas": 1}
    return one


def containers(one: dict[str, Any]) -> Any:
    return one["spec"]["template"]["spec"]["containers"]


def own_of_container(one: dict[str, Any]) -> Any:
    """What Ironloom owns of it."""
    fields = one["metadata"]["managedFields"][0]["fieldsV1"]
    return fields["f:spec"]["f:template"]["f:spec"]["f:containers"][CONTAINER]


def edited(manager: str, operation: str = "Update") -> dict[str, Any]:
    """Its image was changed by another manager."""
    one = live()
    containers(one)[0]["image"] = "vllm:2"
    del own_of_container(one)["f:image"]
    image = {"f:spec": {"f:template": {"f:spec": {"f:containers": {CONTAINER: {"f:image": {}}}}}}}
    one["metadata"]["managedFields"].append(entry(manager, image, operation))
    return one


def put_back(one: dict[str, Any]) -> dict[str, Any]:
    after = live()
    after["metadata"]["resourceVersion"] = "8"
    after["spec"]["replicas"] = one["spec"]["replicas"]
    return after


def test_what_nobody_has_touched_is_not_written_again() -> None:
    assert is_as(live(), wanted())
    assert told(live(), put_back(live()), was_whole=True) == ()


def test_what_an_apply_would_change_is_written() -> None:
    other = wanted()
    containers(other)[0]["image"] = "vllm:3"
    assert not is_as(live(), other)


@pytest.mark.parametrize(
    "drop",
    [
        lambda one: containers(one)[0].pop("args"),
        lambda one: containers(one)[0]["ports"].clear(),
        lambda one: one["metadata"]["labels"].clear(),
        lambda one: one["spec"].pop("selector"),
    ],
    ids=["a field", "an item of a list", "a label", "a map that is owned whole"],
)
def test_what_is_owned_and_no_longer_wanted_is_taken_away_by_an_apply(drop: Any) -> None:
    less = wanted()
    drop(less)
    assert not is_as(live(), less)


def test_what_others_add_to_an_object_is_theirs() -> None:
    one = live()
    containers(one)[0]["env"] = [{"name": "A", "value": "b"}]
    containers(one).append({"name": "sidecar", "image": "proxy"})
    one["metadata"]["labels"]["team"] = "a"
    assert is_as(one, wanted())
    assert told(one, one, was_whole=True) == ()


def test_a_field_that_a_person_changed_is_taken_back_and_told_with_the_tool() -> None:
    one = edited("kubectl-edit")
    assert not is_as(one, wanted())
    assert by_hand(one, wanted())
    assert told(one, put_back(one), was_whole=False) == (
        "deployment/x had been changed by kubectl-edit (spec.template.spec.containers[engine].image): put back",
    )
    assert told(one, put_back(one), was_whole=False, is_trial=True) == (
        "deployment/x is changed by kubectl-edit (spec.template.spec.containers[engine].image): an apply puts it back",
    )


@pytest.mark.parametrize(
    ("manager", "operation"),
    [
        ("argocd-controller", "Update"),
        ("kustomize-controller", "Apply"),
        ("kubectl", "Apply"),
        ("kubectl-client-side-apply", "Update"),
    ],
)
def test_a_field_that_a_controller_writes_or_a_file_elsewhere_declares_is_not_taken(
    manager: str, operation: str
) -> None:
    assert not by_hand(edited(manager, operation), wanted())


def test_where_one_owner_is_no_person_nothing_is_taken() -> None:
    one = edited("kubectl-edit")
    one["metadata"]["labels"]["ironloom.dev/service"] = "y"
    labels = {"f:metadata": {"f:labels": {"f:ironloom.dev/service": {}}}}
    one["metadata"]["managedFields"].append(entry("operator", labels, "Update"))
    assert not by_hand(one, wanted())


def test_an_item_that_a_person_took_away_is_told_where_the_same_was_applied_before() -> None:
    one = live()
    containers(one)[0]["ports"].clear()
    del own_of_container(one)["f:ports"]
    assert not is_as(one, wanted())
    named = "spec.template.spec.containers[engine].ports[0]"
    assert told(one, put_back(one), was_whole=True) == (f"deployment/x lacked {named}: put back",)
    assert told(one, put_back(one), was_whole=True, is_trial=True) == (
        f"deployment/x lacks {named}: an apply puts it back",
    )
    assert told(one, put_back(one), was_whole=False) == (), "it may be new in the manifest"


def test_an_object_that_is_gone_is_told_where_it_had_been_made() -> None:
    assert told(None, live(), was_whole=True) == ("deployment/x was gone: made again",)
    assert told(None, live(), was_whole=True, is_trial=True) == ("deployment/x is gone: an apply makes it again",)
    assert told(None, live(), was_whole=False) == ()


def test_an_own_change_is_no_drift() -> None:
    after = put_back(live())
    containers(after)[0]["image"] = "vllm:3"
    assert told(live(), after, was_whole=True) == ()


def test_what_a_controller_writes_between_the_look_and_the_apply_is_no_drift() -> None:
    one = edited("kubectl-set")
    after = put_back(one)
    revision = {"f:metadata": {"f:annotations": {"f:revision": {}}}}
    for number, state in enumerate((one, after)):
        state["metadata"]["annotations"] = {"revision": str(number)}
        state["metadata"]["managedFields"].append(entry("kube-controller-manager", revision, "Update"))
    (said,) = told(one, after, was_whole=True)
    assert "kubectl-set" in said


def test_beside_what_an_apply_would_send_all_that_a_person_changed_is_told() -> None:
    (said,) = told(edited("kubectl-set"), wanted(), was_whole=False, is_trial=True)
    assert "is changed by kubectl-set (spec.template.spec.containers[engine].image)" in said


def test_many_fields_are_counted() -> None:
    one, after = live(), live()
    labels = {f"l{number}": "a" for number in range(6)}
    after["metadata"]["labels"] |= labels
    one["metadata"]["labels"] |= dict.fromkeys(labels, "b")
    fields = {"f:metadata": {"f:labels": {f"f:{name}": {} for name in labels}}}
    one["metadata"]["managedFields"].append(entry("kubectl-label", fields, "Update"))
    own = after["metadata"]["managedFields"][0]["fieldsV1"]["f:metadata"]["f:labels"]
    own |= {f"f:{name}": {} for name in labels}
    (said,) = told(one, after, was_whole=True)
    assert "metadata.labels.l3 and 2 more" in said


def test_a_path_names_keys_with_dots_in_brackets() -> None:
    assert text(("metadata", "labels", "ironloom.dev/service")) == "metadata.labels[ironloom.dev/service]"


REPLICAS = {"f:spec": {"f:replicas": {}}}


@pytest.mark.parametrize(
    ("entries", "owner", "written"),
    [
        ([entry("ironloom-scale", REPLICAS, subresource="scale")], "", 3),
        ([entry("ironloom", REPLICAS)], "", 3),
        ([entry("kubectl", REPLICAS, "Update", subresource="scale")], "kubectl", None),
        ([entry("kubectl", REPLICAS, "Update"), entry("keda", REPLICAS, "Update")], "keda", None),
        ([], "somebody", None),
    ],
    ids=["the scale's own manager", "nobody has scaled it yet", "a person", "an autoscaler before a person", "nobody"],
)
def test_who_wrote_a_count_is_seen(entries: list[dict[str, Any]], owner: str, written: int | None) -> None:
    scaled = {"metadata": {"managedFields": entries}, "spec": {"replicas": 3}}
    assert other_owner(scaled) == owner
    assert written_count(scaled) == written
