"""What a cluster has, as its discovery tells."""

from __future__ import annotations

import pytest

from ironloom.backends.kubernetes.capabilities import PARTS, Part, of
from ironloom.backends.kubernetes.discovery import Resource, Served
from ironloom.backends.kubernetes.render.training import POD_GROUP_API


def resource(group: str, kind: str, version: str = "v1", *verbs: str) -> Resource:
    return Resource(
        group=group,
        version=version,
        kind=kind,
        plural=f"{kind.lower()}s",
        is_namespaced=True,
        verbs=frozenset(verbs or ("list", "watch")),
    )


def test_a_part_is_there_when_its_kind_can_be_listed() -> None:
    found = of(Served(resources=(resource("kueue.x-k8s.io", "Workload", "v1beta2"),)))
    assert found.versions == {"Kueue": "v1beta2"}
    assert found.has("Kueue")
    assert not found.has("KServe")


def test_a_kind_of_the_same_name_in_another_group_is_another_kind() -> None:
    assert of(Served(resources=(resource("scheduling.k8s.io", "Workload"),))).versions == {}


def test_a_kind_that_cannot_be_listed_is_of_no_use() -> None:
    assert of(Served(resources=(resource("jobset.x-k8s.io", "JobSet", "v1", "get"),))).versions == {}


def test_what_is_lost_without_a_part_is_said_and_nothing_of_one_that_is_there() -> None:
    found = of(Served(resources=(resource("serving.kserve.io", "InferenceService", "v1beta1"),)))
    lost = found.lost(("KServe", "Kueue"))
    assert len(lost) == 1
    assert lost[0].startswith("no Kueue: ")


def test_a_part_whose_known_version_is_not_served_is_not_used_and_its_version_is_said() -> None:
    found = of(Served(resources=(resource("serving.kserve.io", "InferenceService", "v7"),)))
    assert not found.has("KServe")
    assert found.lost(["KServe"])[0].startswith("KServe is there in version v7, which is not known here: ")


@pytest.mark.parametrize("part", [part for part in PARTS if part.version], ids=lambda part: part.name)
def test_a_kind_that_is_written_here_counts_in_the_version_that_is_written(part: Part) -> None:
    assert of(Served(resources=(resource(part.group, part.kind, "v7"),))).foreign == {part.name: "v7"}
    assert of(Served(resources=(resource(part.group, part.kind, part.version),))).versions == {part.name: part.version}


@pytest.mark.parametrize("part", [part for part in PARTS if part.known], ids=lambda part: part.name)
def test_a_kind_whose_fields_are_read_counts_in_the_versions_that_are_known(part: Part) -> None:
    found = of(Served(resources=(resource(part.group, part.kind, "v7"),)))
    assert (found.foreign, found.has(part.name)) == ({part.name: "v7"}, False)
    for version in part.known:
        assert of(Served(resources=(resource(part.group, part.kind, version),))).versions == {part.name: version}


def test_a_part_that_is_only_told_counts_in_any_version() -> None:
    assert of(Served(resources=(resource("keda.sh", "ScaledObject", "v7"),))).versions == {"KEDA": "v7"}


@pytest.mark.parametrize(
    ("group", "kind", "versions", "counts"),
    [
        ("serving.kserve.io", "InferenceService", ("v7", "v1beta1"), {"KServe": "v1beta1"}),
        ("kueue.x-k8s.io", "Workload", ("v7", "v1beta1"), {"Kueue": "v1beta1"}),
        ("kueue.x-k8s.io", "Workload", ("v1beta1", "v1beta2"), {"Kueue": "v1beta1"}),
    ],
)
def test_a_known_version_counts_where_the_server_prefers_another(
    group: str, kind: str, versions: tuple[str, ...], counts: dict[str, str]
) -> None:
    assert of(Served(resources=tuple(resource(group, kind, version) for version in versions))).versions == counts


@pytest.mark.parametrize(
    ("served", "said"),
    [
        (Served(resources=()), "the cluster has no Kueue"),
        (
            Served(resources=(resource("kueue.x-k8s.io", "Workload", "v9"),)),
            "Kueue is there in version v9, which is not known here",
        ),
        (
            Served(resources=(), unread=("kueue.x-k8s.io/v1beta2",)),
            "whether there is Kueue is not known, as its API does not answer",
        ),
    ],
)
def test_why_a_part_is_not_used_is_said(served: Served, said: str) -> None:
    assert of(served).why_without("Kueue") == said


def test_every_part_is_told_with_its_version_or_with_what_is_lost_without_it() -> None:
    served = Served(resources=(resource("kueue.x-k8s.io", "Workload", "v1beta2"),), unread=("metrics.k8s.io/v1",))
    told = of(served).told()
    assert "Kueue v1beta2: queues and quotas" in told
    assert any(line.startswith("no KServe: ") for line in told)
    assert told[-1] == "metrics.k8s.io/v1 does not answer: what it serves is not known"


def test_a_part_whose_group_does_not_answer_is_not_said_to_be_missing() -> None:
    found = of(Served(resources=(), unread=("kueue.x-k8s.io/v1beta2",)))
    assert found.silent == {"Kueue", "Kueue topologies"}
    assert found.lost(["Kueue"])[0].startswith("whether there is Kueue is not known, as its API does not answer")


def test_pod_groups_are_those_that_are_rendered() -> None:
    (part,) = [part for part in PARTS if part.kind == "PodGroup"]
    assert f"{part.group}/{part.version}" == POD_GROUP_API


def test_each_part_has_a_name_of_its_own() -> None:
    assert len({part.name for part in PARTS}) == len(PARTS)
