"""From one machine to a cluster and back: the same workload, whatever a manifest says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.backends.kubernetes import field_values, training_pods
from ironloom.backends.kubernetes.field_probes import found, found_of_run, run_of, targets_of
from ironloom.backends.kubernetes.field_values import BASES, TRAINING_BASES, Base, fields_at, table_of
from ironloom.backends.kubernetes.render import kserve, llm, multi_node, plain, training
from ironloom.backends.kubernetes.training_pods import run_pods
from ironloom.errors import EngineUnavailable, ManifestError
from ironloom.workload.manifests import dump_yaml, read_text, to_workloads
from ironloom.workload.manifests.annotations import TABLE
from ironloom.workload.manifests.kserve_words import OTHER_FRAMEWORKS
from ironloom.workload.manifests.read import KINDS, TRAINING_KINDS, parse_object
from ironloom.workload.manifests.schema import Path, path_text
from ironloom.workload.serving import Ground, Serving
from ironloom.workload.training_job import TrainingJob

OWN = frozenset({"annotations", "labels", "manifest", "not_honoured", "namespace", "model_place"})
"""Of a Serving: what KServe's own object holds beside the manifest's words, and where it stands."""


def rendered(serving: Serving, ground: Ground) -> list[dict[str, Any]]:
    setting = plain.Setting(generation=3, has_hf_secret=True, has_spare_gpus=False)
    if ground is Ground.KSERVE:
        is_llm = serving.kind == "LLMInferenceService"
        return llm.objects(serving, setting) if is_llm else kserve.objects(serving, setting, kserve.Found(runtimes=()))
    span = multi_node.span_of(serving)
    return multi_node.objects(serving, setting, span) if span else plain.objects(serving, setting)


def back(objects: list[dict[str, Any]]) -> Serving:
    """As `ironloom apply -f` of `kubectl get -o yaml` reads them."""
    [serving] = to_workloads(read_text(dump_yaml(objects), "cluster.yaml")).servings
    return serving


def workload_of(serving: Serving) -> dict[str, Any]:
    return {one.name: getattr(serving, one.name) for one in fields(Serving) if one.name not in OWN}


def grounds_of(serving: Serving) -> list[Ground]:
    is_kserves = serving.kind in {"InferenceService", "LLMInferenceService"}
    return [Ground.PLAIN, *([Ground.KSERVE] if is_kserves else [])]


def run_fields(job: TrainingJob) -> dict[str, Any]:
    return {one.name: getattr(job, one.name) for one in fields(TrainingJob) if one.name not in OWN}


def runs_back(manifest: dict[str, Any]) -> list[TrainingJob]:
    """The run once for each kind that it becomes, read back from a cluster."""
    found: list[TrainingJob] = []
    for target in targets_of(run_of(manifest)):
        setting = training.Setting(target=target, namespace="default", has_hf_secret=True)
        made = training.objects(run_pods(manifest), setting)
        found += to_workloads(read_text(dump_yaml(made), "cluster.yaml")).trainings
    return found


@st.composite
def manifests(draw: st.DrawFn, bases: tuple[Base, ...]) -> dict[str, Any]:
    """Any set of the fields that the reference tries, in a manifest of any kind."""
    base = draw(st.sampled_from(bases))
    manifest = base.manifest
    for probe in draw(st.lists(st.sampled_from(base.tried), max_size=8)):
        manifest = probe.set_in(manifest)
    return manifest


@settings(deadline=None, max_examples=100)
@given(manifests(BASES))
def test_a_workload_that_was_in_a_cluster_is_the_same_workload(manifest: dict[str, Any]) -> None:
    try:
        serving = parse_object(manifest)
    except ManifestError:  # fields that contradict each other
        return
    for ground in grounds_of(serving):
        try:
            made = rendered(serving, ground)
        except EngineUnavailable:  # an order that no image is known for
            continue
        assert workload_of(back(made)) == workload_of(serving)


@settings(deadline=None, max_examples=60)
@given(manifests(TRAINING_BASES))
def test_a_run_that_was_in_a_cluster_is_the_same_run(manifest: dict[str, Any]) -> None:
    try:
        job = run_of(manifest)
    except ManifestError:
        return
    for again in runs_back(manifest):
        assert run_fields(again) == run_fields(job)


REFUSED = {
    "spec.predictor.workerSpec": "its workers' own command is not said",
    "spec.template.containers[0].name": "the engine's container has a name of its own",
    "spec.selector": "it selects other pods",
    "spec.predictor.model.modelFormat": "a framework that is none of ours",
    **{f"spec.predictor.{name}": "a framework that is none of ours" for name in OTHER_FRAMEWORKS},
}
"""Fields that are refused with one of the values that are tried, and why."""


@pytest.mark.parametrize("base", BASES, ids=[base.title for base in BASES])
def test_each_field_alone_makes_the_round(base: Base) -> None:
    for probe in base.tried:
        try:
            serving = parse_object(probe.set_in(base.manifest))
            made = [rendered(serving, ground) for ground in grounds_of(serving)]
        except (ManifestError, EngineUnavailable):
            assert path_text(probe.path) in REFUSED
            continue
        for objects in made:
            assert workload_of(back(objects)) == workload_of(serving), probe.path


@pytest.mark.parametrize("base", TRAINING_BASES, ids=[base.title for base in TRAINING_BASES])
def test_each_field_of_a_run_alone_makes_the_round(base: Base) -> None:
    for probe in base.tried:
        manifest = probe.set_in(base.manifest)
        [first, *more] = runs_back(manifest)
        for again in (first, *more):
            assert run_fields(again) == run_fields(run_of(manifest)), probe.path


def test_every_kind_that_is_a_workload_is_tried() -> None:
    assert {base.kind for base in BASES} == set(KINDS)
    assert {base.kind for base in TRAINING_BASES} == set(TRAINING_KINDS)
    assert {base.kind.rpartition("/")[2] for base in TRAINING_BASES} == set(training_pods.KINDS)


def test_every_annotation_that_means_something_is_tried() -> None:
    tried = {
        str(probe.path[-1]) for base in BASES for probe in base.tried if probe.path[:2] == ("metadata", "annotations")
    }
    assert tried == {one.name for one in TABLE}


@pytest.mark.parametrize("kind", [*KINDS, *TRAINING_KINDS])
def test_every_field_of_a_kind_is_tried_down_to_its_pods_and_containers(kind: str) -> None:
    """From the tables that manifests are checked by, walked here without the levels that the bases name."""
    bases = [base for base in (*BASES, *TRAINING_BASES) if base.kind == kind]
    tried = {tuple(0 if isinstance(step, int) else step for step in one.path) for base in bases for one in base.tried}
    untold = [path_text(path) for path in fields_below(kind, ("spec",)) if path not in tried]
    assert not untold, "fields without a probe: give field_values.py a level, or a value"


WALKED = frozenset({
    "predictor", "model", "parallelism", "template", "spec", "containers", "leaderWorkerTemplate", "workerTemplate",
    "trainer", "replicatedJobs", "runPolicy", "elasticPolicy",
})  # fmt: skip
"""Fields whose own fields readers and renderers know one by one."""


def fields_below(kind: str, path: Path) -> Iterator[Path]:
    table = table_of(kind)
    for name, index in fields_at(table, kind, path).items():
        below: Path = (*path, name)
        if name == "pytorchReplicaSpecs":
            yield from fields_below(kind, (*below, "Worker"))
        elif name in WALKED and isinstance(table.types[index], dict) and {"object", "list"} & set(table.types[index]):
            yield from fields_below(kind, (*below, 0) if name in ("containers", "replicatedJobs") else below)
        else:
            yield below


def test_where_ironloom_makes_the_objects_the_manifest_comes_back_to_the_letter() -> None:
    for base in BASES:
        serving = parse_object(base.manifest)
        again = back(rendered(serving, Ground.PLAIN))
        for name in ("manifest", "annotations", "labels"):
            assert getattr(again, name) == getattr(serving, name)


def test_the_second_time_around_changes_nothing() -> None:
    for base in BASES:
        serving = parse_object(base.manifest)
        for ground in grounds_of(serving):
            once = rendered(serving, ground)
            assert rendered(back(once), ground) == once


def test_an_annotation_that_is_no_manifest_leaves_the_object_what_it_is() -> None:
    base = next(base for base in BASES if base.title == "Deployment")
    for text in ("{", "[]", "3"):
        manifest = {**base.manifest, "metadata": {"name": "a", "annotations": {"ironloom.dev/manifest": text}}}
        with pytest.raises(ManifestError, match=r"there is no annotation 'ironloom.dev/manifest'"):
            to_workloads(read_text(dump_yaml(manifest)))


def test_the_reference_says_of_every_field_what_each_ground_does() -> None:
    for base in BASES:
        for one in found(base):
            assert all(one.cells), one.field
    for base in TRAINING_BASES:
        for one in found_of_run(base):
            assert all(one.cells), one.field


def test_a_field_that_is_new_in_a_table_is_tried_with_a_value_of_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    base = next(base for base in BASES if base.title == "Deployment")
    table = table_of(base.kind)
    spec = table.types[table.kinds[base.kind]]["object"]["spec"]
    made = msgspec.structs.replace(table, types=[*table.types, {"list": 0}, {"object": {"inner": len(table.types)}}])
    made.types[spec] = {**made.types[spec], "object": {**made.types[spec]["object"], "novel": len(made.types) - 1}}
    monkeypatch.setattr(field_values, "table_of", lambda _kind: made)
    again = replace(base)
    [probe] = [one for one in again.tried if one.path == ("spec", "novel")]
    assert list(probe.value) == ["inner"]
